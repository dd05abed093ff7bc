"""A user's ONNX detector: known forms, boxes in pixels of the frame, and what is not understood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from scripts.measure.contents import content
from tests.video.fakes import OPTIONS, FakeFootage, Patch, run
from tests.video.pictures import Pixels
from trtkit.errors import TrtkitError
from trtkit.video.detections import Box
from trtkit.video.detectors import detector_name, with_detector
from trtkit.video.frames import Frame
from trtkit.video.onnxdetector import OnnxDetector

SIDE = 64
# Corners in the network's picture, score, class: two of one thing, another class there, and one too weak.
FOUND = [
    ((8, 16, 24, 48), 0.9, 2), ((9, 17, 24, 48), 0.8, 2), ((8, 16, 24, 48), 0.7, 1),
    ((40, 20, 60, 40), 0.6, 0), ((40, 50, 60, 60), 0.1, 0),
]  # fmt: skip
CLASSES = 3


def centred(corners: tuple[int, ...]) -> list[float]:
    left, top, right, bottom = corners
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def yolov8() -> np.ndarray:
    rows = np.zeros((40, 4 + CLASSES), np.float32)
    for row, (corners, score, label) in zip(rows, FOUND, strict=False):
        row[:4], row[4 + label] = centred(corners), score
    return rows.T[None]


def yolov5() -> np.ndarray:
    rows = np.zeros((40, 5 + CLASSES), np.float32)
    for row, (corners, score, label) in zip(rows, FOUND, strict=False):
        # Objectness times the class's share.
        row[:4], row[4], row[5 + label] = centred(corners), 0.95, score / 0.95
    return rows[None]


def final() -> np.ndarray:
    rows = np.zeros((30, 6), np.float32)
    for row, (corners, score, label) in zip(rows, FOUND, strict=False):
        row[:] = (*corners, score, label)
    return rows[None]


def torchvision(*, batched: bool) -> dict[str, np.ndarray]:
    corners, scores, labels = zip(*FOUND, strict=True)
    outputs = {
        "boxes": np.float32(corners), "labels": np.int64(labels), "scores": np.float32(scores),
    }  # fmt: skip
    return {name: value[None] if batched else value for name, value in outputs.items()}


FORMS = {
    "yolov8": {"output0": yolov8()},
    "yolov5": {"output0": yolov5()},
    "final": {"output0": final()},
    "torchvision": torchvision(batched=False),
    "torchvision batched": torchvision(batched=True),
}


def write(
    path: Path,
    outputs: dict[str, np.ndarray],
    *,
    shape: tuple[object, ...] = (1, 3, SIDE, SIDE),
    kind: int = TensorProto.FLOAT,
    names: str | None = "{0: 'car', 1: 'dog', 2: 'person'}",
) -> Path:
    """A network that gives these outputs for every picture."""
    nodes = [helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0)]
    if kind == TensorProto.UINT8:
        nodes = [
            helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["wide"], ["most"], keepdims=0),
        ]
    # So that the picture counts: nothing is found where all of it is black.
    nodes.append(helper.make_node("Sign", ["most"], ["lit"]))
    constants, infos = [], []
    for name, value in outputs.items():
        constants.append(numpy_helper.from_array(value, f"{name}_value"))
        infos.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
        )
        nodes.append(
            helper.make_node(
                "Cast", ["lit"], [f"{name}_lit"], to=infos[-1].type.tensor_type.elem_type
            )
        )
        nodes.append(helper.make_node("Mul", [f"{name}_value", f"{name}_lit"], [name]))
    graph = helper.make_graph(
        nodes, "detector", [helper.make_tensor_value_info("images", kind, shape)], infos, constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if names is not None:
        helper.set_model_props(model, {"names": names})
    onnx.save(model, path)
    return path


def frame(width: int = SIDE, height: int = SIDE) -> Frame:
    return Frame(0, Pixels(np.full((height, width, 3), 90, np.uint8)))


def found(detector: OnnxDetector, shown: Frame) -> list[tuple[Box, float]]:
    detections = detector.detect(shown)
    return [
        (detections.box(n), round(float(detections.scores[n]), 3)) for n in range(len(detections))
    ]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(tmp_path: Path, form: str) -> None:
    detector = OnnxDetector(write(tmp_path / "d.onnx", FORMS[form]))
    assert found(detector, frame()) == [
        (Box(8, 16, 16, 32), 0.9), (Box(8, 16, 16, 32), 0.7), (Box(40, 20, 20, 20), 0.6),
    ]  # fmt: skip
    assert detector.detect(frame()).size == (SIDE, SIDE) and detector.state() == b""


@pytest.mark.parametrize(
    ("width", "height", "first"),
    [
        # Twice as large; wide, with grey above and below; tall, with grey on both sides.
        (128, 128, Box(16, 32, 32, 64)),
        (128, 64, Box(16, 0, 32, 64)),
        (64, 128, Box(0, 32, 16, 64)),
    ],
)
def test_boxes_are_in_pixels_of_the_frame(
    tmp_path: Path, width: int, height: int, first: Box
) -> None:
    detector = OnnxDetector(write(tmp_path / "d.onnx", FORMS["yolov8"]))
    assert found(detector, frame(width, height))[0] == (first, 0.9)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (("n", 3, "h", "w"), TensorProto.FLOAT),
        ((3, SIDE, SIDE), TensorProto.FLOAT),
        ((1, SIDE, SIDE, 3), TensorProto.UINT8),
    ],
)
def test_inputs_of_several_kinds(tmp_path: Path, shape: tuple[object, ...], kind: int) -> None:
    path = write(tmp_path / "d.onnx", FORMS["yolov8"], shape=shape, kind=kind)
    assert len(found(OnnxDetector(path), frame())) == 3


def test_confidence_and_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "d.onnx", FORMS["yolov8"])
    assert len(found(OnnxDetector(path, 0.05), frame())) == 4
    assert len(found(OnnxDetector(path, 0.65), frame())) == 2
    assert found(OnnxDetector(path, classes=["dog"]), frame()) == [(Box(8, 16, 16, 32), 0.7)]
    assert len(found(OnnxDetector(path, classes=["car", "person"]), frame())) == 2
    assert len(found(OnnxDetector(path, classes=["0"]), frame())) == 1
    with pytest.raises(TrtkitError, match="Class 'cat' not found in d.onnx; .*car"):
        OnnxDetector(path, classes=["cat"])
    bare = write(tmp_path / "bare.onnx", FORMS["yolov8"], names=None)
    with pytest.raises(TrtkitError, match="it names none, so give numbers"):
        OnnxDetector(bare, classes=["cat"])


def test_nothing_is_found_where_there_is_nothing(tmp_path: Path) -> None:
    detector = OnnxDetector(write(tmp_path / "d.onnx", FORMS["torchvision"]))
    assert found(detector, Frame(0, Pixels(np.zeros((SIDE, SIDE, 3), np.uint8)))) == []


@pytest.mark.parametrize(
    ("outputs", "shape", "sentence"),
    [
        ({"logits": np.zeros((1, 10), np.float32)}, (1, 3, SIDE, SIDE), "gives logits 1 x 10, which is no"),
        ({"a": yolov8()}, (1, 4, SIDE, SIDE), "images 1 x 4 x 64 x 64; a detector takes"),
        ({"a": yolov8()}, (1, SIDE), "d.onnx takes images 1 x 64"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_one_sentence(
    tmp_path: Path, outputs: dict[str, np.ndarray], shape: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(TrtkitError, match=sentence):
        OnnxDetector(write(tmp_path / "d.onnx", outputs, shape=shape))


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(TrtkitError, match="is not a file"):
        OnnxDetector(tmp_path / "none.onnx")
    with pytest.raises(TrtkitError, match="cannot be read"):
        detector_name(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(TrtkitError, match="cannot load text.onnx"):
        OnnxDetector(tmp_path / "text.onnx")


def test_footage_is_ingested_by_it(tmp_path: Path) -> None:
    # It finds the same two boxes on every frame, so that they are tracks that go nowhere.
    path = write(tmp_path / "d.onnx", FORMS["final"])
    options, detector = with_detector(replace(OPTIONS, detector_classes=("person", "car")), path)
    assert options.detector == detector_name(path)
    footage = FakeFootage(30, (Patch(0, 29, (20, 20), (1, 0)),))
    progress = run(tmp_path / "store", footage, options, detector=detector)
    assert (progress.objects, progress.sightings) == (2, 60)
    (stored,) = content(tmp_path / "store").values()
    assert [row[2:4] for row in stored["objects"]] == [(0, 2_900_000)] * 2
    again = write(tmp_path / "other.onnx", FORMS["final"])
    other, detector = with_detector(options, again)
    with pytest.raises(TrtkitError, match="with other options"):
        run(tmp_path / "store", footage, other, detector=detector)


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"detector_confidence": 0.5}, "--detector-confidence"),
        ({"detector_classes": ("car",)}, "--detector-class"),
    ],
)
def test_options_of_a_missing_detector_are_refused(changed: dict[str, Any], option: str) -> None:
    with pytest.raises(TrtkitError, match=f"^{option} has no effect without --detector; "):
        with_detector(replace(OPTIONS, **changed), None)
    assert with_detector(OPTIONS, None) == (OPTIONS, None)
