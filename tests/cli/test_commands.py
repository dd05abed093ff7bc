"""The commands as people type them: what they print, where, and how they exit."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.pictures import write_photos
from trtkit.cli.main import run
from trtkit.serialization import write_json
from trtkit.workspace import Workspace


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, count=4, size=(90, 70))
    return folder


def test_version(trtkit):
    assert trtkit("--version").out == "trtkit 0.1.0\n"


def test_build_then_infer(trtkit, make_workspace, photos):
    place = make_workspace("resnet18", "resnet34")
    built = trtkit("build", "--cut", "2", "--fp16", "--workspace", place.root)
    assert built.code == 0
    assert "computes in fp32" in built.err
    rows = [line.split("\t") for line in built.out.splitlines()]
    assert rows[0][:3] == ["bundle", "stage", "after"]
    assert [row[1:3] for row in rows[1:]] == [
        ["prefix", "image"], ["resnet18", "prefix"], ["resnet34", "prefix"],
    ]  # fmt: skip
    again = trtkit("build", "--cut", "2", "--fp16", "--workspace", place.root, "--json")
    assert "is up to date" in again.err
    manifest = json.loads(again.out)
    assert manifest["up_to_date"] is True
    assert manifest["verified"]["tails"]["resnet34"]["agreement"] == 1.0

    arguments = ("infer", photos, "--top", "2", "--cache", "always", "--workspace", place.root)
    cold, warm = trtkit(*arguments), trtkit(*arguments)
    assert (cold.code, warm.code) == (0, 0)
    assert cold.out == warm.out
    assert len(cold.out.splitlines()) == 4
    assert "Using resnet18 of the bundle resnet18+resnet34-cut2-fp16" in cold.err
    assert "its labels mean nothing" in cold.err
    assert "0 failed; cache: 0 hits, 4 misses." in cold.err
    assert "0 failed; cache: 4 hits, 0 misses." in warm.err


@pytest.fixture
def workspace(built) -> Workspace:
    return Workspace(built)


def test_jsonl_and_stats(trtkit, workspace, photos, tmp_path):
    bad = tmp_path / "bäd \u2603.jpg"
    bad.write_bytes(b"none")
    stats = tmp_path / "stats.json"
    ended = trtkit(
        "infer", photos, bad, "--format", "jsonl", "--stats", stats, "--tail", "resnet34",
        "--workspace", workspace.root, "--top", "3", "--cache", "always",
    )  # fmt: skip
    assert ended.code == 1
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["path"] for line in lines] == [
        *(str(p) for p in sorted(photos.iterdir())),
        str(bad),
    ]
    for line in lines[:-1]:
        assert [p.keys() for p in line["predictions"]] == [{"index", "label", "score"}] * 3
        scores = [p["score"] for p in line["predictions"]]
        assert scores == sorted(scores, reverse=True)
    assert set(lines[-1]) == {"path", "tail", "error"}
    assert f"{bad}: {lines[-1]['error']}" in ended.err
    value = json.loads(stats.read_text())
    assert value.pop("seconds") > 0
    assert value == {
        "images": 5,
        "failed": 1,
        "cache": {
            "mode": "always",
            "hits": 0,
            "misses": 4,
            "evicted": 0,
            "dropped": 0,
            "gpu_hits": 0,
            "why": None,
        },
        "backend": "onnxruntime",
        "bundle": "resnet18+resnet34-cut2-fp16",
        "tail": "resnet34",
    }


@pytest.mark.parametrize(
    ("read", "counted", "said"),
    [
        (0.0, "cache: 0 hits, 4 misses.", "Cache used: with a feature map from memory a photo"),
        (
            1e6,
            "cache off.",
            "Cache not used: with a feature map from memory a photo takes 1e+09 ms,",
        ),
    ],
)
def test_what_auto_chose_is_said(trtkit, workspace, photos, tmp_path, read, counted, said):
    (built,) = workspace.bundles()
    bundle, stats = tmp_path / built.name, tmp_path / "stats.json"
    shutil.copytree(built, bundle)
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["costs"]["store"]["fp16"].update(read=read, read_cold=read)
    # Longer than the rounding of the sum, whatever this machine is doing.
    manifest["costs"]["prefix"] = 1.0
    write_json(bundle / "bundle.json", manifest)
    ended = trtkit("infer", photos, "--bundle", bundle, "--stats", stats, "--no-cache")
    assert "Cache" not in ended.err
    ended = trtkit("infer", photos, "--bundle", bundle, "--stats", stats)
    assert (ended.code, len(ended.out.splitlines())) == (0, 4)
    summary, why = ended.err.splitlines()[-2:]
    assert summary.endswith(counted)
    assert why.startswith(said)
    assert json.loads(stats.read_text())["cache"]["why"] == why


def test_csv_to_a_file_by_its_ending(trtkit, workspace, photos, tmp_path):
    output = tmp_path / "out.csv"
    ended = trtkit(
        "infer", photos, "--output", output, "--top", "2", "--no-cache",
        "--workspace", workspace.root,
    )  # fmt: skip
    assert (ended.code, ended.out) == (0, "")
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert [row["rank"] for row in rows] == ["1", "2"] * 4
    assert rows[0]["path"] == str(min(photos.iterdir()))
    assert 0 < float(rows[0]["score"]) < 1
    assert "cache off." in ended.err
    assert [path.name for path in tmp_path.glob("*.csv")] == ["out.csv"]
    assert not list(tmp_path.glob(".*"))


def test_output_to_a_device_leaves_the_device(trtkit, workspace, photos, tmp_path):
    pipe = tmp_path / "fifo"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    trtkit("infer", photos, "--output", pipe, "--format", "jsonl", "--workspace", workspace.root)
    assert len(os.read(reader, 1 << 16).splitlines()) == 4
    os.close(reader)
    assert pipe.is_fifo()


def test_output_through_a_link_keeps_the_link(trtkit, workspace, photos, tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real.jsonl")
    trtkit("infer", photos, "--output", link, "--workspace", workspace.root)
    assert link.is_symlink()
    assert len((tmp_path / "real.jsonl").read_text().splitlines()) == 4


def test_an_output_that_cannot_be_written(trtkit, workspace, photos, tmp_path):
    output = tmp_path / "missing" / "out.jsonl"
    ended = trtkit("infer", photos, "--output", output, "--workspace", workspace.root)
    assert ended.code == 2
    assert f"{output} cannot be written" in ended.err


def test_names_that_are_not_unicode(trtkit, workspace, photos, tmp_path):
    name = os.fsdecode(b"caf\xe9 photo.jpg")
    (tmp_path / name).write_bytes(min(photos.iterdir()).read_bytes())
    for form in ("table", "jsonl", "csv"):
        ended = trtkit("infer", tmp_path, "--format", form, "--workspace", workspace.root)
        assert ended.code == 0
        assert "caf" in ended.out
    line = trtkit("infer", tmp_path, "--format", "jsonl", "--workspace", workspace.root).out
    assert json.loads(line)["path"] == str(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["build", "--cut", "2", "--fp16", "--fp32"],
            "--fp32 and --fp16 exclude each other; choose one",
        ),
        (["build"], "No --cut given"),
        (["build", "--cut", "auto"], "cannot be cut together, because they share no block"),
        (["build", "--cut", "2", "--batch", "8,9"], "write MIN,OPT,MAX"),
        (["build", "--cut", "2", "--batch", "4,2,8"], "1 <= MIN <= OPT <= MAX"),
        (
            ["build", "--cut", "2", "--batch", "1,2,4", "--batch", "8"],
            "one of the ranges must hold",
        ),
        (["build", "--cut", "2", "--fp16", "--int8"], "--fp16 and --int8 exclude each other"),
        (["build", "--cut", "2", "--optimization-level", "9"], "give 0 .* to 5"),
        (
            ["build", "resnet18", "--cut", "2", "--int8", "--calibration", "gone"],
            "but gone holds none; put",
        ),
        (
            ["build", "resnet18", "--cut", "2", "--calibration-images", "9"],
            "do not apply: fp32 has no ranges; leave them out",
        ),
        (["infer", ".", "--cache-dtype", "int8"], "are float16 and have no scale for int8"),
        (["infer", "x", "--gpu-cache", "0"], "is not a size for the GPU cache"),
        (["build", "nothing", "--cut", "2"], "Model `nothing` not found"),
        (["cuts", "nothing"], "Model `nothing` not found"),
        (["infer", "nowhere"], "There is no such file or folder"),
        (["infer", "x", "--bundle", "nothing"], "Bundle `nothing` not found"),
        (["infer", "x", "--tail", "resnet35"], "Tail `resnet35` not found .*; available: resnet34"),
        (["infer", "x", "--cache-size", "ten"], "'ten' is not a size for the cache"),
        (["export", "resnet"], "Architecture 'resnet' not found"),
        (
            ["export", "resnet18", "--output", "logits"],
            "--output is for a foreign .onnx file, not for resnet18; leave it out",
        ),
        (
            ["export", "x.onnx", "--weights", "random"],
            "There is no file or folder x.onnx; give an existing checkpoint or .onnx file",
        ),
        (["export", "resnet18", "--weights", "Random"], "give imagenet, random or a file"),
        (
            ["export", "x.onnx", "--mean", "1,2"],
            "--mean 1,2 is not one number for each channel",
        ),
        (["cache", "info", "--cache-dir", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_carried_out_exits_with_2_and_one_sentence(
    trtkit, workspace, monkeypatch, arguments, message
):
    monkeypatch.setenv("TRTKIT_WORKSPACE", str(workspace.root))
    ended = trtkit(*arguments)
    assert (ended.code, ended.out) == (2, "")
    last = ended.err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert __import__("re").search(message, last), last
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("arguments", [["frobnicate"], ["infer"], ["infer", "x", "--top", "many"]])
def test_usage_errors_exit_with_2(trtkit, arguments):
    assert trtkit(*arguments).code == 2


def test_debug_shows_the_traceback_wherever_it_stands(trtkit, workspace, monkeypatch):
    monkeypatch.setenv("TRTKIT_WORKSPACE", str(workspace.root))
    for arguments in (["--debug", "cuts", "none"], ["cuts", "none", "--debug"]):
        monkeypatch.setattr(sys, "argv", ["trtkit", *arguments])
        with pytest.raises(Exception, match="Model `none` not found"):
            run()


def test_no_bundle_yet(trtkit, tmp_path, photos):
    ended = trtkit("infer", photos, "--workspace", tmp_path)
    assert ended.code == 2
    assert "run `trtkit export MODEL`" in ended.err


def test_cuts(trtkit, workspace):
    value = json.loads(trtkit("cuts", "resnet18", "--workspace", workspace.root, "--json").out)
    assert [point["cut"] for point in value] == list(range(1, 9))
    assert set(value[0]) == {"cut", "block", "tensor", "shape", "bytes", "flops_share"}
    table = trtkit("cuts", "resnet18", "--workspace", workspace.root).out.splitlines()
    assert table[2].split("\t")[:4] == ["2", "layer1.1", "block_2", "8 x 16 x 16"]


def test_cache_commands(trtkit, workspace, photos, own_cache):
    trtkit("infer", photos, "--cache", "always", "--workspace", workspace.root)
    info = json.loads(trtkit("cache", "info", "--json").out)
    assert (info["entries"], info["folder"]) == (4, str(own_cache))
    assert trtkit("cache", "verify").code == 0
    segment = max(own_cache.glob("segment-*"), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    damaged = trtkit("cache", "verify", "--json")
    assert damaged.code == 1
    assert len(json.loads(damaged.out)["damaged"]) == 1
    assert trtkit("cache", "verify", "--repair").code == 0
    assert json.loads(trtkit("cache", "info", "--json").out)["entries"] == 3
    assert trtkit("cache", "clear").code == 0
    assert json.loads(trtkit("cache", "info", "--json").out)["entries"] == 0


def test_doctor(trtkit, workspace):
    found = json.loads(trtkit("doctor", "--json", "--workspace", workspace.root).out)
    assert found["auto"] == "onnxruntime"
    assert found["bundles"] == ["resnet18+resnet34-cut2-fp16"]
    assert {feature["name"] for feature in found["features"]} == {
        "train", "tensorrt", "tensorrt-rtx", "pycuda", "quantize", "video",
    }  # fmt: skip
    missing = [feature for feature in found["features"] if feature["missing"]]
    assert all(f["install"] == f"pip install 'trtkit[{f['name']}]'" for f in missing)
    assert "backend onnxruntime" in trtkit("doctor").out
