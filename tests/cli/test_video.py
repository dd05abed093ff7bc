"""trtkit ingest, query, tune and store as people type them."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
import re
from pathlib import Path

import pytest

import trtkit as package
from scripts.footage import render_clip
from trtkit.cli.ingest import ingest
from trtkit.video.footage.database import Database
from trtkit.video.options import IngestOptions


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, exports) -> Path:
    """One with a bundle that hands out embeddings, and a clip `gate.mp4`."""
    root = tmp_path_factory.mktemp("video")
    (root / "export").symlink_to(exports)
    package.build(
        ["resnet18", "resnet34"], cut=2, precision="fp16", embeddings=True, workspace=root
    )
    render_clip(root / "gate.mp4", seconds=12.0, size=(480, 360), fps=5.0, density=0.8, seed=3)
    return root


@pytest.fixture
def in_workspace(workspace, monkeypatch) -> Path:
    monkeypatch.chdir(workspace)
    return workspace


INGEST = (
    "ingest",
    "gate.mp4",
    "--segment",
    "2",
    "--min-size",
    "12",
    "--top",
    "1000",
)


def test_from_a_clip_to_its_appearances(trtkit, in_workspace, tmp_path):
    store = tmp_path / "store"
    said = trtkit(*INGEST, "--store", store, "--json")
    assert said.code == 0, said.err
    report = json.loads(said.out)["sources"][0]
    assert report["camera"] == "gate"
    assert report["frames"] == 60
    assert report["objects"] > 3
    assert f"gate: {report['objects']} objects on" in said.err
    again = trtkit(*INGEST, "--store", store)
    assert again.code == 0
    assert "gate: was ingested before." in again.err

    export = trtkit("store", "export", tmp_path / "all.parquet", "--store", store)
    assert f"{report['objects']} objects in" in export.err
    said = trtkit(
        "query", "class 0", "--store", store, "--explain", "--gallery", tmp_path / "g.html"
    )
    assert said.code == 0
    assert said.out.splitlines()[0].split("\t")[:3] == ["camera", "start", "end"]
    assert f"among {report['objects']} candidate objects" in said.err
    assert "verdicts remembered" in said.err
    assert (tmp_path / "g.html").read_text().startswith("<!doctype html>")
    # Whatever the classes are, every object is of one of them.
    import pyarrow.parquet

    labels = set(pyarrow.parquet.read_table(tmp_path / "all.parquet")["classes"].to_pylist()[0])
    assert len(labels) == 1000
    found = set()
    for label in sorted(verdicts(trtkit, store, tmp_path)):
        lines = trtkit("query", label, "--store", store, "--format", "jsonl").out.splitlines()
        answers = [json.loads(line) for line in lines]
        table = trtkit("query", label, "--store", store, "--format", "csv").out
        header, *rows = csv.reader(io.StringIO(table))
        assert len(rows) == len(answers) and header[-2:] == ["path", "source"]
        assert {row[-1] for row in rows} == {str(in_workspace / "gate.mp4")}
        for answer in answers:
            assert answer["camera"] == "gate"
            assert answer["class"] == label
            assert answer["start"] <= answer["end"] <= 12.0
            assert len(answer["frames"]) == len(answer["boxes"])
            found.update(answer["objects"])
    assert len(found) == report["objects"]

    info = trtkit("store", "info", "--store", store, "--json")
    source = json.loads(info.out)["sources"][0]
    assert source["objects"] == report["objects"]
    assert trtkit("store", "verify", "--store", store).code == 0
    assert trtkit("store", "compact", "--store", store).code == 0


def verdicts(trtkit, store: Path, folder: Path) -> set[str]:
    """The classes that the expensive model gave, once it was asked about everything."""
    import pyarrow.parquet

    trtkit("store", "export", folder / "said.parquet", "--store", store)
    table = pyarrow.parquet.read_table(folder / "said.parquet")
    asked = [label for label in table["class"].to_pylist() if label is not None]
    assert asked
    return set(asked)


def test_answers_have_the_time_of_the_camera(trtkit, in_workspace, tmp_path):
    store = tmp_path / "store"
    trtkit(*INGEST, "--store", store)
    with Database.open(store) as database, database.transaction() as sql:
        # 1:30 in Berlin.
        sql.execute("UPDATE sources SET start_us = 1772325000000000")
    trtkit("query", "class 0", "--store", store)
    label = min(verdicts(trtkit, store, tmp_path))
    ask = ("query", label, "--store", store, "--format", "jsonl")
    for zone, begun in (
        (None, "2026-03-01T00:30:0"), ("Europe/Berlin", "2026-03-01T01:30:0"),
        ("-05:00", "2026-02-28T19:30:0"),
    ):  # fmt: skip
        if zone:
            assert trtkit(*INGEST, "--store", store, "--zone", zone).code == 0
        answers = [json.loads(line) for line in trtkit(*ask).out.splitlines()]
        assert answers and all(
            answer[key].startswith(begun[:-1])
            and answer[key].endswith({None: "+00:00", "Europe/Berlin": "+01:00"}.get(zone, zone))
            for answer in answers
            for key in ("start_time", "end_time")
        )
    # The hour before the footage, in that zone.
    none = trtkit(*ask, "--from", "2026-02-28T18:30", "--to", "2026-02-28T19:29:59")
    assert none.out == "" and "no time zone" not in none.err
    assert trtkit(*ask, "--from", "2026-02-28T19:30").out.splitlines()


def test_what_cannot_be_remembered_is_answered_all_the_same(
    trtkit, in_workspace, tmp_path, monkeypatch
):
    store = tmp_path / "store"
    trtkit(*INGEST, "--store", store)
    # To root every file is writable.
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    for _ in range(2):
        said = trtkit("query", "class 0", "--store", store, "--explain")
        assert said.code == 0
        assert (
            f"Not all of this is remembered. The footage store in {store} can only be read"
            in said.err
        )
        assert "\n0 verdicts remembered" in said.err


def test_clips_of_answers_and_of_a_source_that_is_gone(trtkit, in_workspace, tmp_path):
    store, clips = tmp_path / "store", tmp_path / "clips"
    copy = tmp_path / "yard.mp4"
    copy.write_bytes((in_workspace / "gate.mp4").read_bytes())
    assert trtkit("ingest", copy, *INGEST[2:], "--store", store).code == 0
    trtkit("query", "class 0", "--store", store)
    label = sorted(verdicts(trtkit, store, tmp_path))[0]
    ask = ("query", label, "--store", store, "--clip", clips, "--limit", "2", "--format", "jsonl")
    said = trtkit(*ask)
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in said.out.splitlines()]
    names = sorted(path.name for path in clips.iterdir())
    assert len(names) == len(rows) > 0
    assert all(name.startswith("yard_0-00-0") for name in names)
    assert {name.split("_")[2] for name in names} == {f"{row['picture']}.mp4" for row in rows}
    page = tmp_path / "pages" / "g.html"
    page.parent.mkdir()
    assert trtkit(*ask, "--gallery", page).code == 0
    text = page.read_text()
    assert {f'href="../clips/{name}"' for name in names} == set(
        re.findall(r'href="\.\.[^"]*"', text)
    )
    assert text.count("<polyline") == text.count("<image") == len(rows)
    copy.unlink()
    again = trtkit(*ask, "--gallery", page)
    assert again.code == 1, "no clip could be cut"
    assert again.out == said.out
    text = page.read_text()
    assert (text.count("<polyline"), text.count("<image")) == (len(rows), 0)
    assert f"Paths are drawn without frames: {copy} is no longer there" in text
    assert 'href=".' not in text
    assert f"missing: {copy} is no longer there; put it back." in again.err
    none = trtkit(*ask, "--min-confidence", "1", "--from", "4.9")
    assert (none.code, none.out) == (0, "")
    (tmp_path / "file").write_text("")
    refused = trtkit(*ask[:5], tmp_path / "file")
    assert refused.code == 2
    assert "file is a file; --clip takes a folder" in refused.err
    refused = trtkit(*ask[:4], "--gap", "-1")
    assert refused.code == 2
    assert "--gap -1 is not a length of time; choose seconds from 0 on." in refused.err


def test_too_small_a_store_cannot_be_tuned(trtkit, in_workspace, tmp_path):
    trtkit(*INGEST, "--store", tmp_path / "s")
    said = trtkit("tune", "--store", tmp_path / "s")
    assert said.code == 2
    assert "need 598 objects to be proved" in said.err


def test_there_is_no_store(trtkit, tmp_path):
    said = trtkit("query", "cat", "--store", tmp_path / "none")
    assert said.code == 2
    assert said.err.startswith("Error: No footage store in")
    assert "trtkit ingest VIDEO --store" in said.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("ingest", "gat.mp4"), "gate.mp4"),
        (("ingest", "gate.mp4", "--clusters", "wide"), "--clusters 'wide' is not a distance"),
        (("ingest", "gate.mp4", "--pictures", "0"), "--pictures 0 is too small; choose 1 or more"),
        (("ingest", "gate.mp4", "--lost", "-1"), "--lost -1 is too small; choose 0 or more"),
        (("ingest", "gate.mp4", "--top", "0"), "--top 0 is too small; choose 1 or more"),
        (("ingest", "gate.mp4", "gate.mp4"), "named twice"),
        (("ingest", "gate.mp4", "--zone", "Europe/Berlyn"), "'Europe/Berlyn' is not a time zone"),
        (("query", "class 1", "--store", "nowhere"), "No footage store in nowhere"),
        (("tune", "--recall", "1.5", "--store", "nowhere"), "--recall 1.5 is out of range"),
        (("store", "info", "--store", "nowhere"), "No footage store in nowhere"),
    ],
)
def test_one_sentence_each(trtkit, in_workspace, arguments, sentence):
    said = trtkit(*arguments)
    assert said.code == 2
    assert sentence in said.err
    assert said.err.count("\n") == 1 + said.err.startswith("Indexing")


def test_the_defaults_are_those_of_the_options():
    usual = IngestOptions()
    given = {name: each.default for name, each in inspect.signature(ingest).parameters.items()}
    names = {
        "motion": "motion", "motion_width": "motion_width", "min_size": "min_size",
        "margin": "margin", "pictures": "pictures", "picture_side": "picture_side",
        "lost": "lost_seconds", "least": "least_seconds", "travel": "least_travel",
        "segment": "segment_seconds", "top": "top", "maps": "maps", "map_dtype": "map_dtype",
        "map_codec": "map_codec",
    }  # fmt: skip
    for option, field in names.items():
        default = given[option]
        assert getattr(default, "value", default) == getattr(usual, field), option
