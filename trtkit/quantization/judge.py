"""What int8 costs a model's accuracy, on photos that were not calibrated on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.errors import TrtkitError
from trtkit.graph.files import write_model
from trtkit.graph.quantize import Form
from trtkit.graph.tree import Model
from trtkit.quantization.photos import CalibrationPhotos, Photo, prepared
from trtkit.tensors import Array

BATCH = 8
# Of top-1, with labels: one point.
MOST_LOST = 0.01
# Photos that layers are ranked on: those calibrated on, so that the others stay unseen.
RANKED_ON = 8


@dataclass(frozen=True)
class Accuracy:
    """An int8 graph beside its fp32 model on the held-out photos; shares are 0 to 1.

    `agreement`: photos with the same best class; `top1` and `reference_top1`: of the `labelled` ones
    those with the right class, None without any. `error`: of the logits, the norm of the difference
    divided by the reference's norm, the median photo. `seconds`: of a photo, on this machine's
    processor, `reference_seconds` in fp32.
    """

    images: int
    labelled: int
    agreement: float
    top1: float | None
    reference_top1: float | None
    error: float
    seconds: float
    reference_seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def misses(self, least: float) -> str | None:
        """What it falls short of, as part of a sentence; None when it is good enough."""
        if self.agreement < least:
            return (
                f"{round(self.agreement * self.images)} of {self.images} held-out photos have the same "
                f"best class as in fp32 (at least {least:.1%})"
            )
        if self.top1 is None or self.reference_top1 is None:
            return None
        # Who lets more photos change their class lets as many become wrong.
        most = max(MOST_LOST, 1 - least)
        if round(self.reference_top1 - self.top1 - most, 9) > 0:
            return (
                f"top-1 on {self.labelled} held-out photos falls from {self.reference_top1:.1%} to "
                f"{self.top1:.1%} (at most {most:.1%} less)"
            )
        return None


class Judge:
    """One model's fp32 answers, and how far others are from them."""

    def __init__(self, model: Model, photos: CalibrationPhotos, form: Form, folder: Path) -> None:
        """Decode the photos and run the model on them, in `folder`. Raises TrtkitError."""
        self._classes = model.card.classes
        # TensorRT computes what the graph says; the processor's kernels may saturate, and do so here.
        self._exact = not form.unsigned
        self._folder = folder
        # From all of them: the first few may be of one class.
        few = photos.chosen[:: max(1, len(photos.chosen) // RANKED_ON)][:RANKED_ON]
        self._held_out = _Decoded(photos.held_out, model, photos.folder)
        self._few = _Decoded(few, model, photos.folder)
        self._reference, self._seconds = self._run(model.graph, self._held_out)
        self._few_reference, _ = self._run(model.graph, self._few)
        place = {name: index for index, name in enumerate(self._classes)}
        # -1 where a photo lies in no class folder, or in one of a class that the model does not know.
        self._labels = np.array(
            [-1 if p.label is None else place.get(p.label, -1) for p in self._held_out.photos]
        )

    @property
    def one_class(self) -> str | None:
        """The class that the model sees in all held-out photos; None when there are several."""
        seen = set(self._reference.argmax(axis=1).tolist())
        alone = len(seen) == 1 and len(self._reference) > 1
        return self._classes[seen.pop()] if alone else None

    def accuracy(self, graph: onnx.ModelProto) -> Accuracy:
        """How `graph` does on the held-out photos; top-1 is of those whose class is known."""
        logits, seconds = self._run(graph, self._held_out)
        best, reference = logits.argmax(axis=1), self._reference.argmax(axis=1)
        known = self._labels >= 0
        return Accuracy(
            images=len(logits),
            labelled=int(known.sum()),
            agreement=float((best == reference).mean()),
            top1=_share((best == self._labels)[known]),
            reference_top1=_share((reference == self._labels)[known]),
            error=float(np.median(relative_errors(logits, self._reference))),
            seconds=seconds,
            reference_seconds=self._seconds,
        )

    def error(self, graph: onnx.ModelProto) -> float:
        """The mean relative error of the logits on a few of the photos that were calibrated on."""
        return float(relative_errors(self._run(graph, self._few)[0], self._few_reference).mean())

    def _run(self, graph: onnx.ModelProto, decoded: _Decoded) -> tuple[Array, float]:
        """The logits, and the seconds that a photo took."""
        path = self._folder / "judged.onnx"
        write_model(graph, path)
        engine = OnnxRuntimeBackend(exact=self._exact).load(path)
        image, output = engine.inputs[0].name, engine.outputs[0].name
        logits, times = [], []
        for images in decoded.batches:
            started = time.perf_counter()
            logits.append(engine.run({image: images})[output].numpy())
            times.append((time.perf_counter() - started) / len(images))
        return np.concatenate(logits), float(np.median(times))


class _Decoded:
    """Photos in memory, as the engines take them: half a thousand at 224 x 224 are 75 MB."""

    def __init__(self, photos: Sequence[Photo], model: Model, folder: Path) -> None:
        self.photos: list[Photo] = []
        self.batches: list[Array] = []
        for own, images in prepared(photos, model.card.preprocessing, BATCH):
            self.photos += own
            self.batches.append(images)
        if not self.photos:
            raise TrtkitError(f"None of the photos of {folder} can be read any more; build again.")


def _share(right: Array) -> float | None:
    return float(right.mean()) if len(right) else None


def relative_errors(values: Array, reference: Array) -> Array:
    """Per row the norm of the difference divided by the norm of the reference row."""
    values, reference = (np.asarray(each, np.float64) for each in (values, reference))
    rows = (len(values), -1)
    difference = np.linalg.norm((values - reference).reshape(rows), axis=1)
    norm = np.linalg.norm(reference.reshape(rows), axis=1)
    return np.asarray(difference / np.where(norm > 0, norm, 1.0))
