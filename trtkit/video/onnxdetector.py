"""A detector of the user's: an ONNX file with YOLO's outputs, or with those of torchvision."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trtkit.engines.probe import GraphProbe
from trtkit.errors import TrtkitError, available, listed
from trtkit.tensors import Array
from trtkit.video.detections import Detections
from trtkit.video.frames import Frame

# The side of a network that takes any size, and the grey around a frame of another shape: those of YOLO.
USUAL_SIDE = 640
_GREY = 114
# Boxes of one class that overlap more are one thing.
_SAME = 0.5
# An end-to-end network gives so many detections at most, one that still has all candidates far more.
_MOST_FINAL = 1000
UNDERSTOOD = (
    "1 x N x (5 + classes) of YOLOv5, 1 x (4 + classes) x N of YOLOv8, 1 x N x 6 of end-to-end networks, "
    "and boxes N x 4, scores N and labels N of torchvision"
)


class Boxes(NamedTuple):
    """What a network gives: corners float N x 4 (left, top, right, bottom), scores N, classes int N."""

    corners: Array
    scores: Array
    classes: Array


@dataclass(frozen=True)
class NetworkInput:
    """The input of a network: one image of `size` (height, width).

    `channels_first`: 3 x H x W, else H x W x 3; `batched`: with a batch of one before.
    """

    name: str
    dtype: str
    size: tuple[int, int]
    channels_first: bool
    batched: bool

    @classmethod
    def of(cls, inputs: Sequence[tuple[str, str, list[int | None]]], file: str) -> NetworkInput:
        """Raises TrtkitError for anything but one image of three channels."""
        if len(inputs) == 1:
            name, dtype, shape = inputs[0]
            sides = shape[-3:]
            if len(shape) in (3, 4) and 3 in (sides[0], sides[-1]):
                first = sides[0] == 3
                height, width = sides[1:] if first else sides[:2]
                size = (height or USUAL_SIDE, width or USUAL_SIDE)
                return cls(name, dtype, size, first, len(shape) == 4)
        shapes = listed([f"{name} {_shape(shape)}" for name, _, shape in inputs])
        raise TrtkitError(
            f"{file} takes {shapes}; a detector takes one image, N x 3 x H x W or N x H x W x 3."
        )

    def fed(self, image: Array) -> dict[str, Array]:
        """The input of an image, uint8 H x W x 3: 0 to 1 unless the network takes bytes."""
        value = image if self.dtype == "uint8" else (image / np.float32(255)).astype(self.dtype)
        value = value.transpose(2, 0, 1) if self.channels_first else value
        return {self.name: np.ascontiguousarray(value[None] if self.batched else value)}


class OnnxDetector:
    """Finds things by an ONNX file; see `Detector`.

    `confidence`: the least score, 0 to 1. `classes`: only these, by their names in the file's metadata
    (`names`) or by number; all without any. Raises TrtkitError for a file that is not understood.

        detector = OnnxDetector(Path("yolo.onnx"), classes=["person", "car"])
        detections = detector.detect(frame)
    """

    def __init__(self, path: Path, confidence: float = 0.3, classes: Sequence[str] = ()) -> None:
        if not path.is_file():
            raise TrtkitError(f"{path} is not a file; give --detector an ONNX file.")
        self._network = GraphProbe(path, path.name, often=True)
        self._input = NetworkInput.of(self._network.inputs, path.name)
        self._confidence = confidence
        # Sizes that only a run shows.
        blank = np.full((*self._input.size, 3), _GREY, np.uint8)
        self._read = _reader(self._run(blank), path.name)
        self._classes = _chosen(classes, self._network.metadata, path.name)

    def detect(self, frame: Frame) -> Detections:
        """The things on a frame, each class by itself, the surest first."""
        pixels = frame.picture.rgb()
        image, scale, (left, top) = _letterboxed(pixels, self._input.size)
        corners, scores, classes = self._read(self._run(image))
        kept = scores >= self._confidence
        if self._classes is not None:
            kept &= np.isin(classes, self._classes)
        corners, scores, classes = corners[kept], scores[kept], classes[kept]
        corners = (corners - [left, top, left, top]) / scale
        limits = np.array([frame.picture.width, frame.picture.height] * 2)
        corners = corners.clip(0, limits)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        own = _strongest(boxes, scores, classes)
        size = (frame.picture.width, frame.picture.height)
        return Detections.of(boxes[own], scores[own], size=size)

    def state(self) -> bytes:
        """Nothing: a frame's detections depend on that frame alone."""
        return b""

    def _run(self, image: Array) -> dict[str, Array]:
        return self._network.run(self._input.fed(image), self._network.outputs)


