"""Exporting: what is in the file, and what is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import trtkit
from tests.graph.onnx_graphs import classifier, run
from tests.pictures import write_photos
from tests.quantized import quantize
from tests.recorded.workspace import thin
from trtkit import TrtkitError
from trtkit.graph.card import ModelCard
from trtkit.models import weights
from trtkit.photos.samples import generate_images
from trtkit.preprocessing import Preprocessing


def test_an_exported_architecture(exports):
    model = onnx.load(exports / "resnet18.onnx")
    onnx.checker.check_model(model, full_check=True)
    (image,) = model.graph.input
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = image.type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 64, 64, 3]
    assert [node.op_type for node in model.graph.node[:4]] == ["Cast", "Transpose", "Sub", "Mul"]
    card = ModelCard.read_from(model, "resnet18")
    assert card.architecture == "resnet18"
    assert card.weights == "random seed 0"
    assert card.preprocessing == Preprocessing(64, 64, 73)
    assert [block.name for block in card.blocks][:3] == ["layer1.0", "layer1.1", "layer2.0"]
    assert len(card.classes) == 1000


def test_tensorrt_8_can_parse_it(exports):
    model = onnx.load(exports / "resnet18.onnx")
    assert model.opset_import[0].version <= 17
    assert {node.op_type for node in model.graph.node} == {
        "Add", "Cast", "Conv", "Gemm", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Reshape",
        "Sub", "Transpose",
    }  # fmt: skip


def test_no_path_of_the_exporting_machine_is_in_the_file(exports):
    content = (exports / "resnet18.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path.cwd()).encode() not in content


def test_weights_have_the_names_of_the_state_dict(exports):
    names = {weight.name for weight in onnx.load(exports / "resnet18.onnx").graph.initializer}
    assert {"conv1.weight", "layer1.0.conv2.weight", "layer2.0.downsample.0.weight"} <= names
    assert "fc.weight" in names


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize(("name", "size"), [("vgg11", 64), ("vgg13_bn", 80), ("resnet50", 72)])
def test_it_agrees_with_torch_at_any_batch(tmp_path, name, size):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"label {i}" for i in range(12)))
    report = trtkit.export(
        name, weights="random", seed=2, image_size=size, classes=labels, workspace=tmp_path
    )
    assert report.verified.relative_error < 1e-4
    model = weights.random(name, seed=2, classes=12).model
    image = Preprocessing.for_image_size(size)
    images = generate_images(3, image, seed=4)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = model.network(x).numpy()
    exported = onnx.load(report.path)
    for batch in (1, 3):
        logits = run(exported, images[:batch])
        scale = np.abs(expected).max()
        np.testing.assert_allclose(logits, expected[:batch], atol=1e-4 * scale)
    assert ModelCard.read_from(exported, name).classes[11] == "label 11"


def test_a_checkpoint_brings_its_classes(tmp_path):
    from trtkit.models.checkpoint import save_checkpoint

    model = weights.random("resnet18", classes=2).model
    path = tmp_path / "cheap.safetensors"
    save_checkpoint(path, model, ["cat", "dog"], Preprocessing.for_image_size(64))
    report = trtkit.export(path, workspace=tmp_path)
    card = ModelCard.read_from(onnx.load(report.path), "cheap")
    assert (report.name, report.classes) == ("cheap", 2)
    assert card.classes == ["cat", "dog"]
    assert card.weights == "checkpoint cheap.safetensors"
    assert card.preprocessing == Preprocessing.for_image_size(64)


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resize": (32, 64)}, Preprocessing(32, 64, (32, 64))),
        ({"resize": "36", "image_size": 32}, Preprocessing(32, 32, 36)),
        ({"crop": "none", "image_size": 32}, Preprocessing(32, 32, (32, 32), "none")),
        (
            {"image_size": 32, "resize": "none", "channels": "bgr", "resampling": "fast"},
            Preprocessing(32, 32, None, channels="bgr", resampling="fast"),
        ),
    ],
)
def test_an_author_may_have_prepared_photos_differently(tmp_path, options, expected):
    report = trtkit.export("resnet18", weights="random", workspace=tmp_path, **options)
    assert ModelCard.read_from(onnx.load(report.path), "resnet18").preprocessing == expected
    assert report.photos == expected.describe()


def test_a_foreign_model_that_was_trained_on_squashed_photos(tmp_path):
    path = tmp_path / "squashed.onnx"
    onnx.save(classifier(), path)
    report = trtkit.export(path, resize="8x8", channels="bgr", workspace=tmp_path)
    card = ModelCard.read_from(onnx.load(report.path), "squashed")
    assert card.preprocessing == Preprocessing(8, 8, (8, 8), channels="bgr")
    with pytest.raises(TrtkitError, match="at least 8x8"):
        trtkit.export(path, resize="6x8", workspace=tmp_path)


def test_a_checkpoint_keeps_how_its_photos_were_prepared(tmp_path):
    from trtkit.models.checkpoint import save_checkpoint

    path = tmp_path / "old.safetensors"
    own = Preprocessing(64, 64, 73, channels="gray", resampling="fast")
    save_checkpoint(path, weights.random("resnet18", classes=2).model, ["a", "b"], own)
    report = trtkit.export(path, workspace=tmp_path, image_size=32)
    card = ModelCard.read_from(onnx.load(report.path), "old")
    assert card.preprocessing == Preprocessing(32, 32, 37, channels="gray", resampling="fast")


def test_a_state_dict_of_another_class_count(tmp_path):
    path = tmp_path / "two.pth"
    torch.save(weights.random("resnet18", classes=2).model.network.state_dict(), path)
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    with pytest.raises(TrtkitError, match="3 labels do not fit a model of 2 classes"):
        trtkit.export("resnet18", weights=path, classes=labels, workspace=tmp_path)
    with pytest.raises(TrtkitError, match="does not fit resnet34"):
        trtkit.export("resnet34", weights=path, workspace=tmp_path)


def test_photos_of_the_workspace_are_what_it_is_compared_on(tmp_path):
    write_photos(tmp_path / "calibration", count=5, size=(80, 80))
    report = trtkit.export("resnet18", weights="random", image_size=64, workspace=tmp_path)
    assert report.images == f"4 photos of {tmp_path / 'calibration'}"


@pytest.mark.parametrize(
    "options",
    [{"batch": 1, "reshape": [1, 4]}, {"softmax": True}, {"batch": 2}, {"constant_nodes": True}],
)
def test_a_foreign_file(tmp_path, options):
    path = tmp_path / "theirs.onnx"
    onnx.save(classifier(**options), path)
    report = trtkit.export(path, workspace=tmp_path, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert (report.architecture, report.classes, report.image) == ("foreign", 5, "8 x 8")
    assert report.verified.relative_error < 1e-4
    points = trtkit.cuts("theirs", workspace=tmp_path)
    assert [point.block for point in points] == ["conv1", "relu1", "add", "pool", "flatten"]
    bundle = trtkit.build(["theirs"], cut=3, workspace=tmp_path)
    assert bundle.manifest.verified["tails"]["theirs"]["agreement"] == 1.0


def test_a_file_that_disagrees_is_not_kept(tmp_path, monkeypatch):
    from trtkit.graph import export as module

    real = module.reference_logits
    monkeypatch.setattr(
        module, "reference_logits", lambda *arguments: real(*arguments) * np.float32(1.01)
    )
    with pytest.raises(TrtkitError, match=r"The exported resnet18 disagrees .* nothing was kept"):
        trtkit.export("resnet18", weights="random", image_size=64, workspace=tmp_path)
    assert not list((tmp_path / "export").iterdir())


def test_a_failed_export_keeps_the_old_file(tmp_path, monkeypatch):
    place = tmp_path / "export"
    place.mkdir()
    (place / "theirs.onnx").write_bytes(b"the old one")
    onnx.save(classifier(), tmp_path / "theirs.onnx")

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(TrtkitError, match="No space left on device"):
        trtkit.export(tmp_path / "theirs.onnx", workspace=tmp_path)
    assert (place / "theirs.onnx").read_bytes() == b"the old one"
    assert len(list(place.iterdir())) == 1


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnt50", {}, "Architecture 'resnt50' not found; did you mean resnet50"),
        ("model.pkl", {}, r"There is no file or folder model\.pkl"),
        ("missing.pth", {}, r"There is no file or folder missing\.pth"),
        ("missing.onnx", {}, r"There is no file or folder missing\.onnx"),
        ("resnet18", {"weights": "no.safetensors"}, "is not a source of weights; give imagenet"),
        ("resnet18", {"weights": "random", "image_size": 0}, "cannot be cropped"),
        ("resnet18", {"name": "a/b"}, "cannot be the name"),
        ("resnet18", {"classes": "missing.txt"}, r"labels missing\.txt cannot be read"),
    ],
)
def test_requests_that_cannot_be_carried_out(tmp_path, model, options, message):
    with pytest.raises(TrtkitError, match=message):
        trtkit.export(model, workspace=tmp_path, **options)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x08\x12\x00" * 9])
def test_a_damaged_onnx_file(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(TrtkitError, match=r"bad\.onnx is (empty|cut short|not a valid)") as caught:
        trtkit.export(path, workspace=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_too_small_for_its_blocks(tmp_path):
    with pytest.raises(TrtkitError, match=r"vgg11 cannot take images of 8 x 8 .* --image-size"):
        trtkit.export("vgg11", weights="random", image_size=8, workspace=tmp_path)


def test_an_export_of_ours_is_not_adopted_again(exports, tmp_path):
    with pytest.raises(TrtkitError, match="was exported by trtkit already"):
        trtkit.export(exports / "resnet18.onnx", workspace=tmp_path)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"mean": (123.675, 116.28, 103.53)}, r"divide it by 255: --mean 0\.485,0\.456,0\.406"),
        ({"std": (58.395, 57.12, 57.375)}, r"divide it by 255: --std 0\.229,0\.224,0\.225"),
        ({"mean": (-0.2, 0, 0)}, r"--mean -0\.2,0,0 is not in units of 0 to 1"),
        ({"mean": (float("nan"), 0, 0)}, r"--mean nan,0,0 is not in units of 0 to 1"),
        ({"std": (0, 1, 1)}, r"--std 0,1,1 is not in units of 0 to 1"),
    ],
)
def test_mean_and_std_are_in_0_to_1(tmp_path, options, advice):
    onnx.save(classifier(), tmp_path / "theirs.onnx")
    with pytest.raises(TrtkitError, match=advice):
        trtkit.export(tmp_path / "theirs.onnx", workspace=tmp_path, **options)
    assert not (tmp_path / "export").exists()


def test_networks_that_take_0_to_255_divide_by_one_255th(tmp_path):
    onnx.save(classifier(), tmp_path / "theirs.onnx")
    report = trtkit.export(
        tmp_path / "theirs.onnx", mean=(0, 0, 0), std=(1 / 255,) * 3, workspace=tmp_path
    )
    assert report.verified.agreement == 1.0


def read_card(report) -> ModelCard:
    return ModelCard.read_from(onnx.load(report.path), report.name)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_labels_as_windows_and_macos_write_them(tmp_path, encoding):
    onnx.save(classifier(), tmp_path / "theirs.onnx")
    labels = tmp_path / "labels.txt"
    labels.write_bytes("ape\r\ncafe\u0301\r\n\r\nc\r\nd\r\ne\r\n".encode(encoding))
    report = trtkit.export(tmp_path / "theirs.onnx", classes=labels, workspace=tmp_path)
    assert read_card(report).classes == ["ape", "caf\u00e9", "c", "d", "e"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\ncaf\u00e9\ncafe\u0301\n", "in two Unicode forms"), ("a\n", "holds one label")],
)
def test_labels_that_are_no_classes(tmp_path, text, message):
    labels = tmp_path / "labels.txt"
    labels.write_text(text, encoding="utf-8")
    with pytest.raises(TrtkitError, match=message):
        trtkit.export("resnet18", weights="random", classes=labels, workspace=tmp_path)


def test_names_in_the_metadata_of_a_file(tmp_path):
    model = classifier()
    onnx.helper.set_model_props(model, {"names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e'}"})
    onnx.save(model, tmp_path / "theirs.onnx")
    report = trtkit.export(tmp_path / "theirs.onnx", workspace=tmp_path)
    assert read_card(report).classes == list("abcde") and report.notes == ()
    onnx.helper.set_model_props(model, {"names": "{0: 'a', 1: 'b'}"})
    onnx.save(model, tmp_path / "theirs.onnx")
    report = trtkit.export(tmp_path / "theirs.onnx", workspace=tmp_path)
    assert read_card(report).classes[0] == "class 0"
    assert "names 2 classes and gives 5 outputs" in report.notes[0]


@pytest.mark.parametrize(
    ("ending", "scores"),
    [(("Softmax", "Identity"), "softmax"), (("Sigmoid",), "sigmoid"), (("Exp",), "softmax")],
)
def test_the_card_says_how_outputs_become_scores(tmp_path, ending, scores):
    onnx.save(classifier(ending=ending), tmp_path / "theirs.onnx")
    report = trtkit.export(tmp_path / "theirs.onnx", workspace=tmp_path)
    assert report.scores == read_card(report).scores == scores
    assert report.verified.agreement == 1.0
    told = " ".join(report.notes)
    assert ("independent labels (sigmoid)" in told) == (scores == "sigmoid")
    stated = trtkit.export(tmp_path / "theirs.onnx", scores="none", workspace=tmp_path)
    assert read_card(stated).scores == ("none" if ending == ("Exp",) else scores)


def test_a_softmax_of_single_steps_is_seen_by_its_sums(tmp_path):
    onnx.save(classifier(ending=("Softmax", "Abs")), tmp_path / "theirs.onnx")
    report = trtkit.export(tmp_path / "theirs.onnx", workspace=tmp_path)
    assert report.scores == read_card(report).scores == "none"
    assert "sum to 1" in report.notes[0]


def test_one_output_is_told_with_the_names_of_its_classes(tmp_path):
    onnx.save(classifier(classes=1, ending=("Sigmoid",)), tmp_path / "theirs.onnx")
    labels = tmp_path / "labels.txt"
    labels.write_text("good\nbad\n", encoding="utf-8")
    report = trtkit.export(tmp_path / "theirs.onnx", classes=labels, workspace=tmp_path)
    assert report.notes == ("One output is two classes: good for a low score, bad for a high one.",)
    assert (read_card(report).classes, report.verified.agreement) == (["good", "bad"], 1.0)


def test_a_network_that_hardly_depends_on_the_photo_is_a_warning(tmp_path):
    write_photos(tmp_path / "calibration", count=4, size=(80, 80))
    options = {"workspace": tmp_path, "mean": (0.5, 0.5, 0.5)}
    onnx.save(classifier(), tmp_path / "theirs.onnx")
    assert trtkit.export(tmp_path / "theirs.onnx", std=(0.2, 0.2, 0.2), **options).notes == ()
    # Behind a layer that divides by 50 as well.
    dull = classifier()
    for weight in dull.graph.initializer:
        if weight.name == "w1":
            weight.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) / 50, "w1")
            )
    dull.graph.initializer.append(
        onnx.numpy_helper.from_array(np.float32([3, 2, 1, 0, -1]), "bias")
    )
    next(node for node in dull.graph.node if node.op_type == "Gemm").input.append("bias")
    onnx.save(dull, tmp_path / "dull.onnx")
    (sentence,) = trtkit.export(tmp_path / "dull.onnx", std=(1, 1, 1), **options).notes
    assert "All 4 photos" in sentence and "class 0" in sentence and "--mean and --std" in sentence


def test_an_old_export_of_one_class_is_not_built(tmp_path):
    onnx.save(classifier(), tmp_path / "theirs.onnx")
    path = trtkit.export(tmp_path / "theirs.onnx", workspace=tmp_path).path
    model = onnx.load(path)
    ModelCard("foreign", "x", ["only"], Preprocessing(8, 8, 8), []).write_to(model)
    onnx.save(model, path)
    with pytest.raises(TrtkitError, match="with a single class"):
        trtkit.build(["theirs"], cut=0, workspace=tmp_path)


def test_a_quantized_file_is_compared_by_what_its_graph_says(tmp_path):
    noise = np.random.default_rng(0).standard_normal((3, 32, 32)).astype(np.float32)
    path = quantize(thin("b", (24, 32)), tmp_path / "quantized.onnx", [noise])
    report = trtkit.export(path, workspace=tmp_path)
    assert report.verified.relative_error < 0.1
    # Its weights stay bytes.
    sizes = [
        sum(
            weight.data_type == onnx.TensorProto.INT8
            for weight in onnx.load(file).graph.initializer
        )
        for file in (path, report.path)
    ]
    assert sizes[0] == sizes[1] > 10


def test_a_resize_is_read_before_weights_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "imagenet", lambda name: pytest.fail("weights were looked for"))
    with pytest.raises(TrtkitError, match="--resize 12x is no size"):
        trtkit.export("resnet18", resize="12x", workspace=tmp_path)
