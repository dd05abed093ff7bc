"""`trtkit infer` with several tails: what they share is computed once, and each row names its tail."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys

import pytest

import trtkit as package
from tests.small import BUNDLE, TAILS, write_files
from tests.stage_runs import rows_by_stage
from trtkit import TrtkitError
from trtkit.cli.predictions import follow
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.runtime.pipeline import choose_tails
from trtkit.runtime.results import Result
from trtkit.serialization import write_json

FROM = ("--bundle", BUNDLE)
CACHE = ("--cache", "always")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    write_files(folder)
    (folder / "2x.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def rows_run(monkeypatch):
    return rows_by_stage(monkeypatch)


def lines_of(trtkit, photos, *arguments, form="jsonl"):
    ended = trtkit(
        "infer", photos, *FROM, "--format", form, "--no-cache", "--batch", "4", *arguments
    )
    assert ended.code == 1, "one photo is broken"
    return ended.out.splitlines()


def interleaved(alone):
    """The lines of each tail alone in the order of one pass: photo by photo, tail by tail."""
    return [line for of_photo in zip(*alone, strict=True) for line in of_photo]


BOTH = [("--tail", "all"), ("--tail", "resnet18", "--tail", "resnet34")]


@pytest.mark.parametrize("chosen", BOTH)
def test_jsonl(trtkit, photos, chosen):
    alone = [lines_of(trtkit, photos, "--tail", tail) for tail in TAILS]
    assert lines_of(trtkit, photos, *chosen) == interleaved(alone)
    rows = [json.loads(line) for line in interleaved(alone)]
    assert len(rows) == 22
    assert [row["tail"] for row in rows] == [*TAILS] * 11
    assert [row["path"] for row in rows[::2]] == [row["path"] for row in rows[1::2]]
    failed = [row for row in rows if "error" in row]
    assert [(row["path"], row["tail"]) for row in failed] == [
        (str(photos / "2x.png"), tail) for tail in TAILS
    ]
    good = [row for row in rows if "error" not in row]
    assert good[0]["predictions"] != good[1]["predictions"]


@pytest.mark.parametrize("chosen", BOTH)
def test_csv(trtkit, photos, chosen):
    def rows_of(*arguments):
        text = "\n".join(lines_of(trtkit, photos, "--top", "1", *arguments, form="csv"))
        return list(csv.DictReader(io.StringIO(text)))

    alone = [rows_of("--tail", tail) for tail in TAILS]
    rows = rows_of(*chosen)
    assert rows == interleaved(alone)
    assert [row["tail"] for row in rows] == [*TAILS] * 11


@pytest.mark.parametrize("chosen", BOTH)
def test_table(trtkit, photos, chosen):
    alone = [lines_of(trtkit, photos, "--tail", tail, form="table") for tail in TAILS]
    named = [
        [line.replace("\t", f"\t{tail}\t", 1) for line in lines]
        for tail, lines in zip(TAILS, alone, strict=True)
    ]
    lines = lines_of(trtkit, photos, *chosen, form="table")
    assert lines == interleaved(named)
    path, tail, best, *_ = lines[0].split("\t")
    assert (path, tail) == (str(photos / "0.png"), "resnet18")
    assert best.strip().endswith(("ant", "bee", "cat"))
    # One tail: no name of it, as ever.
    assert alone[0][0].split("\t")[1].strip().endswith(("ant", "bee", "cat"))


def test_their_order_is_that_of_the_command_line_and_none_comes_twice(trtkit, photos):
    again = ("--tail", "resnet34", "--tail", "resnet18", "--tail", "resnet34")
    rows = [json.loads(line) for line in lines_of(trtkit, photos, *again)]
    assert [row["tail"] for row in rows] == ["resnet34", "resnet18"] * 11


def test_what_they_share_runs_once_a_batch(trtkit, photos, rows_run):
    lines_of(trtkit, photos, "--tail", "all")
    # The broken photo is in the first batch of four.
    assert rows_run.pop("prefix") == [3, 4, 3]
    assert rows_run == {
        name: [3, 4, 3] for name in ("resnet18-body", "resnet18", "resnet34-body", "resnet34")
    }


def test_the_cache_serves_all_of_them(trtkit, photos, rows_run):
    (photos / "2x.png").unlink()
    cold = trtkit("infer", photos, *FROM, *CACHE, "--tail", "resnet34", "--format", "jsonl")
    rows_run.clear()
    warm = trtkit("infer", photos, *FROM, *CACHE, "--tail", "all", "--format", "jsonl")
    assert "prefix" not in rows_run
    assert sum(rows_run["resnet18"]) == sum(rows_run["resnet34"]) == 10
    ours = [line for line in warm.out.splitlines() if json.loads(line)["tail"] == "resnet34"]
    # The cache holds fp16, so that the last digits differ.
    for line, wanted in zip(ours, cold.out.splitlines(), strict=True):
        for best, other in zip(
            json.loads(line)["predictions"], json.loads(wanted)["predictions"], strict=True
        ):
            assert best["score"] == pytest.approx(other["score"], abs=2e-3)
    assert "10 photos in" in warm.err
    assert "cache: 10 hits, 0 misses." in warm.err


def test_stats_and_messages_name_them(trtkit, photos, tmp_path):
    stats = tmp_path / "stats.json"
    ended = trtkit("infer", photos, *FROM, "--tail", "all", "--stats", stats, *CACHE)
    value = json.loads(stats.read_text())
    assert value["tail"] == "resnet18,resnet34"
    assert (value["images"], value["failed"]) == (11, 1)
    assert (value["cache"]["hits"], value["cache"]["misses"]) == (0, 10)
    messages = ended.err.splitlines()
    assert [line for line in messages if "2x.png" in line] == [
        f"{photos / '2x.png'}: {json.loads(lines_of(trtkit, photos)[3])['error']}"
    ], "a photo that failed is named once"
    for tail in TAILS:
        assert f"The weights of {tail} are random: its labels mean nothing." in messages
    ended = trtkit("infer", photos, *FROM)
    assert "Using resnet18 of the bundle format1." in ended.err


@pytest.mark.parametrize(
    "chosen",
    [
        ("--tail", "resnet18", "--tail", "nope"),
        ("--tail", "nope", "--tail", "resnet18"),
        ("--tail", "all", "--tail", "nope"),
        ("--tail", "nope"),
    ],
)
def test_an_unknown_tail_among_several(trtkit, photos, tmp_path, rows_run, chosen):
    output = tmp_path / "out.jsonl"
    ended = trtkit("infer", photos, *FROM, *chosen, "--output", output)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err == (
        "Error: Tail `nope` not found in bundle format1; available: resnet18, resnet34.\n"
    )
    assert not output.exists()
    assert rows_run == {}


def test_models_that_share_nothing(trtkit, photos, make_workspace, rows_run):
    place = make_workspace("resnet18", "other")
    package.build(["resnet18", "other"], cut=0, bundle_name="whole", workspace=place.root)
    arguments = ("infer", photos, "--workspace", place.root, "--format", "jsonl", "--batch", "4")
    alone = [trtkit(*arguments, "--tail", tail).out.splitlines() for tail in ("resnet18", "other")]
    rows_run.clear()
    ended = trtkit(*arguments, "--tail", "all", *CACHE)
    assert ended.out.splitlines() == interleaved(alone)
    assert rows_run == {"resnet18": [3, 4, 3], "other": [3, 4, 3]}
    assert "is not split: there is nothing to cache." in ended.err


def test_models_on_two_prefixes_use_no_cache_together(trtkit, photos, tmp_path, rows_run):
    folder = tmp_path / "two"
    shutil.copytree(BUNDLE, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    prefix, *tails = manifest["stages"]
    (body,) = [stage for stage in tails if stage["name"] == "resnet34-body"]
    body["parent"] = "second"
    manifest["stages"] = [prefix, {**prefix, "name": "second"}, *tails]
    write_json(folder / "bundle.json", manifest)
    arguments = ("infer", photos, "--bundle", folder, "--format", "jsonl")
    alone = [trtkit(*arguments, "--no-cache", "--tail", tail).out.splitlines() for tail in TAILS]
    rows_run.clear()
    ended = trtkit(*arguments, *CACHE, "--tail", "all")
    assert ended.out.splitlines() == interleaved(alone)
    assert sum(rows_run["prefix"]) == sum(rows_run["second"]) == 10
    assert "cache off." in ended.err


def test_a_photo_counts_once_in_the_progress(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    counted = []
    monkeypatch.setattr(sys, "stderr", Terminal())
    from rich.progress import Progress

    update = Progress.update

    def counting(self, task, **changes):
        counted.append(changes.get("advance"))
        update(self, task, **changes)

    monkeypatch.setattr(Progress, "update", counting)
    results = [Result(path, tail=tail) for path in "abc" for tail in TAILS]
    follow(iter(results), "table", None, tails=2)
    assert counted == [1, 1, 1]
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_names_from_python():
    with package.load(BUNDLE, tail=["resnet34"]) as pipeline:
        manifest = pipeline.manifest
        assert [tail.name for tail in pipeline.tails] == ["resnet34"]
    for names, wanted in (
        (None, ["resnet18"]),
        ([], ["resnet18"]),
        ("resnet34", ["resnet34"]),
        ("all", ["resnet18", "resnet34"]),
        (["all", "resnet34"], ["resnet18", "resnet34"]),
        (("resnet34", "resnet18", "resnet34"), ["resnet34", "resnet18"]),
    ):
        assert [tail.name for tail in choose_tails(manifest, names)] == wanted
    with pytest.raises(TrtkitError, match="^Tail `all-of-them` not found in bundle format1; "):
        choose_tails(manifest, "all-of-them")


@pytest.mark.parametrize(("tail", "loaded"), [("resnet34", 3), ("all", 5)])
def test_each_engine_is_loaded_once(monkeypatch, tail, loaded):
    files = []
    load = OnnxRuntimeBackend.load

    def counting(self, path, *arguments):
        files.append(path.name)
        return load(self, path, *arguments)

    monkeypatch.setattr(OnnxRuntimeBackend, "load", counting)
    package.load(BUNDLE, tail=tail).close()
    assert len(set(files)) == len(files) == loaded


def test_a_call_gives_a_list_for_each_picture(photos):
    with package.load(BUNDLE, tail="all") as pipeline:
        one = pipeline(photos / "0.png")
        assert [result.tail for result in one] == [*TAILS]
        assert [result.path for result in one] == [str(photos / "0.png")] * 2
        several = pipeline([photos / "0.png", photos / "2x.png"])
        assert several[0] == one
        assert [(result.tail, result.error is None) for result in several[1]] == [
            (tail, False) for tail in TAILS
        ]
        flat = list(pipeline.stream([photos / "0.png", photos / "2x.png"]))
        assert flat == [*several[0], *several[1]]
    for tail, result in zip(TAILS, one, strict=True):
        with package.load(BUNDLE, tail=tail) as alone:
            assert alone(photos / "0.png").predictions == result.predictions
