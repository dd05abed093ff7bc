"""What ONNX Runtime's own profiler says of each layer, under the labels of its segment."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.graph.segmented import branches, points, residual, vgg
from trtkit.engines.base import StageBuild
from trtkit.engines.onnxruntime import OnnxRuntimeBackend, _layer_times
from trtkit.errors import TrtkitError
from trtkit.graph.boundaries import label_segments, segment_of

SIZE = 32
RUNS = 4


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files, of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def images(batch=4, size=SIZE):
    return np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)


def built(folder, model, tensors, precision="fp32"):
    """The engine's file of the labelled model."""
    label_segments(model, points(tensors))
    path = folder / "whole.onnx"
    stage = StageBuild("whole", model, precision, True, True)
    OnnxRuntimeBackend().build(stage, path, folder)
    return path


def measured(path, runs=RUNS, **inputs):
    return OnnxRuntimeBackend().layer_times(path, {}, inputs or {"x": images()}, runs)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_fused_layers_appear_under_their_segment(tmp_path, precision):
    layers = measured(built(tmp_path, *residual(size=SIZE), precision))
    kinds = [
        (segment_of(layer.name), layer.kind) for layer in layers if layer.kind in ("Conv", "Gemm")
    ]
    assert kinds == [(1, "Conv"), *[(2, "Conv")] * 2, *[(3, "Conv")] * 2, (4, "Gemm")]
    labels = [segment_of(layer.name) for layer in layers if segment_of(layer.name)]
    assert labels == sorted(labels)
    assert not [layer for layer in layers if layer.kind == "BatchNormalization"]


def test_shortcuts_and_activations_are_in_their_convolution_in_blocked_layout(tmp_path):
    layers = measured(built(tmp_path, *residual(size=SIZE)))
    if not any("nchwc" in layer.name for layer in layers):
        pytest.skip("this processor's kernels have no blocked layout")
    assert not [layer for layer in layers if layer.kind in ("Add", "Relu")]
    unlabelled = {layer.kind for layer in layers if segment_of(layer.name) is None}
    assert unlabelled <= {"ReorderInput", "ReorderOutput"}


def test_a_vgg_has_all_its_segments(tmp_path):
    layers = measured(built(tmp_path, *vgg(SIZE)))
    assert {segment_of(layer.name) for layer in layers} - {None} == {1, 2, 3, 4}
    pools = [segment_of(layer.name) for layer in layers if layer.kind == "MaxPool"]
    assert pools == [2, 3]


def test_layers_take_no_longer_than_the_runs(tmp_path, monkeypatch):
    path = built(tmp_path, *residual(size=SIZE))
    walls = []
    engine = type(OnnxRuntimeBackend().load(path))
    run = engine.run

    def timed(self, inputs):
        start = time.perf_counter()
        try:
            return run(self, inputs)
        finally:
            walls.append(time.perf_counter() - start)

    monkeypatch.setattr(engine, "run", timed)
    layers = measured(path)
    assert len(walls) == RUNS + 1
    for number, wall in enumerate(walls[1:]):
        taken = sum(layer.seconds[number] for layer in layers)
        assert 0 < taken <= wall


@pytest.mark.parametrize("runs", [1, 3])
def test_as_many_seconds_as_runs(tmp_path, runs):
    layers = measured(built(tmp_path, *residual(size=SIZE)), runs)
    assert {len(layer.seconds) for layer in layers} == {runs}
    assert all(seconds >= 0 for layer in layers for seconds in layer.seconds)


def test_a_branch_counts_once_with_what_it_runs(tmp_path):
    path = tmp_path / "branches.onnx"
    onnx.save(branches("a", "flag"), path)
    layers = measured(path, x=images(size=8))
    assert [layer.name for layer in layers if layer.kind not in ("Cast",)] == [
        "relu", "top", "greater", "choose", "exp",
    ]  # fmt: skip


def test_nothing_is_left_behind(tmp_path, temporary):
    path = built(tmp_path, *residual(size=SIZE))
    before = set(Path.cwd().iterdir())
    measured(path)
    with pytest.raises(TrtkitError, match="not float32 4 x 3 x 9 x 9"):
        measured(path, x=images(size=9))
    assert list(temporary.iterdir()) == []
    assert set(Path.cwd().iterdir()) - before == set()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["temporary", "whole.onnx"]


def test_an_engine_that_cannot_be_loaded(tmp_path, temporary):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"not onnx")
    with pytest.raises(TrtkitError, match=r"cannot load .*bad\.onnx"):
        measured(path)
    assert list(temporary.iterdir()) == []


def event(name, begin, dur, kind="Conv", cat="Node"):
    return {"name": name, "ts": begin, "dur": dur, "cat": cat, "args": {"op_name": kind}}


def test_the_first_run_is_dropped_and_times_are_in_order():
    """Events as ONNX Runtime writes them, in the order of their ends and others among them."""
    events = [
        event("model_loading", 0, 50, cat="Session"),
        event("b_kernel_time", 120, 7),
        event("a_kernel_time", 100, 20),
        event("a_kernel_time", 200, 2),
        event("a_fence_before", 200, 2),
        event("b_kernel_time", 202, 3, "Relu"),
        event("model_run", 90, 90, cat="Session"),
        event("a_kernel_time", 300, 4),
        event("b_kernel_time", 304, 5, "Relu"),
    ]
    first, second = _layer_times(events, 2)
    assert (first.name, first.kind, first.seconds) == ("a", "Conv", (2e-6, 4e-6))
    assert (second.name, second.seconds) == ("b", (3e-6, 5e-6))


@pytest.mark.parametrize("kept", [0, 5])
def test_a_profile_that_lacks_kernels_is_refused(kept):
    events = [event("a_kernel_time", 10 * place, 2) for place in range(kept)]
    with pytest.raises(TrtkitError, match=rf"profile of 3 runs has {kept} kernels, .* fewer runs"):
        _layer_times(events, 2)
