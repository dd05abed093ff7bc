"""The page of a bench report, read by a parser as a browser would, and the rows of its tables."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.bench_reports import contest, figure, report, typed, usual
from trtkit import TrtkitError
from trtkit.benchmark.report import COLUMNS, cells, write_report
from trtkit.benchmark.results import read_report
from trtkit.extras import Package

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Tables, all text outside pictures, elements and attributes; every element has to be closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[str]]] = []
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.bad: list[str] = []
        self._bad = False
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self._bad = ("class", "bad") in attrs

    def handle_startendtag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "svg" in self.open:
            return
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
            if self._bad:
                self.bad.append(data)
        if "style" not in self.open:
            self.text += data


def page(tmp_path: Path, made: dict[str, Any]) -> Page:
    path, saved = tmp_path / "new" / "bench.html", tmp_path / "bench.json"
    saved.write_text(json.dumps(made))
    write_report(read_report(saved).report, path)
    assert [file.name for file in path.parent.iterdir()] == ["bench.html"]
    return Page(path.read_text(encoding="utf-8"))


def test_every_figure_is_in_a_table(tmp_path):
    made = usual()
    tables = page(tmp_path, made).tables
    ordered = [typed(made).contests[place] for place in (0, 2, 1, 3)]
    for held, table in zip(ordered, tables, strict=False):
        assert table[0] == list(COLUMNS)
        assert table[1:] == [list(cells(held, bar)) for bar in held.figures]
    # 32 photos at 201 images/s: the numbers themselves, once.
    assert tables[0][1] == [
        "torch", "201.0", "4.98", "5.24", "7.86", "baseline", "100.0%", "channels-last",
    ]  # fmt: skip
    assert tables[0][2] == [
        "openvino", *[""] * 6, "openvino is not installed; pip install openvino",
    ]  # fmt: skip
    assert tables[0][3][5] == "1.500 (1.485 to 1.515)"


def test_machine_command_settings_notes_and_words(tmp_path):
    found = page(tmp_path, usual())
    machine = dict(tuple(row) for row in found.tables[-2])
    assert machine["processor"] == "AMD EPYC <7B13>" and machine["cores"] == "2"
    assert machine["memory"] == "8.0 GiB" and machine["GPUs"] == "none"
    assert machine["backends"] == "onnxruntime 1.23.0" and machine["packages"] == "torch 2.9.1"
    assert ["least rounds", "7"] in found.tables[-1]
    for text in (
        "trtkit bench 'my photos' --json", "2026-11-21T13:19:56+00:00",
        "There are 3 photos & no more.", "trtkit bench: flowers", "What the words mean",
        "95% interval", "cache off, cold, warm", "32 photos a round, 20 rounds, narrow enough",
    ):  # fmt: skip
        assert text in found.text


def test_gpus_and_keys_of_later_versions(tmp_path):
    made = usual()
    made["machine"]["gpus"] = [
        {
            "name": "NVIDIA H200",
            "compute_capability": "9.0",
            "driver": "580.1",
            "memory_mib": 143771,
        }
    ]
    made["machine"].update(power_limit="700 W", something={"deep": 1})
    made["clocks"] = {"sm": 1980}
    made["warnings"] = ["The clocks were not fixed."]
    found = page(tmp_path, made)
    machine = dict(tuple(row) for row in found.tables[-2])
    assert machine["GPUs"].startswith("NVIDIA H200; compute capability 9.0; driver 580.1")
    assert machine["power limit"] == "700 W" and "something" not in machine
    assert "The clocks were not fixed." in found.text


def test_a_picture_for_each_kind_of_figure(tmp_path):
    found = page(tmp_path, usual())
    assert found.elements.count("svg") == found.elements.count("figure") == 2
    ids = [value for name, value in found.attributes if name == "id"]
    assert ids and len(ids) == len(set(ids))


def test_the_page_needs_nothing_beside_it(tmp_path):
    found = page(tmp_path, usual())
    html = (tmp_path / "new" / "bench.html").read_text()
    assert "http" not in html and "<script" not in html and "@import" not in html
    assert not {"link", "script", "iframe", "img", "object", "embed"} & set(found.elements)
    for name, value in found.attributes:
        assert name != "src" and not name.startswith("on")
        assert "href" not in name or (value or "").startswith("#")
    assert "prefers-color-scheme: dark" in html


def test_what_is_wrong_or_missing_stands_out(tmp_path):
    bad = page(tmp_path, usual()).bad
    assert len(bad) == 5 and sum("openvino is not installed" in text for text in bad) == 4
    assert sum(text.startswith("WRONG: other best classes") for text in bad) == 1


def test_everything_is_escaped(tmp_path):
    evil = "<script>alert('1')</script>\"&"
    hostile = contest(
        figure(evil, 10.0, note=evil), figure(f"{evil}2", problem=evil), baseline=evil, bundle=evil,
        tail=evil, measure=evil, stopped=evil,
    )  # fmt: skip
    made = report(hostile, created=evil, command=evil, notes=[evil])
    made["machine"] = {evil: evil, "gpus": [{"name": evil}], "processor": evil}
    made["machine"]["backends"] = [{"name": evil, "version": evil}]
    made["machine"]["features"] = [{"packages": {evil: evil}}]
    made["settings"] = {evil: evil}
    found = page(tmp_path, made)
    assert "script" not in found.elements
    assert found.text.count(evil) > 10
    assert {name for name, _ in found.attributes if name.startswith("on")} == set()


def test_an_interrupted_one_says_so(tmp_path):
    made = usual()
    assert "interrupted" not in page(tmp_path, made).text
    # While the next contest was loaded, or in one.
    assert "was interrupted" in page(tmp_path, {**made, "interrupted": True}).text
    made["contests"][0]["stopped"] = "interrupted"
    assert "The measuring was interrupted" in page(tmp_path, made).text


def test_an_old_report_of_the_least_there_can_be(tmp_path):
    least = copy.deepcopy(usual())
    for name in ("created", "command", "machine", "threads", "settings", "notes"):
        del least[name]
    for held in least["contests"]:
        del held["rounds"], held["stopped"]
        for each in held["figures"]:
            each.pop("note", None)
    assert "Measured at an unknown time." in page(tmp_path, least).text
    assert "svg" not in page(tmp_path, report()).elements


def test_without_matplotlib_the_tables_are_still_there(tmp_path, monkeypatch):
    monkeypatch.setattr(Package, "installed", property(lambda package: False))
    found = page(tmp_path, usual())
    assert "svg" not in found.elements and len(found.tables) == 6
    assert "There are no pictures, because matplotlib is not installed" in found.text


def test_names_that_are_no_text_and_nothing_measured(tmp_path):
    found = page(tmp_path, report(contest(figure("\udcff", problem="\ud800"))))
    assert "svg" not in found.elements
    assert found.tables[0][1] == ["?", *[""] * 6, "?"]


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(TrtkitError, match=r"bench\.pdf; give a name that ends in \.html, \.htm"):
        write_report(typed(usual()), tmp_path / "bench.pdf")
