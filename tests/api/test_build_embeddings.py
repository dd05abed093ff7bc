"""Bundles whose tails are divided at the embedding: built, run, rebuilt, refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import trtkit
from tests.divided import build, images_of, last_layer, outcome_of
from tests.graph.onnx_graphs import run
from tests.pictures import write_photos
from tests.profiles import make_profile
from tests.thin import THINNER, thin_networks
from trtkit.benchmark.baselines import load_network
from trtkit.benchmark.network import merged, source_graphs
from trtkit.building import request as requests
from trtkit.building.sources import load_model
from trtkit.bundle import read_manifest
from trtkit.errors import TrtkitError
from trtkit.graph.canonical import graph_digest
from trtkit.graph.card import METADATA_KEY
from trtkit.graph.files import write_sealed
from trtkit.graph.tree import stage_tree
from trtkit.identity import stage_id
from trtkit.workspace import Workspace


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_tail_is_a_body_and_a_head(make_workspace, precision):
    place = make_workspace("resnet18", "resnet34")
    plain = build(place, cut=2, precision=precision, bundle_name="plain")
    report = build(place, cut=2, precision=precision, embeddings=True)
    assert report.folder == place.engines / f"resnet18+resnet34-cut2-{precision}"
    manifest = read_manifest(report.folder)
    assert [(s.name, s.parent, s.classes is None) for s in manifest.stages] == [
        ("prefix", None, True),
        ("resnet18-body", "prefix", True), ("resnet18", "resnet18-body", False),
        ("resnet34-body", "prefix", True), ("resnet34", "resnet34-body", False),
    ]  # fmt: skip
    assert all(manifest.embedding_of(tail) for tail in manifest.tails)
    assert not any(plain.manifest.embedding_of(tail) for tail in plain.manifest.tails)
    # The feature maps are the same, and so is what finds them.
    assert manifest.stages[0].id == plain.manifest.stages[0].id
    assert len({stage.id for stage in manifest.stages}) == 5
    assert manifest.costs["tails"].keys() == {"resnet18", "resnet34"}
    images = images_of(report)
    for name in ("resnet18", "resnet34"):
        body, head = manifest.path_to(manifest.tail(name))[1:]
        dtype = {"fp32": "float32", "fp16": "float16"}[precision]
        (given,), (taken,) = body.outputs, head.inputs
        assert (body.role, head.role, given.kind) == ("body", "head", "embedding")
        assert taken.source == given.name
        assert (head.inputs[0].dtype, head.inputs[0].shape) == (dtype, (None, 512 // THINNER))
        whole, none = outcome_of(plain.folder, images, tail=name)
        logits, embeddings = outcome_of(report.folder, images, tail=name)
        assert none is None
        assert (embeddings.dtype, embeddings.shape) == (dtype, (5, 512 // THINNER))
        if precision == "fp32":
            np.testing.assert_array_equal(logits, whole)
        # fp16: the vector is rounded to 2^-11, each product of the last layer by as much at most.
        scale = np.abs(whole).max()
        np.testing.assert_allclose(logits, whole, atol=2**-11 * 4 * scale)
        weights, bias = last_layer(place.export_path(name))
        made = embeddings.astype(np.float32) @ weights.T + bias
        np.testing.assert_allclose(logits, made, atol=2**-11 * 4 * scale)
        assert manifest.verified["tails"][name]["agreement"] == 1.0


@pytest.mark.slow
def test_a_vgg(tmp_path):
    place = Workspace(tmp_path)
    with thin_networks():
        trtkit.export("vgg11", name="vgg", weights="random", image_size=32, workspace=tmp_path)
    report = build(place, "vgg", cut=3, embeddings=True)
    images = images_of(report, 2)
    logits, embeddings = outcome_of(report.folder, images)
    assert embeddings.shape == (2, 4096 // THINNER)
    whole = run(onnx.load(place.export_path("vgg")), images)
    np.testing.assert_allclose(logits, whole, atol=1e-5 * np.abs(whole).max())
    weights, bias = last_layer(place.export_path("vgg"))
    np.testing.assert_allclose(logits, embeddings @ weights.T + bias, rtol=1e-3, atol=1e-6)


def test_without_the_option_nothing_is_as_it_was_not(make_workspace, monkeypatch):
    place = make_workspace("resnet18")
    model = load_model("resnet18", place.export_path("resnet18"))
    root, tail = stage_tree([model], 2, "fp32")
    assert root.id == stage_id(graph_digest(root.graph), "fp32", None)
    assert tail.id == stage_id(graph_digest(tail.graph), "fp32", root.id)
    assert (tail.parent, tail.part, root.part) == ("prefix", False, False)
    again, body, head = stage_tree([model], 2, "fp32", embeddings=True)
    assert again.id == root.id
    assert body.id == stage_id(graph_digest(body.graph), "fp32", root.id)
    assert head.id == stage_id(graph_digest(head.graph), "fp32", body.id)
    assert (again.part, body.part, head.part) == (False, True, True)

    asked = []
    real = requests.build_id
    monkeypatch.setattr(requests, "build_id", lambda **what: asked.append(what) or real(**what))
    first = build(place, cut=2)
    divided = build(place, cut=2, embeddings=True)
    assert not divided.up_to_date
    assert build(place, cut=2, embeddings=True).up_to_date
    last = build(place, cut=2)
    assert not last.up_to_date
    assert first.manifest.build_id == last.manifest.build_id != divided.manifest.build_id
    assert asked[0].keys() == {
        "models", "cut", "precision", "options", "backend", "samples", "min_agreement", "trtkit",
    }  # fmt: skip
    assert asked[1] == {**asked[0], "embeddings": True}


def test_it_is_rebuilt_from_what_it_keeps(make_workspace):
    place = make_workspace("resnet18")
    report = build(place, cut=3, embeddings=True, bundle_name="b")
    images = images_of(report)
    before = outcome_of(report.folder, images)
    assert build(place, bundle_name="b").up_to_date
    assert build(place, bundle_name="b", embeddings=True).up_to_date
    place.export_path("resnet18").unlink()
    for stage in report.manifest.stages:
        (report.folder / stage.file).write_bytes(b"damaged")
    again = build(place, bundle_name="b")
    assert not again.up_to_date
    assert [(s.name, s.id, s.parent) for s in again.manifest.stages] == [
        (s.name, s.id, s.parent) for s in report.manifest.stages
    ]
    for now, then in zip(outcome_of(again.folder, images), before, strict=True):
        np.testing.assert_array_equal(now, then)
    half = build(place, bundle_name="b", precision="fp16")
    assert half.manifest.stages[1].outputs[0].dtype == "float16"


def test_photos_and_their_feature_maps_give_the_same(make_workspace, tmp_path):
    place = make_workspace("resnet18")
    write_photos(tmp_path / "photos", count=5, size=(90, 70))
    options = trtkit.CacheOptions(mode="always", dtype="fp32")
    found = []
    for embeddings in (False, True):
        folder = build(place, cut=2, embeddings=embeddings, bundle_name=f"b{embeddings}").folder
        with trtkit.load(folder, cache=options) as pipeline:
            found.append(list(pipeline.infer([tmp_path / "photos"])))
            # The prefix is the same: the second bundle finds the first one's maps.
            assert (pipeline.stats.hits, pipeline.stats.misses) == ((0, 5), (5, 0))[embeddings]
    for one, other in zip(*found, strict=True):
        assert one.predictions == other.predictions


@pytest.mark.usefixtures("thin")
def test_it_is_evaluated_as_any_other(cheap, digits, tmp_path):
    checkpoint = Workspace(cheap).find_checkpoint("cheap")
    trtkit.export(str(checkpoint), name="cheap", workspace=tmp_path)
    place = Workspace(tmp_path)
    plain = build(place, cut=2, bundle_name="plain")
    divided = build(place, cut=2, bundle_name="divided", embeddings=True)
    scores = trtkit.evaluate(
        digits, bundles=[plain.folder, divided.folder], part="all", workspace=tmp_path
    )
    first, second = scores.subjects
    assert (second.agreement, second.top1) == (1.0, first.top1)


def test_the_baselines_join_three_stages(make_workspace):
    place = make_workspace("resnet18")
    report = build(place, cut=2, embeddings=True)
    parts = source_graphs(report.folder, report.manifest, "resnet18")
    assert len(parts) == 3
    images = images_of(report, 2)
    wanted = run(onnx.load(place.export_path("resnet18")), images)
    np.testing.assert_array_equal(run(merged(parts), images), wanted)
    with thin_networks():
        network = load_network("torch", parts, classes=1000, threads=1, examples=[images])
    np.testing.assert_allclose(network.logits(images), wanted, atol=1e-4 * np.abs(wanted).max())


def test_the_cut_is_chosen_in_front_of_it(make_workspace, monkeypatch):
    place = make_workspace("resnet18")
    profiles = {"resnet18": make_profile([0.01] * 8, sizes=[9000 - 1000 * n for n in range(8)])}
    monkeypatch.setattr(
        "trtkit.building.cut.kept_profile", lambda place, name, settings: profiles[name]
    )
    monkeypatch.setattr(
        "trtkit.costs.workbench.measure_cuts",
        lambda profiles, models, cuts, **options: {cut: 1 / cut for cut in cuts},
    )
    report = build(place, cut="auto", embeddings=True)
    assert report.manifest.cut == 8
    assert report.manifest.embedding_of(report.manifest.tails[0])
    # As if the model's last two blocks came behind its embedding.
    monkeypatch.setattr("trtkit.graph.embedding.cuts_before_embedding", lambda *model: 6)
    monkeypatch.setattr("trtkit.building.cut.build_id", lambda **content: "6" * 64)
    assert build(place, cut="auto", embeddings=True).manifest.cut == 6
    profiles["resnet18"] = make_profile([0.0001] * 8, read=0.1)
    with pytest.raises(TrtkitError, match="--cut auto finds none worth its cache"):
        build(place, cut="auto", embeddings=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut": 0}, "and cut 0 makes none; give a --cut of 1 or more"),
        ({"cut": None}, "No --cut given"),
        ({"cut": 9}, "resnet18 has 8 blocks and no cut 9; choose 1 to 8"),
    ],
)
def test_bad_requests(make_workspace, options, message):
    place = make_workspace("resnet18")
    with pytest.raises(TrtkitError, match=message):
        build(place, embeddings=True, **options)
    assert place.bundles() == []


def test_a_bundle_without_cannot_be_rebuilt_with(make_workspace):
    place = make_workspace("resnet18")
    build(place, cut=2, bundle_name="b")
    with pytest.raises(TrtkitError, match="Bundle b was built without embeddings; .* --embeddings"):
        build(place, bundle_name="b", embeddings=True)


def test_a_model_of_the_body_s_name(make_workspace):
    place = make_workspace("resnet18")
    place.export_path("resnet18-body").write_bytes(place.export_path("resnet18").read_bytes())
    with pytest.raises(
        TrtkitError, match="A model cannot be named 'resnet18-body', .* another --name"
    ):
        build(place, cut=2, embeddings=True)
    assert build(place, cut=2).manifest.stages[-1].name == "resnet18-body"


def without_product(place, name: str) -> None:
    """resnet18 whose logits are its pooled maps, without a last product."""
    model = onnx.load(place.export_path("resnet18"))
    (gemm,) = (each for each in model.graph.node if each.op_type == "Gemm")
    vector = gemm.input[0]
    model.graph.node.remove(gemm)
    output = model.graph.output[0]
    output.name = vector
    output.type.tensor_type.shape.dim[1].dim_value = 512 // THINNER
    (kept,) = (each for each in model.metadata_props if each.key == METADATA_KEY)
    card = json.loads(kept.value)
    card["classes"] = card["classes"][: 512 // THINNER]
    kept.value = json.dumps(card)
    write_sealed(model, place.export_path(name))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_model_without_a_last_product(make_workspace, monkeypatch, precision):
    place = make_workspace("resnet18")
    without_product(place, "bare")
    monkeypatch.setattr(
        "trtkit.quantization.quantizer.quantize_models",
        lambda *arguments: pytest.fail("it is known before anything is calibrated"),
    )
    with pytest.raises(
        TrtkitError,
        match="bare has no embeddings: .* come out of .*; build it without --embeddings",
    ):
        build(place, "bare", cut=2, embeddings=True, precision=precision)
    assert place.bundles() == []
    assert build(place, "bare", cut=2).manifest.cut == 2


def test_the_command(make_workspace, monkeypatch, capsys):
    import sys

    from trtkit.cli.main import run as command

    place = make_workspace("resnet18")
    monkeypatch.setattr("trtkit.cli.main.own_process", lambda: None)
    arguments = ["build", "--cut", "2", "--embeddings", "--workspace", str(place.root)]
    monkeypatch.setattr(sys, "argv", ["trtkit", *arguments])
    with pytest.raises(SystemExit) as ended:
        command()
    assert not ended.value.code
    rows = [line.split("\t")[1:3] for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["prefix", "image"], ["resnet18-body", "prefix"], ["resnet18", "resnet18-body"]]
