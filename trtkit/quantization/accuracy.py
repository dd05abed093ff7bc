"""What int8 costs a model's accuracy, on photos that were not used for calibration."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from trtkit.confidence import lower_bound
from trtkit.errors import TrtkitError
from trtkit.graph.files import write_model
from trtkit.graph.quantize import Form
from trtkit.graph.tree import Model
from trtkit.quantization.photos import CONFIDENCE, CalibrationPhoto, CalibrationPhotos, prepared
from trtkit.runtime.models import load_graphs
from trtkit.scores import agreement, holds
from trtkit.tensors import Array

BATCH = 8
# The most that top-1 may fall, of photos with labels: one point.
MOST_LOST = 0.01
# Layers are ranked on so many of the calibration photos, so that the held-out ones stay unseen.
RANKED_ON = 8


@dataclass(frozen=True)
class Accuracy:
    """An int8 graph beside its fp32 model on the held-out photos; shares are 0 to 1.

    `agreement`: share of photos with the same best class, or the same labels of independent ones; `ties`
    of them have another class, to which fp32 gives a nearly equal score. `top1` and `reference_top1`: share
    of the `labelled` photos with the right class, None without labels. `error`: the norm of the difference
    of the logits divided by the reference's norm, for the median photo. `seconds`: per photo on this
    machine's processor, `reference_seconds` in fp32.
    """

    images: int
    labelled: int
    agreement: float
    top1: float | None
    reference_top1: float | None
    error: float
    seconds: float
    reference_seconds: float
    ties: int = 0

    @property
    def proved(self) -> float:
        """The share of photos like these, 0 to 1, that agree at least, with CONFIDENCE."""
        return lower_bound(round(self.agreement * self.images), self.images, CONFIDENCE)

    def shortfall(self, min_agreement: float, *, proved: bool = False) -> str | None:
        """What it falls short of, as part of a sentence; None when it is good enough.

        `proved`: the bound has to reach `min_agreement`, not the share of these photos alone.
        """
        reached = self.proved if proved else self.agreement
        if reached < min_agreement:
            bound = f", which proves {self.proved:.1%}" if proved else ""
            ties = f" ({self.ties} of them one of nearly equal score)" if self.ties else ""
            return (
                f"{round(self.agreement * self.images)} of {self.images} held-out photos have the same "
                f"best class as in fp32{ties}{bound} (at least {min_agreement:.1%})"
            )
        if self.top1 is None or self.reference_top1 is None:
            return None
        # A lower agreement also lets as many photos become wrong.
        most = max(MOST_LOST, 1 - min_agreement)
        if round(self.reference_top1 - self.top1 - most, 9) > 0:
            return (
                f"top-1 on {self.labelled} held-out photos falls from {self.reference_top1:.1%} to "
                f"{self.top1:.1%} (at most {most:.1%} less)"
            )
        return None


class AccuracyGate:
    """One model's fp32 logits, and how far those of other graphs are from them."""

    def __init__(self, model: Model, photos: CalibrationPhotos, form: Form, folder: Path) -> None:
        """Decode the photos and run the model on them, in `folder`. Raises TrtkitError."""
        self._classes = model.card.classes
        self._scoring = model.card.scores
        # TensorRT computes the graph exactly; the processor's kernels round in other places, also here.
        self._exact = not form.unsigned
        self._folder = folder
        # From all of them: the first few may be of one class.
        few = photos.chosen[:: max(1, len(photos.chosen) // RANKED_ON)][:RANKED_ON]
        self._held_out = _Batches(photos.held_out, model, photos.folder)
        self._ranked_on = _Batches(few, model, photos.folder)
        self._reference, self._seconds = self._run(model.graph, self._held_out)
        self._ranked_on_reference, _ = self._run(model.graph, self._ranked_on)
        indices = {name: index for index, name in enumerate(self._classes)}
        # -1 for a photo in no class folder, or in one of a class that the model lacks.
        self._labels = np.array(
            [-1 if p.label is None else indices.get(p.label, -1) for p in self._held_out.photos]
        )

    @property
    def one_class(self) -> str | None:
        """The class that the model predicts for all held-out photos; None for several classes."""
        flags = holds(self._reference, self._scoring)
        alone = len(flags) > 1 and bool((flags == flags[0]).all())
        return self._classes[int(self._reference[0].argmax())] if alone else None

    def accuracy(self, graph: onnx.ModelProto) -> Accuracy:
        """The accuracy of `graph` on the held-out photos; top-1 is of those with a label."""
        logits, seconds = self._run(graph, self._held_out)
        agreeing = agreement(logits, self._reference, self._scoring)
        labelled = self._labels >= 0
        return Accuracy(
            images=len(logits),
            labelled=int(labelled.sum()),
            agreement=agreeing.share,
            top1=_share((logits.argmax(axis=1) == self._labels)[labelled]),
            reference_top1=_share((self._reference.argmax(axis=1) == self._labels)[labelled]),
            error=float(np.median(relative_errors(logits, self._reference))),
            seconds=seconds,
            reference_seconds=self._seconds,
            ties=int(agreeing.tied.sum()),
        )

    def error(self, graph: onnx.ModelProto) -> float:
        """The mean relative error of the logits on a few of the calibration photos."""
        logits, _ = self._run(graph, self._ranked_on)
        return float(relative_errors(logits, self._ranked_on_reference).mean())

    def _run(self, graph: onnx.ModelProto, decoded: _Batches) -> tuple[Array, float]:
        """The logits, and the median seconds per photo."""
        path = self._folder / "tried.onnx"
        write_model(graph, path)
        model = load_graphs(("head", path), exact=self._exact)
        logits, times = [], []
        for images in decoded.batches:
            started = time.perf_counter()
            logits.append(model.classify(images))
            times.append((time.perf_counter() - started) / len(images))
        return np.concatenate(logits), float(np.median(times))


class _Batches:
    """Photos in memory, as the engines take them: 500 of 224 x 224 pixels are 75 MB."""

    def __init__(self, photos: Sequence[CalibrationPhoto], model: Model, folder: Path) -> None:
        self.photos: list[CalibrationPhoto] = []
        self.batches: list[Array] = []
        for own, images in prepared(photos, model.card.preprocessing, BATCH):
            self.photos += own
            self.batches.append(images)
        if not self.photos:
            raise TrtkitError(f"No photo of {folder} can be read any more; build again.")


def _share(right: Array) -> float | None:
    return float(right.mean()) if len(right) else None


def relative_errors(values: Array, reference: Array) -> Array:
    """Per row the norm of the difference divided by the norm of the reference row."""
    values, reference = (np.asarray(rows, np.float64) for rows in (values, reference))
    flat = (len(values), -1)
    difference = np.linalg.norm((values - reference).reshape(flat), axis=1)
    norm = np.linalg.norm(reference.reshape(flat), axis=1)
    return np.asarray(difference / np.where(norm > 0, norm, 1.0))
