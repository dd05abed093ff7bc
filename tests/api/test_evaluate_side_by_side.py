"""Bundles of one model side by side: errors at the cut and at the logits, size and speed."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper

import trtkit
from tests.pictures import write_photos
from trtkit.api.evaluate import evaluate
from trtkit.evaluation import scoring
from trtkit.evaluation.scoring import SubjectReport
from trtkit.identity import file_digest
from trtkit.photos.images import load_image
from trtkit.runtime.pipeline import Pipeline, load
from trtkit.serialization import to_plain, write_json

SCALE, ZERO = 0.0625, 9
TAIL = "resnet18"


@dataclass(frozen=True)
class Versions:
    """A workspace with bundles of resnet18, cut 2 unless their name says otherwise, and photos."""

    root: Path
    data: Path

    @property
    def engines(self) -> Path:
        return self.root / "engines"

    def report(self, *bundles: str, **options) -> list[SubjectReport]:
        return [*evaluate(self.data, bundles=bundles, workspace=self.root, **options).subjects]

    def outputs(self, bundle: str, tail: str = TAIL) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits and feature maps of all photos, in the order of the evaluation."""
        with load(self.engines / bundle, tail=tail) as pipeline:
            return pipeline.logits_and_features(images_of(pipeline, self.data))


def images_of(pipeline: Pipeline, data: Path) -> np.ndarray:
    photos, how = sorted(data.rglob("*.jpg")), pipeline.manifest.preprocessing
    return np.stack([load_image(path.read_bytes(), how) for path in photos])


@pytest.fixture(scope="module")
def versions(tmp_path_factory, exports) -> Versions:
    root = tmp_path_factory.mktemp("versions")
    (root / "export").symlink_to(exports)
    for bundle, cut, precision in (
        ("fp32", 2, "fp32"), ("fp16", 2, "fp16"), ("whole", 0, "fp32"), ("cut1", 1, "fp32"),
    ):  # fmt: skip
        trtkit.build([TAIL], cut=cut, precision=precision, bundle_name=bundle, workspace=root)
    for number in range(2):
        write_photos(root / f"data/class {number}", count=5, size=(96, 80), seed=number)
    store_bytes(root / "engines/fp32", root / "engines/bytes", {"scale": SCALE, "zero": ZERO})
    store_bytes(root / "engines/fp32", root / "engines/unknown", None)
    return Versions(root, root / "data")


