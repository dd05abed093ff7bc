"""Why a kind of competitor cannot run here, and which baselines are measured at all."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnxruntime
import pytest

from tests.engines.simulated import install
from trtkit.benchmark import clocks, kinds
from trtkit.benchmark.clocks import GpuReading
from trtkit.benchmark.kinds import (
    CPU_BASELINES,
    GPU_BASELINES,
    KINDS,
    baselines_for,
    missing,
    no_gpu,
)
from trtkit.errors import TrtkitError


def without(monkeypatch, *absent: str) -> None:
    """These packages are not installed, all others are."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else object())


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program of that name, which answers with that text, on the PATH, and nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def make(name: str, says: str = "", status: int = 0) -> Path:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(kinds, "no_gpu", lambda: None)


TRAIN = "pip install 'trtkit[train]'"


@pytest.mark.parametrize(
    ("kind", "absent", "why"),
    [
        ("torch", {"torch"}, f"torch is not installed; {TRAIN}"),
        (
            "torch-compile",
            {"torch", "torchvision"},
            f"torch, torchvision are not installed; {TRAIN}",
        ),
        ("torch-cuda-fp16", {"torch"}, f"torch is not installed; {TRAIN}"),
        ("openvino", {"openvino"}, "openvino is not installed; pip install openvino"),
        ("onnxruntime", {"onnx"}, "onnx is not installed; pip install onnx"),
        ("onnxruntime-cuda", {"onnx"}, "onnx is not installed; pip install onnx"),
        (
            "tensorrt",
            {"tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"},
            "TensorRT is not installed; pip install 'trtkit[tensorrt]'",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_command(gpu, monkeypatch, kind, absent, why):
    without(monkeypatch, *absent)
    assert missing(kind) == why
    assert missing("trtkit") is None


def test_one_of_the_tensorrts_is_enough(gpu, monkeypatch):
    without(monkeypatch, "tensorrt", "tensorrt_rtx")
    assert missing("tensorrt") is None


def test_an_onnxruntime_without_cuda_is_replaced(gpu, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    why = missing("onnxruntime-cuda")
    assert why.startswith("this onnxruntime is without CUDA; pip uninstall onnxruntime &&")
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    assert missing("onnxruntime-cuda") is None


def test_trtexec_is_there_when_it_is_on_the_path(gpu, program):
    assert missing("trtexec").startswith("trtexec is not on the PATH; ")
    program("trtexec")
    assert missing("trtexec") is None


def test_without_a_gpu_its_baselines_are_missing_and_the_others_are_not(monkeypatch, program):
    install(monkeypatch, no_device=True)
    assert no_gpu() == "no NVIDIA GPU was found: the NVIDIA driver finds no GPU"
    assert {missing(kind) for kind in GPU_BASELINES} == {no_gpu()}
    assert missing("torch") is None and missing("onnxruntime") is None
    assert baselines_for("onnxruntime") == baselines_for("tensorrt") == CPU_BASELINES


def test_with_a_gpu_a_bundle_that_runs_there_is_compared_with_torch_there(monkeypatch, program):
    install(monkeypatch)
    assert no_gpu() is None
    assert baselines_for("tensorrt")[0] == baselines_for("tensorrt-rtx")[0] == "torch-cuda"
    assert baselines_for("onnxruntime")[0] == "torch"
    assert (
        set(baselines_for("tensorrt")) == set(baselines_for("onnxruntime")) == {*KINDS} - {"trtkit"}
    )


def test_a_gpu_that_only_the_driver_lists_is_one(monkeypatch):
    # As where cuda-python is missing, or newer than the driver; torch brings its own.
    install(monkeypatch, driver_too_old=True)
    assert "the NVIDIA driver is too old" in no_gpu()
    monkeypatch.setattr(clocks, "nvidia_gpus", lambda: (GpuReading("NVIDIA L4"),))
    assert no_gpu() is None


def test_an_unknown_kind_is_refused():
    with pytest.raises(TrtkitError, match="Competitor `caffe` not found; available: trtkit, torch"):
        missing("caffe")
