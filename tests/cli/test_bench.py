"""trtkit bench as people type it."""

from __future__ import annotations

import json

import pytest

from trtkit.api import bench as api
from trtkit.benchmark.contest import Contest, Figure
from trtkit.benchmark.protocol import ProtocolSettings
from trtkit.benchmark.statistics import Interval, Summary


def report(stopped: str) -> api.BenchReport:
    seconds = Summary.of([0.4, 0.5, 0.6])
    figures = (
        Figure("torch", 8.0, seconds, None, 1.0, "contiguous"),
        Figure("fast", 80.0, seconds, Interval(9.5, 10.0, 10.5), 0.5),
        Figure("openvino", problem="openvino is not installed; pip install openvino"),
    )
    held = Contest("b", "t", "compute", 2, 4, "torch", 3, stopped, figures)
    return api.BenchReport(
        "now",
        "trtkit bench",
        {"processor": "a CPU"},
        2,
        ProtocolSettings(),
        ("few photos",),
        (held,),
    )


@pytest.fixture
def asked(monkeypatch):
    """What the command line asked for; the report says that it was interrupted if told so."""
    seen: dict = {"stopped": "narrow enough"}

    def bench(photos, **options):
        seen.update(options, photos=photos)
        return report(seen["stopped"])

    monkeypatch.setattr(api, "bench", bench)
    return seen


def test_the_table(trtkit, asked):
    ended = trtkit("bench", "photos", "--batch", "2", "--measure", "end-to-end", "--quick")
    assert ended.code == 0
    rows = [line.split("\t") for line in ended.out.splitlines()]
    assert rows[1][4:] == [
        "torch", "8.0", "125.00", "145.00", "149.50", "baseline", "100.0%", "contiguous",
    ]  # fmt: skip
    assert rows[2][9:] == [
        "10.000 (9.500 to 10.500)", "50.0%", "WRONG: other best classes than the reference. ",
    ]  # fmt: skip
    assert rows[3][-1] == "openvino is not installed; pip install openvino"
    assert ended.err.splitlines()[:2] == ["few photos", "2 threads each, on a CPU."]
    assert asked["photos"] == ["photos"] and asked["batches"] == [2]
    assert asked["measures"] == ["end to end"] and asked["quick"] is True


def test_interrupted_it_prints_what_there_is(trtkit, asked):
    asked["stopped"] = "interrupted"
    ended = trtkit("bench", "photos", "--json")
    assert ended.code == 130
    assert json.loads(ended.out)["contests"][0]["figures"][0]["images_per_second"] == 8.0
    assert ended.err.splitlines()[-1].startswith("Interrupted: ")


def test_without_a_bundle(trtkit, tmp_path):
    ended = trtkit("bench", "photos", "--workspace", tmp_path)
    assert ended.code == 2 and ended.err.startswith("Error: There is no bundle in ")
