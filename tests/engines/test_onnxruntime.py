"""The ONNX Runtime backend and the choice of a backend."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from tests.graph.onnx_graphs import classifier, run
from trtkit.engines.base import StageBuild
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.engines.options import BuildOptions
from trtkit.engines.registry import BACKENDS, BackendEntry, get_backend
from trtkit.errors import TrtkitError
from trtkit.graph.split import split
from trtkit.tensors import TensorSpec


@pytest.fixture
def engine(tmp_path):
    onnx.save(classifier("batch"), tmp_path / "m.onnx")
    return OnnxRuntimeBackend().load(tmp_path / "m.onnx")


def values(batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, 8, 8)).astype(np.float32)


def test_an_engine_says_what_it_takes_and_gives(engine):
    assert engine.inputs == (TensorSpec("x", "float32", (None, 3, 8, 8)),)
    assert engine.outputs == (TensorSpec("g", "float32", (None, 5)),)
    assert str(engine.inputs[0]) == "x float32 N x 3 x 8 x 8"


def build_sides(backend, sides, precision, folder):
    """The prefix as p.onnx and the tail as t.onnx."""
    place = folder
    backend.build(StageBuild("p", sides.prefix, precision, True, False), folder / "p.onnx", place)
    backend.build(StageBuild("t", sides.tail, precision, False, True), folder / "t.onnx", place)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_any_batch_size_runs(engine, batch):
    output = engine.run({"x": values(batch)})["g"]
    assert output.shape == (batch, 5)
    np.testing.assert_allclose(output.numpy(), run(classifier("batch"), values(batch)), rtol=1e-5)


def test_an_output_is_the_next_engines_input_and_outlives_further_runs(tmp_path, engine):
    backend = OnnxRuntimeBackend()
    sides = split(classifier("batch"), "d")
    build_sides(backend, sides, "fp32", tmp_path)
    prefix, tail = backend.load(tmp_path / "p.onnx"), backend.load(tmp_path / "t.onnx")
    feature = prefix.run({"x": values()})["d"]
    kept = feature.numpy()
    before = kept.copy()
    for seed in range(5):
        prefix.run({"x": values() * seed})
    np.testing.assert_array_equal(kept, before)
    chained = tail.run({"d": feature})["g"].numpy()
    np.testing.assert_allclose(chained, engine.run({"x": values()})["g"].numpy(), rtol=1e-5)
    np.testing.assert_array_equal(tail.run({"d": before})["g"].numpy(), chained)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"y": values()}, r"takes x float32 N x 3 x 8 x 8; available: y; pass it by that name"),
        ({}, "available: none; pass it by that name"),
        ({"x": values().astype(np.float64)}, r"not float64 2 x 3 x 8 x 8; convert it first"),
        ({"x": values()[:, :2]}, r"not float32 2 x 2 x 8 x 8"),
        ({"x": values()[0]}, r"not float32 3 x 8 x 8"),
    ],
)
def test_a_wrong_input_says_what_is_taken(engine, feed, message):
    with pytest.raises(TrtkitError, match=message):
        engine.run(feed)


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x08garbage" * 50])
def test_a_damaged_engine_file(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(TrtkitError, match=r"cannot load .*bad\.onnx .* build the bundle again"):
        OnnxRuntimeBackend().load(path)


def test_what_only_other_backends_can_do(tmp_path):
    options = BuildOptions(tf32=True, dla=0)
    stage = StageBuild("x", classifier("batch"), "fp32", True, True, options)
    with pytest.raises(TrtkitError, match="onnxruntime does not have --tf32, --dla"):
        OnnxRuntimeBackend().build(stage, tmp_path / "x.onnx", tmp_path)
    assert not list(tmp_path.iterdir())


def test_get_backend():
    assert get_backend("auto").name == "onnxruntime"
    with pytest.raises(TrtkitError, match="Backend `onnxrt` not found; available: onnxruntime"):
        get_backend("onnxrt")


def test_a_backend_without_its_library_says_how_to_get_it(monkeypatch):
    entry = BackendEntry("other", "trtkit.engines.other", ("no_such_library",), "pip install other")
    monkeypatch.setattr("trtkit.engines.registry.BACKENDS", (*BACKENDS, entry))
    with pytest.raises(TrtkitError, match="needs no_such_library, .* run `pip install oth"):
        get_backend("other")


SESSIONS = """
import sys
import onnxruntime
from pathlib import Path
from trtkit import cpu
from trtkit.engines.base import StageBuild
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
if sys.argv[1] == "ours":
    cpu.own_process()
OnnxRuntimeBackend().load(Path(sys.argv[2]))
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
"""


@pytest.mark.parametrize(("whose", "works"), [("theirs", True), ("ours", False)])
def test_only_a_process_of_our_own_gets_the_shared_thread_pool(tmp_path, whose, works):
    # With the shared pool ONNX Runtime refuses other sessions: no library may do that to a program.
    onnx.save(classifier("batch"), tmp_path / "m.onnx")
    command = [sys.executable, "-c", SESSIONS, whose, str(tmp_path / "m.onnx")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode == 0) == works, ended.stderr


def adds_left(backend, path, tmp_path) -> int:
    """Additions that ONNX Runtime could not fuse into a convolution when it loaded the file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    return sum(node.op_type == "Add" for node in optimised.graph.node)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_cut_costs_no_fusion(exports, tmp_path, precision):
    # Block 2 has an identity shortcut, which begins at the cut.
    backend = OnnxRuntimeBackend()
    sides = split(onnx.load(exports / "resnet18.onnx"), "block_1")
    build_sides(backend, sides, precision, tmp_path)
    chain = sum(adds_left(backend, tmp_path / f"{name}.onnx", tmp_path) for name in "pt")
    assert chain <= adds_left(backend, exports / "resnet18.onnx", tmp_path)


def test_sums_of_byte_products_do_not_overflow(tmp_path):
    """Two products of 255 and 127 overflow 16 bits, in which x86 without VNNI adds them."""
    channels, largest = 8, 255 * 127 * 8
    number, zero = numpy_helper.from_array, {kind: kind(0) for kind in (np.uint8, np.int8)}
    constants = {
        "one": np.float32(1), "step": np.float32(largest / 255), "zero": zero[np.uint8],
        "zero_weight": zero[np.int8], "weight": np.full((1, channels, 1, 1), 127, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "one", "zero"], ["x_d"]),
        helper.make_node("DequantizeLinear", ["weight", "one", "zero_weight"], ["weight_d"]),
        helper.make_node("Conv", ["x_d", "weight_d"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "step", "zero"], ["sum_q"]),
        helper.make_node("DequantizeLinear", ["sum_q", "step", "zero"], ["y"]),
    ]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", depth, 4, 4])
        for name, depth in (("x", channels), ("y", 1))
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        values[:1],
        values[1:],
        [number(np.asarray(v), k) for k, v in constants.items()],
    )
    path = tmp_path / "products.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    x = np.full((1, channels, 4, 4), 255, np.float32)
    outputs = OnnxRuntimeBackend().load(path).run({"x": x})
    np.testing.assert_array_equal(outputs["y"].numpy(), np.full((1, 1, 4, 4), largest, np.float32))
