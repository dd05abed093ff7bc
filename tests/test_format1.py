"""A bundle of manifest format 1, as trtkit wrote it before stages had roles, still gives what it gave.

Commit 4d1ff8e built `data/format1`: a resnet18 and a resnet34 of 2 to 16 channels and three classes,
`--embeddings`, cut 2, fp32, 32 x 32. `data/format1-outputs.npz` holds images and what it gave for them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import trtkit
from tests.pictures import encoded
from tests.recorded.fingerprint import fingerprint
from trtkit.bundle import MANIFEST, read_manifest
from trtkit.errors import TrtkitError
from trtkit.scores import softmax
from trtkit.serialization import write_json
from trtkit.stages import OutputRef

DATA = Path(__file__).parent / "data"
BUNDLE = DATA / "format1"
OUTPUTS = dict(np.load(DATA / "format1-outputs.npz"))
IMAGES = OUTPUTS["images"]
HERE = f"onnxruntime {onnxruntime.__version__}, {fingerprint()['processor']}"
TAILS = ("resnet18", "resnet34")


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype
    if str(OUTPUTS["made_with"]) == HERE:
        np.testing.assert_array_equal(found, wanted)
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_the_outputs_tell_the_models_and_images_apart():
    assert np.abs(OUTPUTS["resnet18"] - OUTPUTS["resnet34"]).max() > 1e-2
    for name in (*TAILS, "prefix", "resnet18-body", "resnet34-body"):
        assert np.abs(OUTPUTS[name][0] - OUTPUTS[name][1:]).max(axis=0).max() > 1e-3


@pytest.mark.parametrize("tail", TAILS)
def test_it_gives_the_same_logits(tail):
    with trtkit.load(BUNDLE, tail=tail) as pipeline:
        assert_same(pipeline.logits(IMAGES), OUTPUTS[tail])
        logits, features = pipeline.logits_and_features(IMAGES)
        assert_same(logits, OUTPUTS[tail])
        assert_same(features, OUTPUTS["prefix"])


def test_both_tails_in_one_pass_give_all_the_same_outputs():
    with trtkit.load(BUNDLE, tail="all") as pipeline:
        refs = {
            OutputRef(stage.name, output.name): OUTPUTS[stage.name]
            for stage in pipeline.manifest.stages
            for output in stage.outputs
        }
        assert len(refs) == 5
        outputs = pipeline.runner.run(list(refs), IMAGES)
        for ref, wanted in refs.items():
            assert_same(outputs[ref], wanted)


def test_its_stages_have_roles():
    manifest = read_manifest(BUNDLE)
    assert {stage.name: (stage.role, stage.parent) for stage in manifest.stages} == {
        "prefix": ("prefix", None),
        "resnet18-body": ("body", "prefix"),
        "resnet18": ("head", "resnet18-body"),
        "resnet34-body": ("body", "prefix"),
        "resnet34": ("head", "resnet34-body"),
    }
    kinds = {stage.role: stage.outputs[0].kind for stage in manifest.stages}
    assert kinds == {"prefix": "feature_map", "body": "embedding", "head": "logits"}
    assert manifest.stages[0].inputs[0].source is None
    assert manifest.cut_of(manifest.tail("resnet34")) == manifest.cut_of(manifest.tail())
    assert [ref.stage for ref in map(manifest.embedding_of, manifest.tails) if ref is not None] == [
        "resnet18-body",
        "resnet34-body",
    ]


def test_a_photo_is_classified_from_it():
    # 37 pixels at the shorter side are what is resized to before the crop, so nothing is resampled.
    pixels = np.zeros((37, 37, 3), np.uint8)
    with trtkit.load(BUNDLE, cache=trtkit.CacheOptions(mode="always")) as pipeline:
        size = pipeline.manifest.preprocessing.height
        first = (37 - size) // 2
        pixels[first : first + size, first : first + size] = IMAGES[0]
        for cached in (False, True):
            result = pipeline(encoded(pixels, "PNG"))
            assert result.cached == cached
            assert result.classes == ("ant", "bee", "cat")
            np.testing.assert_allclose(
                result.scores, softmax(OUTPUTS["resnet18"][:1])[0], rtol=1e-4
            )


def test_it_is_built_again_in_the_new_format(tmp_path):
    folder = tmp_path / "engines" / "format1"
    shutil.copytree(BUNDLE, folder)
    # As if another version of the backend had built it; else there would be nothing to build.
    manifest = json.loads((folder / MANIFEST).read_text())
    write_json(folder / MANIFEST, {**manifest, "build_id": "0"})
    trtkit.build(bundle_name="format1", workspace=tmp_path)
    assert json.loads((folder / MANIFEST).read_text())["format"] == 2
    for tail in TAILS:
        with trtkit.load(folder, tail=tail) as pipeline:
            assert_same(pipeline.logits(IMAGES), OUTPUTS[tail])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda stages: stages[0].pop("outputs"), "its stages lack 'outputs'"),
        (lambda stages: stages[0]["outputs"].clear(), "a stage has no outputs"),
        (lambda stages: stages[1].update(parent="perfix"), "its stages lack 'perfix'"),
        (lambda stages: stages[1].pop("inputs"), "its stages lack 'inputs'"),
    ],
)
def test_a_damaged_manifest(tmp_path, damage, problem):
    value = json.loads((BUNDLE / MANIFEST).read_text())
    damage(value["stages"])
    write_json(tmp_path / MANIFEST, value)
    with pytest.raises(TrtkitError) as raised:
        read_manifest(tmp_path)
    assert str(raised.value) == (
        f"The manifest {tmp_path / MANIFEST} cannot be read ({problem}); build the bundle again with "
        "`trtkit build`."
    )