def _reader(outputs: Mapping[str, Array], file: str) -> Callable[[Mapping[str, Array]], Boxes]:
    """How boxes are read from outputs of these shapes. Raises TrtkitError where that is not known."""
    if len(outputs) == 1:
        ((name, value),) = outputs.items()
        if value.ndim == 3 and value.shape[0] == 1:
            _, rows, columns = value.shape
            if columns == 6 and rows <= _MOST_FINAL:
                return lambda values: _final(values[name][0])
            if columns > 5 and rows > columns:
                return lambda values: _with_objectness(values[name][0])
            if rows > 4 and columns > rows:
                return lambda values: _without_objectness(values[name][0].T)
    unbatched = {
        name: value[0] if _batch_of_one(value) else value for name, value in outputs.items()
    }
    boxes = [name for name, value in unbatched.items() if value.ndim == 2 and value.shape[1] == 4]
    flat = {name: value for name, value in unbatched.items() if value.ndim == 1}
    labels = [name for name, value in flat.items() if value.dtype.kind in "iu"]
    scores = [name for name, value in flat.items() if value.dtype.kind == "f"]
    if len(boxes) == len(labels) == len(scores) == 1:
        names = (boxes[0], scores[0], labels[0])
        return lambda values: Boxes(
            *(values[n][0] if _batch_of_one(values[n]) else values[n] for n in names)
        )
    shapes = listed([f"{name} {_shape(value.shape)}" for name, value in outputs.items()])
    raise TrtkitError(f"{file} gives {shapes}, which is no known detector; known are {UNDERSTOOD}.")


def _batch_of_one(value: Array) -> bool:
    """Whether a torchvision output has a batch before it: boxes 1 x N x 4, scores and labels 1 x N."""
    single = value.shape[:1] == (1,)
    return single and (value.ndim == 3 or (value.ndim == 2 and value.shape[1] != 4))


def _final(rows: Array) -> Boxes:
    return Boxes(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))


def _with_objectness(rows: Array) -> Boxes:
    scores = rows[:, 4:5] * rows[:, 5:]
    return Boxes(_corners(rows), scores.max(axis=1), scores.argmax(axis=1))


def _without_objectness(rows: Array) -> Boxes:
    scores = rows[:, 4:]
    return Boxes(_corners(rows), scores.max(axis=1), scores.argmax(axis=1))


def _corners(rows: Array) -> Array:
    """From centre, width and height."""
    half = rows[:, 2:4] / 2
    return np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)


def _letterboxed(pixels: Array, size: tuple[int, int]) -> tuple[Array, float, tuple[int, int]]:
    """A frame inside a grey image of `size` (height, width), its scale, and where it begins there."""
    import cv2

    height, width = pixels.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    down, across = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size[0] - down) // 2, (size[1] - across) // 2
    image = np.full((*size, 3), _GREY, np.uint8)
    image[top : top + down, left : left + across] = cv2.resize(
        pixels, (across, down), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    return image, scale, (left, top)


def _strongest(boxes: Array, scores: Array, classes: Array) -> list[int]:
    """The places of the boxes that no surer one of their class overlaps, the surest first."""
    import cv2

    if not len(boxes):
        return []
    kept = cv2.dnn.NMSBoxesBatched(
        boxes.astype(np.float64).tolist(), scores.astype(np.float32).tolist(),
        classes.astype(np.int32).tolist(), 0.0, _SAME,
    )  # fmt: skip
    return sorted(
        (int(place) for place in np.asarray(kept).ravel()),
        key=lambda place: (-scores[place], place),
    )


def _chosen(classes: Sequence[str], metadata: Mapping[str, str], file: str) -> Array | None:
    """The numbers of the classes; None for all. Raises TrtkitError for one that the file does not have."""
    if not classes:
        return None
    names = _names(metadata)
    numbers = []
    for label in classes:
        if label in names:
            numbers.append(names.index(label))
        elif label.isdecimal():
            numbers.append(int(label))
        else:
            known = available(label, names) if names else "it names none, so give numbers"
            raise TrtkitError(f"Class {label!r} not found in {file}; {known}.")
    return np.array(numbers)


def _names(metadata: Mapping[str, str]) -> list[str]:
    """The class names of a file's metadata, as Ultralytics writes them: `{0: 'person', ...}`."""
    try:
        names = ast.literal_eval(metadata.get("names", "[]"))
    except (ValueError, SyntaxError):
        return []
    return [str(name) for name in (names.values() if isinstance(names, dict) else names)]


def _shape(shape: Sequence[int | None]) -> str:
    return " x ".join("any" if size is None else str(size) for size in shape)
