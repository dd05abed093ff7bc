"""Outputs of a bench report: checked before anything is measured, made after."""

from __future__ import annotations

import json

import pytest

from tests.bench_reports import OWN, contest, figure, report, typed, usual
from trtkit import TrtkitError
from trtkit.benchmark.outputs import Outputs, saved_report
from trtkit.benchmark.protocol import ProtocolSettings
from trtkit.benchmark.results import BenchReport, Contest, Figure
from trtkit.benchmark.statistics import Interval, Summary
from trtkit.serialization import to_plain


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(report(contest(figure("torch", 200.0), figure(OWN, 300.0, 1.5)))))
    return path


def test_nothing_asked_for_is_nothing_made(tmp_path):
    outputs = Outputs.check()
    made = typed(usual())
    assert outputs.write(made) == () and outputs.compared(made) is None
    assert list(tmp_path.iterdir()) == []


def test_checking_writes_nothing_and_writing_writes_both(tmp_path):
    plot, page = tmp_path / "new" / "a.png", tmp_path / "new" / "b.html"
    outputs = Outputs.check(plot=str(plot), report=page)
    assert list((tmp_path / "new").iterdir()) == []
    assert outputs.write(typed(usual())) == (plot, page)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_a_file_that_is_there_stays_until_the_new_one_is_whole(tmp_path):
    page = tmp_path / "b.html"
    page.write_text("the old one")
    Outputs.check(report=page)
    assert page.read_text() == "the old one"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"plot": "a.bmp"}, "a.bmp; give a name that ends in .png, .pdf, .svg."),
        ({"report": "a.png"}, "a.png; give a name that ends in .html, .htm"),
        ({"plot": "folder.png"}, "folder.png is a folder; name a file in it."),
        ({"report": "folder.html"}, "folder.html is a folder; name a file in it."),
        ({"plot": "old.json/a.png"}, "old.json/a.png cannot be written ("),
        ({"report": "old.json/a.html"}, "old.json/a.html cannot be written ("),
        ({"compare_with": "none.json"}, "none.json cannot be read (No such file or directory)"),
        ({"compare_with": "folder.png"}, "folder.png cannot be read (Is a directory)"),
    ],
)
def test_what_cannot_be_made_is_said_before(tmp_path, old, options, sentence):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(TrtkitError) as caught:
        Outputs.check(**{name: tmp_path / file for name, file in options.items()})
    assert sentence in str(caught.value)


def test_the_comparison(old):
    outputs = Outputs.check(compare_with=old)
    now = typed(report(contest(figure("torch", 200.0), figure(OWN, 200.0, 1.0)), threads=4))
    compared = outputs.compared(now)
    assert compared is not None and compared.slower and compared.old == str(old)
    plain = json.loads(json.dumps(to_plain(compared)))
    assert [*plain] == ["old", "warnings", "changes", "slower"]
    assert [change["verdict"] for change in plain["changes"]] == ["same", "slower"]
    assert plain["slower"] is True and "threads: 2 then, 4 now" in plain["warnings"][0]
    # The older one was read when it was checked: the new one may take its place.
    old.unlink()
    as_then = typed(report(contest(figure("torch", 200.0), figure(OWN, 300.0, 1.5))))
    again = outputs.compared(as_then)
    assert again is not None and not again.slower


def test_a_stored_report_goes_with_no_measuring(old):
    saved = saved_report(old, {"photos": None, "--quick": False})
    assert saved.plain == json.loads(old.read_text())
    with pytest.raises(TrtkitError) as caught:
        saved_report(old, {"photos": ["a"], "--tail": [], "--batch": [1]})
    assert str(caught.value) == (
        f"`--from {old}` measures nothing, so photos, --batch cannot be combined with it; leave one of "
        "the two out."
    )


def test_what_bench_returns_is_what_is_read_back(tmp_path):
    """The report as it is in memory and as it was written: drawn, written and compared alike."""
    figures = (
        Figure("torch", 8.0, Summary.of([0.4, 0.5, 0.6, 0.5]), None, 1.0),
        Figure("trtkit", 16.0, Summary.of([0.2, 0.25, 0.3, 0.25]), Interval(1.9, 2.0, 2.1), None),
        Figure("openvino", problem="openvino is not installed"),
    )
    held = Contest(
        bundle="b", tail="t", measure="compute", batch=2, photos=4, baseline="torch", rounds=4,
        stopped="out of time", figures=figures,
    )  # fmt: skip
    made = BenchReport(
        created="now",
        command="trtkit bench",
        machine={"gpus": [], "memory_bytes": None},
        threads=2,
        settings=to_plain(ProtocolSettings()),
        notes=("a note",),
        contests=(held,),
    )
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(to_plain(made)))
    saved = saved_report(path, {}).report
    assert saved == made
    pages = []
    for number, version in enumerate((made, saved)):
        outputs = Outputs.check(report=tmp_path / f"{number}.html", compare_with=path)
        compared = outputs.compared(version)
        assert compared is not None and compared.warnings == () and not compared.slower
        assert [change.verdict for change in compared.changes] == ["same", "same"]
        pages.append(outputs.write(version)[0].read_text())
    assert pages[0] == pages[1]
