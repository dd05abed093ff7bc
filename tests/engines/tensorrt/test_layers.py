"""Reading the engine inspector's JSON: which layers are heavy, and what they compute in."""

from __future__ import annotations

import json

import pytest

from trtkit.engines.tensorrt.layers import HeavyLayer, check_layers, engine_layers, too_wide
from trtkit.errors import TrtkitError


def layer(name="conv1", kind="CaskConvolution", **fields):
    return {"Name": name, "LayerType": kind, **fields}


def found(*layers):
    return engine_layers(json.dumps({"Layers": list(layers), "Bindings": []}))


def tensor(text, key="Format/Datatype"):
    return [{"Name": "x", "Dimensions": [1, 3, 8, 8], key: text}]


# The texts are NVIDIA's own: https://github.com/NVIDIA/TensorRT/issues/4020 and the table in
# tools/experimental/trt-engine-explorer/trex/activations.py of that repository.
@pytest.mark.parametrize(
    ("fields", "precision"),
    [
        ({"Inputs": tensor("Row major linear FP32")}, "fp32"),
        ({"Inputs": tensor("Row major linear FP16 format")}, "fp16"),
        ({"Inputs": tensor("Channel major FP16 format where channel % 8 == 0")}, "fp16"),
        ({"Inputs": tensor("Thirty-two wide channel vectorized row major Int8 format")}, "int8"),
        ({"Inputs": tensor("Channel major INT8 format where channel % 4 == 0")}, "int8"),
        ({"Inputs": tensor("Half")}, "fp16"),
        ({"Inputs": tensor("Float", "Datatype")}, "fp32"),
        ({"Inputs": tensor("Int8", "Datatype")}, "int8"),
        # Weights tell even where formats of dynamic shapes are not shown.
        ({"Inputs": tensor("N/A due to dynamic shapes"), "Weights": {"Type": "Half"}}, "fp16"),
        ({"Inputs": tensor("Row major linear FP32"), "Weights": {"Type": "Int8"}}, "int8"),
        ({"Inputs": tensor("N/A due to dynamic shapes"),
          "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc"}, "fp16"),
        ({"Inputs": [], "TacticName": "ampere_h16816gemm_256x128_ldg8_stages_32x3_tn"}, "fp16"),
        ({"Inputs": [], "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32"}, "int8"),
        ({"Inputs": tensor("N/A due to dynamic shapes")}, "unknown"),
        ({"Inputs": tensor("Row major linear BFloat16 format")}, "unknown"),
        ({}, "unknown"),
    ],
)  # fmt: skip
def test_what_a_layer_computes_in(fields, precision):
    assert found(layer(**fields)) == [HeavyLayer("conv1", precision)]


@pytest.mark.parametrize(
    "kind",
    ["CaskConvolution", "CaskConvActPool", "CaskDeconvolutionV2", "gemm", "MatrixMultiply",
     "CaskGemmConvolution", "FullyConnected"],
)  # fmt: skip
def test_heavy_kinds(kind):
    assert len(found(layer(kind=kind))) == 1


def test_a_kind_of_its_own_is_heavy_by_its_parameters():
    assert len(found(layer(kind="Myelin", ParameterType="Convolution"))) == 1


@pytest.mark.parametrize(
    "kind",
    ["Reformat", "NoOp", "Constant", "CaskPooling", "PointWiseV2", "signal", "kgen", "Shuffle"],
)
def test_what_moves_data_or_pools_is_not_heavy(kind):
    name = "Reformatting CopyNode for Input Tensor 0 to conv1"
    assert found(layer(name, kind, Inputs=tensor("Row major linear FP32"))) == []


def test_names_alone_tell_nothing():
    assert engine_layers(json.dumps({"Layers": ["conv1 + relu1"]})) == []


def test_a_fused_layer_is_named_after_its_onnx_nodes():
    metadata = "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]"
    assert found(layer("__myl_x", Metadata=metadata))[0].name == "conv1 + relu1"


def test_wider_than_asked_for():
    fp32, fp16, int8 = (HeavyLayer(f"{p} + relu", p) for p in ("fp32", "fp16", "int8"))
    unknown = HeavyLayer("gemm_myl3", "unknown")
    everything = [fp32, fp16, int8, unknown]
    assert too_wide(everything, "fp32", {}) == []
    assert too_wide(everything, "fp16", {}) == [fp32]
    assert too_wide(everything, "int8", {}) == [fp32]
    assert too_wide(everything, "int8", {"fp16": "int8", "int8": "int8"}) == [fp32, fp16]
    # Two nodes fused into one layer are held to the wider of the two.
    both = HeavyLayer("a + b", "fp16")
    assert too_wide([both], "int8", {"a": "int8", "b": "fp16"}) == []
    assert too_wide([both], "int8", {"a": "int8", "b": "int8"}) == [both]


def test_counts_and_the_error_that_lists_the_layers():
    layers = [HeavyLayer("a", "fp16"), HeavyLayer("b", "unknown"), HeavyLayer("c", "fp16")]
    assert check_layers(layers, "fp16", {}, "x") == {
        "heavy": 3, "int8": 0, "fp16": 2, "fp32": 0, "unknown": 1,
    }  # fmt: skip
    layers += [HeavyLayer("d", "fp32")]
    with pytest.raises(
        TrtkitError,
        match=r"1 of 4 heavy layers of x are not fp16: d \(fp32\); nothing",
    ):
        check_layers(layers, "fp16", {}, "x")


def test_an_int8_engine_without_a_single_int8_layer():
    layers = [HeavyLayer("a", "fp16"), HeavyLayer("b", "fp16")]
    with pytest.raises(TrtkitError, match="2 of 2 heavy layers of .* are not int8"):
        check_layers(layers, "int8", {}, "x")
    # A stage without heavy layers, or one that the inspector says nothing of, cannot be judged.
    assert check_layers([], "int8", {}, "x")["heavy"] == 0
    assert check_layers([HeavyLayer("a", "unknown")], "int8", {}, "x")["unknown"] == 1


def test_layers_that_nobody_tells_of_are_unknown_and_not_absent():
    expected = {"conv1": "fp16", "fc": "fp16"}
    assert check_layers([], "fp16", expected, "x") == {
        "heavy": 2, "int8": 0, "fp16": 0, "fp32": 0, "unknown": 2,
    }  # fmt: skip