def store_bytes(source: Path, folder: Path, boundary: dict | None) -> None:
    """A copy of a bundle whose feature map is uint8, said in its manifest to be `boundary`."""
    shutil.copytree(source, folder)
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text())
    prefix, tail = manifest["stages"]
    name = prefix["outputs"][0]["name"]
    constants = [
        helper.make_tensor("s", onnx.TensorProto.FLOAT, [], [SCALE]),
        helper.make_tensor("z", onnx.TensorProto.UINT8, [], [ZERO]),
    ]
    for stage, side in ((prefix, "output"), (tail, "input")):
        model = onnx.load(folder / stage["file"])
        graph = model.graph
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = ["float" if each == name else each for each in names]
        if side == "output":
            node = helper.make_node("QuantizeLinear", ["float", "s", "z"], [name])
            graph.node.append(node)
        else:
            node = helper.make_node("DequantizeLinear", [name, "s", "z"], ["float"])
            graph.node.insert(0, node)
        getattr(graph, side)[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
        graph.initializer.extend(constants)
        onnx.save(model, folder / stage["file"])
        stage["digest"] = file_digest(folder / stage["file"])
        stage[f"{side}s"][0]["dtype"] = "uint8"
    manifest.update(name=folder.name, precision="int8", quantized={"boundary": boundary})
    write_json(path, manifest)


def errors(values: np.ndarray, reference: np.ndarray) -> float:
    """The median photo's, by another formula than the package's."""
    away = np.square(values.astype(np.float64) - reference).reshape(len(values), -1).sum(axis=1)
    size = np.square(reference.astype(np.float64)).reshape(len(values), -1).sum(axis=1)
    return float(np.median(np.sqrt(away / size)))


def test_fp32_fp16_and_bytes(versions):
    first, half, stored = versions.report("fp32", "fp16", "bytes")
    logits, maps = versions.outputs("fp32")
    half_logits, half_maps = versions.outputs("fp16")
    byte_logits, byte_maps = versions.outputs("bytes")
    assert (first.logits_error, first.boundary_error, first.boundary_with) == (None, None, None)
    # fp16 keeps 11 bits of each number of the map: an error of at most 2^-11 of it.
    assert half_maps.dtype == np.float16
    assert 0 < half.boundary_error < 1e-3
    assert half.boundary_error == pytest.approx(errors(half_maps, maps), rel=1e-2)
    assert 0 < half.logits_error < 1e-2
    assert half.logits_error == pytest.approx(errors(half_logits, logits), rel=5e-2)
    assert byte_maps.dtype == np.uint8
    expected = errors((byte_maps.astype(np.float64) - ZERO) * SCALE, maps)
    # A step of 1/16 among activations of about 1; and none of what clipping or a wrong zero costs.
    assert 1e-3 < expected < 5e-2
    assert stored.boundary_error == pytest.approx(expected, rel=1e-3)
    assert stored.logits_error == pytest.approx(errors(byte_logits, logits), rel=5e-2)
    assert [each.boundary_with for each in (half, stored)] == [f"fp32/{TAIL}"] * 2
    assert [each.agrees_with for each in (half, stored)] == [f"fp32/{TAIL}"] * 2


def test_the_map_is_compared_with_the_first_that_has_it(versions):
    """Unsplit, or cut elsewhere to a map of the same shape: the logits alone are compared."""
    whole, other, first, half = versions.report("whole", "cut1", "fp32", "fp16")
    assert versions.outputs("cut1")[1].shape == versions.outputs("fp32")[1].shape
    assert [each.boundary_with for each in (whole, other, first, half)] == [
        None, None, None, f"fp32/{TAIL}",
    ]  # fmt: skip
    assert [each.boundary_error for each in (whole, other, first)] == [None] * 3
    assert 0 < half.boundary_error < 1e-3
    assert [each.agrees_with for each in (other, first, half)] == [f"whole/{TAIL}"] * 3
    assert other.logits_error < 1e-5
    assert first.logits_error < 1e-5
    assert 1e-5 < half.logits_error < 1e-2


def test_bytes_of_which_nothing_says_what_they_stand_for(versions):
    _, unknown = versions.report("fp32", "unknown")
    assert (unknown.boundary_error, unknown.boundary_with) == (None, None)
    assert unknown.logits_error > 0


def test_other_tails_have_other_maps(versions, built):
    folder = built / "engines" / "resnet18+resnet34-cut2-fp16"
    first, own, deeper = evaluate(
        versions.data, bundles=[versions.engines / "fp32", folder]
    ).subjects
    assert [each.tail for each in (first, own, deeper)] == [TAIL, TAIL, "resnet34"]
    assert 0 < own.boundary_error < 1e-3
    assert deeper.boundary_error is None


@pytest.mark.parametrize("batch", [1, 4])
def test_batches_that_split_the_photos_change_nothing(versions, monkeypatch, batch):
    monkeypatch.setattr(scoring, "DECODED_TOGETHER", 6)
    _, half, stored = versions.report("fp32", "fp16", "bytes", batch=batch)
    _, maps = versions.outputs("fp32")
    assert half.boundary_error == pytest.approx(errors(versions.outputs("fp16")[1], maps), rel=1e-2)
    values = (versions.outputs("bytes")[1].astype(np.float64) - ZERO) * SCALE
    assert stored.boundary_error == pytest.approx(errors(values, maps), rel=1e-3)
    assert (half.images, stored.images) == (10, 10)


def sizes_of(folder: Path) -> dict[str, int]:
    """The bytes of each stage's engine file on disk."""
    stages = json.loads((folder / "bundle.json").read_text())["stages"]
    return {stage["name"]: (folder / stage["file"]).stat().st_size for stage in stages}


def test_the_size_is_that_of_the_engines_on_the_path(versions, built):
    folder = built / "engines" / "resnet18+resnet34-cut2-fp16"
    sizes = sizes_of(folder)
    reports = evaluate(versions.data, bundles=[folder]).subjects
    assert {each.tail: each.bytes for each in reports} == {
        name: sizes["prefix"] + sizes[name] for name in (TAIL, "resnet34")
    }
    first, half, whole = versions.report("fp32", "fp16", "whole")
    assert {TAIL: whole.bytes} == sizes_of(versions.engines / "whole")
    assert half.bytes == pytest.approx(first.bytes / 2, rel=0.02)


def test_a_speed_of_each(versions, monkeypatch):
    reports = versions.report("whole", "fp32", "fp16", batch=1)
    assert all(each.images_per_second > 1 for each in reports)
    seconds = iter(np.arange(1000) * 0.5)
    clock = SimpleNamespace(perf_counter=lambda: next(seconds))
    monkeypatch.setattr("trtkit.evaluation.subjects.time", clock)
    # Two batches of 4 and one of 2, half a second each.
    (whole,) = versions.report("whole", batch=4)
    assert whole.images_per_second == 8.0


def test_the_json_has_plain_numbers(versions):
    reports = evaluate(versions.data, bundles=["fp32", "bytes"], workspace=versions.root)
    first, second = json.loads(json.dumps(to_plain(reports.subjects), allow_nan=False))
    assert (first["logits_error"], first["boundary_error"], first["boundary_with"]) == (None,) * 3
    assert second["boundary_with"] == f"fp32/{TAIL}"
    for key in ("logits_error", "boundary_error", "images_per_second"):
        assert isinstance(second[key], float)
    assert isinstance(second["bytes"], int)
