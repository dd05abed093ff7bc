"""trtkit bench as people type it."""

from __future__ import annotations

import json

import pytest

from trtkit.api import bench as api
from trtkit.benchmark.protocol import ProtocolSettings
from trtkit.benchmark.results import BenchReport, Contest, Figure
from trtkit.benchmark.statistics import Interval, Summary
from trtkit.serialization import to_plain


def report(stopped: str) -> BenchReport:
    seconds = Summary.of([0.4, 0.5, 0.6])
    figures = (
        Figure("torch", 8.0, seconds, None, 1.0, "contiguous"),
        Figure("fast", 80.0, seconds, Interval(9.5, 10.0, 10.5), 0.5),
        Figure("openvino", problem="openvino is not installed; pip install openvino"),
    )
    held = Contest(
        bundle="b", tail="t", measure="compute", batch=2, photos=4, baseline="torch", rounds=3,
        stopped=stopped, figures=figures,
    )  # fmt: skip
    return BenchReport(
        created="now",
        command="trtkit bench",
        machine={"processor": "a CPU"},
        threads=2,
        settings=to_plain(ProtocolSettings()),
        notes=("few photos",),
        contests=(held,),
    )


@pytest.fixture
def arguments(monkeypatch):
    """The arguments of the call; set `stopped` to have the report say that it was interrupted."""
    call: dict = {"stopped": "narrow enough"}

    def bench(photos, **options):
        call.update(options, photos=photos)
        return report(call["stopped"])

    monkeypatch.setattr(api, "bench", bench)
    return call


def test_the_table(trtkit, arguments):
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
    assert arguments["photos"] == ["photos"] and arguments["batches"] == [2]
    assert arguments["measures"] == ["end to end"] and arguments["quick"] is True


def test_interrupted_it_prints_what_there_is(trtkit, arguments):
    arguments["stopped"] = "interrupted"
    ended = trtkit("bench", "photos", "--json")
    assert ended.code == 130
    assert json.loads(ended.out)["contests"][0]["figures"][0]["images_per_second"] == 8.0
    assert ended.err.splitlines()[-1].startswith("Interrupted: ")


def test_without_a_bundle(trtkit, tmp_path):
    ended = trtkit("bench", "photos", "--workspace", tmp_path)
    assert ended.code == 2 and ended.err.startswith("Error: There is no bundle in ")
