"""trtkit bench --plot, --report, --compare and --from, as people type them; nothing is measured."""

from __future__ import annotations

import json

import pytest

from tests.bench_reports import OWN, contest, figure, report, usual
from trtkit.api import bench as api


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(report(contest(figure("torch", 200.0), figure(OWN, 300.0, 1.5)))))
    return path


@pytest.fixture
def slow(tmp_path):
    path = tmp_path / "slow.json"
    path.write_text(json.dumps(report(contest(figure("torch", 200.0), figure(OWN, 200.0, 1.0)))))
    return path


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    def bench(*arguments, **options):
        pytest.fail("Something was measured.")

    monkeypatch.setattr(api, "bench", bench)


def test_a_stored_report_is_printed_and_drawn(trtkit, tmp_path):
    stored = tmp_path / "usual.json"
    stored.write_text(json.dumps(usual()))
    plot, page = tmp_path / "bench.png", tmp_path / "bench.html"
    ended = trtkit("bench", "--from", stored, "--plot", plot, "--report", page)
    assert ended.code == 0 and len(ended.out.splitlines()) == 1 + 2 * (3 + 4)
    assert ended.err.splitlines() == [
        "There are 3 photos & no more.", "2 threads each, on AMD EPYC <7B13>.", f"Wrote {plot}.",
        f"Wrote {page}.",
    ]  # fmt: skip
    assert plot.stat().st_size > 10_000 and OWN in page.read_text()


def test_json_in_is_json_out(trtkit, tmp_path):
    stored = tmp_path / "usual.json"
    stored.write_text(json.dumps(usual()))
    ended = trtkit("bench", "--from", stored, "--json")
    assert ended.code == 0 and json.loads(ended.out) == usual()


def test_slower_is_a_table_and_exit_code_1(trtkit, old, slow):
    ended = trtkit("bench", "--from", slow, "--compare", old)
    assert ended.code == 1
    header, torch, own = (line.split("\t") for line in ended.out.splitlines()[3:])
    assert header[5:10] == ["unit", "old", "new", "change", "verdict"]
    assert torch[4:10] == ["torch", "images/s", "200", "200", "+0.0%", "same"]
    assert own == [
        "flowers", "resnet50", "compute", "8", OWN, "times the baseline", "1.5", "1", "-33.3%",
        "slower", "",
    ]  # fmt: skip
    assert trtkit("bench", "--from", old, "--compare", slow).code == 0
    assert trtkit("bench", "--from", old, "--compare", old).code == 0


def test_the_comparison_as_json(trtkit, old, slow):
    ended = trtkit("bench", "--from", slow, "--compare", old, "--json")
    assert ended.code == 1
    printed = json.loads(ended.out)
    compared = printed.pop("comparison")
    assert printed == json.loads(slow.read_text())
    assert compared["old"] == str(old) and compared["slower"] is True
    assert [change["verdict"] for change in compared["changes"]] == ["same", "slower"]


def test_another_machine_is_told(trtkit, old, slow):
    value = json.loads(slow.read_text())
    value["machine"]["processor"] = "Cortex-A78AE"
    slow.write_text(json.dumps(value))
    ended = trtkit("bench", "--from", slow, "--compare", old)
    assert ended.code == 1 and "The old report is of another machine (processor: AMD" in ended.err
    assert "\tunclear\t" in ended.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--plot", "a.bmp"],
            "A picture cannot be drawn to a.bmp; give a name that ends in .png, .pdf, .svg.",
        ),
        (["--report", "a.txt"], "a.txt; give a name that ends in .html, .htm"),
        (["--compare", "nothing.json"], "The report nothing.json cannot be read"),
        (["--from", "nothing.json"], "The report nothing.json cannot be read"),
        (
            ["--from", "x.json", "--quick"],
            "`--from x.json` measures nothing, so --quick cannot be combined with it; leave one of",
        ),
    ],
)
def test_a_bad_name_is_told_before_anything_is_measured(trtkit, options, sentence):
    ended = (
        trtkit("bench", "photos", *options)
        if "--from" not in options
        else trtkit("bench", *options)
    )
    assert ended.code == 2 and sentence in ended.err and ended.out == ""


def test_a_disk_that_is_full_does_not_cost_the_figures(trtkit, old, tmp_path, monkeypatch):
    from trtkit import TrtkitError

    def full(report, path):
        raise TrtkitError(f"{path} cannot be written.")

    monkeypatch.setattr("trtkit.benchmark.outputs.write_report", full)
    ended = trtkit("bench", "--from", old, "--report", tmp_path / "a.html")
    assert ended.code == 2 and "a.html cannot be written." in ended.err
    assert OWN in ended.out


def test_every_baseline_can_be_chosen():
    from trtkit.benchmark.kinds import BASELINES
    from trtkit.cli.bench import BaselineChoice

    assert [choice.value for choice in BaselineChoice] == list(BASELINES)
    assert BASELINES[0] == "torch" and "trtexec" in BASELINES and "trtkit" not in BASELINES
