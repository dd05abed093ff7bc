"""int8 bundles whose tails are divided: the body, the head or neither left float."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.divided import build, last_layer, outcome_of
from tests.engines.simulated import install
from tests.quantized import quantize
from tests.thin import THINNER
from trtkit.building.sources import load_model
from trtkit.engines.options import BuildOptions
from trtkit.engines.registry import get_backend
from trtkit.engines.tensorrt import backend as backends
from trtkit.errors import TrtkitError
from trtkit.graph.files import read_model, write_sealed
from trtkit.graph.values import producers
from trtkit.photos.samples import generate_images

SMALL = BuildOptions.for_batches([(1, 2, 4)])


# What int8 leaves float: nothing, the head, or the body's convolutions.
FLOAT = {"nothing": 0, "head": 1, "body": 5}


def quantized_export(place, name: str, left: str, images) -> None:
    """Put `name` there: resnet18 with Q/DQ pairs, but some layers behind block 6 left float."""
    exact = read_model(place.export_path("resnet18"))
    path = place.export_path(name)
    quantize(exact, path, images)
    if left == "nothing":
        return
    model, own = onnx.load(path), {each.output[0]: each for each in exact.graph.node}
    weights = {each.name: each for each in exact.graph.initializer}
    kinds = ("Gemm",) if left == "head" else ("Conv",)
    heavy = [each for each in model.graph.node if each.op_type in kinds]
    made_by = producers(model.graph.node)
    present = {each.name for each in model.graph.initializer}
    for each in heavy[-FLOAT[left] :]:
        (known,) = (node for node in own.values() if node.name == each.name)
        pair = made_by[each.input[0]]
        each.input[0] = made_by[pair.input[0]].input[0]
        each.input[1] = known.input[1]
        if known.input[1] not in present:
            model.graph.initializer.append(weights[known.input[1]])
            present.add(known.input[1])
    if left == "head":
        # Without the pair behind the logits nothing of the head is quantized.
        logits, (gemm,) = model.graph.output[0].name, heavy
        for each in [each for each in model.graph.node if each is not gemm]:
            if each.output[0] == logits or gemm.output[0] in each.input:
                model.graph.node.remove(each)
        gemm.output[0] = logits
    write_sealed(model, path)


@pytest.mark.parametrize("left", FLOAT)
def test_int8_on_the_processor(make_workspace, left):
    place = make_workspace("resnet18")
    images = generate_images(4, load_card(place).preprocessing, seed=1)
    quantized_export(place, "small", left, images)
    options = {"cut": 6, "precision": "int8", "min_agreement": 0.0}
    plain = build(place, "small", bundle_name="plain", **options)
    report = build(place, "small", embeddings=True, **options)
    assert [stage.name for stage in report.manifest.stages] == ["prefix", "small-body", "small"]
    whole, _ = outcome_of(plain.folder, images)
    logits, embeddings = outcome_of(report.folder, images)
    assert (embeddings.dtype, embeddings.shape) == (np.float32, (4, 512 // THINNER))
    # The head takes the same bytes: what is cut is in front of their pair.
    np.testing.assert_allclose(logits, whole, atol=1e-5 * np.abs(whole).max())
    exact, bias = last_layer(place.export_path("resnet18"))
    made = embeddings @ exact.T + bias
    # A head that is int8 has weights, vector and logits in 8 bits.
    share = 1e-5 if left == "head" else 3e-2
    np.testing.assert_allclose(logits, made, atol=share * np.abs(made).max())


def load_card(place):
    return load_model("resnet18", place.export_path("resnet18")).card


@pytest.mark.parametrize("version", ["8.5.3.1", "10.3.0"])
@pytest.mark.parametrize("left", FLOAT)
def test_int8_on_tensorrt(monkeypatch, make_workspace, left, version):
    install(monkeypatch, version=version)
    place = make_workspace("resnet18")
    images = generate_images(2, load_card(place).preprocessing, seed=1)
    quantized_export(place, "small", left, images)
    options = {"cut": 6, "precision": "int8", "options": SMALL, "min_agreement": 0.0}
    asked, real = {}, backends.build_plan

    def noted(library, card, plan, ground):
        asked[plan.name] = plan.precision
        return real(library, card, plan, ground)

    monkeypatch.setattr(backends, "build_plan", noted)
    report = build(place, "small", embeddings=True, **options)
    assert asked == {
        "prefix": "int8", "small-body": "int8", "small": "fp16" if left == "head" else "int8",
    }  # fmt: skip
    _, body, head = report.manifest.stages
    assert head.inputs[0].dtype == "float16"
    convolutions, products = body.engine["inspector"], head.engine["inspector"]
    assert convolutions["heavy"] == convolutions["fp16" if left == "body" else "int8"] == 5
    assert products["heavy"] == products["fp16" if left == "head" else "int8"] == 1
    logits, embeddings = outcome_of(report.folder, images)
    assert embeddings.dtype == np.float16
    if left == "nothing":
        plain = build(place, "small", bundle_name="plain", **options)
        whole, none = outcome_of(plain.folder, images)
        assert none is None
        # Another byte of a vector, or of the logits, here and there: 1/127 of the largest.
        np.testing.assert_allclose(logits, whole, atol=2 / 127 * np.abs(whole).max())
    rebuilt = build(place, bundle_name=report.folder.name, min_agreement=0.0)
    assert [s.id for s in rebuilt.manifest.stages] == [s.id for s in report.manifest.stages]


def test_int8_of_a_bundle_that_is_not_quantized_is_still_refused(monkeypatch, make_workspace):
    install(monkeypatch)
    place = make_workspace("resnet18")
    build(place, cut=2, embeddings=True, options=SMALL, bundle_name="b")
    with pytest.raises(
        TrtkitError, match="int8 needs a quantized graph, but prefix has no QuantizeLinear"
    ):
        build(place, bundle_name="b", precision="int8")


def test_plans_of_tensorrt_for_rtx(make_workspace):
    backend = get_backend("tensorrt-rtx")
    if backend.cannot_build() is not None:
        pytest.skip(str(backend.cannot_build()))
    place = make_workspace("resnet18")
    quantized_export(
        place, "small", "head", generate_images(2, load_card(place).preprocessing, seed=1)
    )
    report = build(
        place, "small", cut=6, precision="int8", embeddings=True, backend="tensorrt-rtx",
        min_agreement=0.0, options=SMALL,
    )  # fmt: skip
    _, body, head = report.manifest.stages
    assert body.engine["network"]["int8"] == body.engine["network"]["heavy"] > 0
    assert head.engine["network"]["fp16"] == head.engine["network"]["heavy"] == 1
    assert report.manifest.verified["tails"]["small"]["images"] == 2
