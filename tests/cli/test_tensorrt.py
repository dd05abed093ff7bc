"""The commands with TensorRT, on a simulated GPU and without one."""

from __future__ import annotations

import json
import shutil

import pynvml
import pytest

from tests.engines.simulated import install
from tests.pictures import write_photos
from trtkit.serialization import write_json


@pytest.fixture
def place(make_workspace, monkeypatch):
    place = make_workspace("resnet18")
    monkeypatch.setenv("TRTKIT_WORKSPACE", str(place.root))
    return place


def test_build_infer_and_rebuild_elsewhere(monkeypatch, trtkit, place, tmp_path):
    install(monkeypatch, device_name="NVIDIA A10")
    write_photos(tmp_path / "photos", count=3, size=(80, 70))
    arguments = ("--cut", "7", "--fp16", "--batch", "1,2,4", "--batch", "1", "--verify-images", "2")
    built = trtkit("build", *arguments)
    assert (built.code, "nverified" in built.err) == (0, False)
    header, prefix, tail = (line.split("\t") for line in built.out.splitlines())
    heavy = header.index("heavy layers")
    assert (prefix[heavy], tail[heavy]) == ("18 fp16", "3 fp16")
    for count, said in ((0, "0 hits, 3 misses"), (3, "3 hits, 0 misses")):
        ended = trtkit(
            "infer", tmp_path / "photos", "--cache", "always", "--gpu-cache", "1MB",
            "--stats", tmp_path / "s",
        )  # fmt: skip
        assert (ended.code, said in ended.err) == (0, True)
        assert json.loads((tmp_path / "s").read_text())["cache"]["hits"] == count
    (manifest,) = place.engines.glob("*/bundle.json")
    value = json.loads(manifest.read_text())
    value["costs"]["store"]["fp16"].update(read=1e6, read_cold=1e6)
    write_json(manifest, value)
    ended = trtkit("infer", tmp_path / "photos", "--gpu-cache", "1MB")
    assert "cache: 0 hits, 3 misses." in ended.err
    assert "Cache on disk not used: with a feature map from memory" in ended.err
    assert "only read" not in ended.err
    install(monkeypatch, device_name="NVIDIA L4", compute_capability=(8, 9))
    shutil.rmtree(place.exports)
    moved = trtkit("infer", tmp_path / "photos")
    assert moved.code == 2
    assert "built with NVIDIA A10 (compute capability 8.6), here is NVIDIA L4" in moved.err
    command = "trtkit build --bundle resnet18-cut7-fp16"
    assert f"run `{command}`" in moved.err
    assert trtkit(*command.split()[1:]).code == 0
    assert trtkit("infer", tmp_path / "photos").code == 0
    assert "is up to date" in trtkit(*command.split()[1:]).err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dla", "0"), "onnxruntime does not have --dla"),
        (("--optimization-level", "0"), "onnxruntime does not have --optimization-level"),
        (
            ("--tf32", "--workspace-memory", "1G"),
            "onnxruntime does not have --tf32, --workspace-memory",
        ),
    ],
)
def test_an_option_of_0_is_an_option(trtkit, place, options, said):
    ended = trtkit("build", "--cut", "7", "--backend", "onnxruntime", *options)
    assert ended.code == 2
    assert said in ended.err
    assert place.bundles() == []


def test_tensorrt_without_a_gpu(monkeypatch, trtkit, place):
    install(monkeypatch, no_device=True)
    ended = trtkit("build", "--cut", "7", "--fp16", "--backend", "tensorrt")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert (
        "needs a GPU to build, but the NVIDIA driver finds no GPU; build where there is one"
        in ended.err
    )
    assert not place.engines.exists()


def test_an_unverified_bundle_is_told_of_wherever_it_is_used(monkeypatch, trtkit, place, tmp_path):
    install(monkeypatch, version="rtx1.7", no_device=True)
    write_photos(tmp_path / "photos", count=1, size=(80, 70))
    built = trtkit("build", "--cut", "7", "--backend", "tensorrt-rtx", "--verify-images", "1")
    assert built.code == 0
    assert (
        "Unverified: the NVIDIA driver finds no GPU, so the engines were built but never"
        in built.err
    )
    refused = trtkit("infer", tmp_path / "photos")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert (
        "was built for tensorrt-rtx, which needs a GPU, but the NVIDIA driver finds no"
        in refused.err
    )
    install(monkeypatch, version="rtx1.7")
    used = trtkit("infer", tmp_path / "photos")
    assert used.code == 0
    assert "The engines of resnet18-cut7-fp32 are unverified" in used.err
    assert trtkit("build", "--bundle", "resnet18-cut7-fp32").code == 0
    assert "nverified" not in trtkit("infer", tmp_path / "photos").err


def test_doctor_shows_what_is_broken_and_what_is_there(monkeypatch, trtkit, place):
    # A GPU of the machine that runs the tests is not listed.
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 0)
    install(monkeypatch, device_name="Orin", compute_capability=(8, 7), memory=8 << 30)
    found = json.loads(trtkit("doctor", "--json").out)
    assert found["auto"] == "tensorrt"
    assert [(g["name"], g["compute_capability"], g["memory_mib"]) for g in found["gpus"]] == [
        ("Orin", "8.7", 8192)
    ]
    install(monkeypatch, import_error="libnvinfer.so.10: cannot open shared object file")
    plain = trtkit("doctor").out
    assert "tensorrt is installed but broken (libnvinfer.so.10: cannot open" in plain
    install(monkeypatch, no_device=True)
    assert "can neither build nor run: the NVIDIA driver finds no GPU" in trtkit("doctor").out
    install(monkeypatch, version="rtx1.7", no_device=True)
    plain = trtkit("doctor").out
    assert "builds, but cannot run what it builds: the NVIDIA driver finds no GPU" in plain
    assert "onnxruntime" in json.loads(trtkit("doctor", "--json").out)["auto"]
