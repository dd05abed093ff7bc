"""An export and the model that it came from: what must agree, and what the outputs give away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtkit.atomic import whole_file
from trtkit.building.verification import LIMITS, Comparison, Limits, check, compare
from trtkit.photos.samples import GENERATED, SampleImages
from trtkit.runtime.models import load_graphs
from trtkit.scores import HOLDS, Scoring, holds, scores_of
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx

    from trtkit.graph.card import ModelCard
    from trtkit.graph.ending import Activation

# How far the scores of a photo may be from a sum of 1, as float16 rounds them.
SUM_ERROR = 2e-3
# Outputs of different photos that are closer than this, of the largest output, and scores that are
# closer than this, hardly depend on the photo.
SAME_OUTPUTS = 0.05
SAME_SCORE = 0.01
REMEDY = (
    "export a file whose batch was fixed with a dynamic batch, or give one whose layers treat photos "
    "apart"
)


@dataclass(frozen=True)
class Origin:
    """A graph to be written and what it must agree with.

    `reference` gives the origin's own output, float32 N x outputs, for prepared images; `activation` is
    what the origin applies to its logits and the graph does not; `single`: the origin gives one output
    where the graph gives those of two classes. `stated`: the caller said how outputs become scores;
    `notes`: sentences that a user should read; `limits`: what the two must agree within.
    """

    graph: onnx.ModelProto
    card: ModelCard
    reference: Callable[[Array], Array]
    activation: Activation | None = None
    single: bool = False
    stated: bool = True
    notes: tuple[str, ...] = ()
    limits: Limits = LIMITS["fp32"]

    def comparable(self, outputs: Array, reference: Array) -> tuple[Array, Array, Scoring]:
        """Outputs of the graph and of the origin in one form, and how that form becomes scores."""
        scoring = self.card.scores
        if self.single:
            scored = self.activation is not None or scoring == "none"
            other = np.subtract(1, reference) if scored else np.zeros_like(reference)
            reference = np.concatenate([other, reference], axis=1)
        if self.activation is None:
            return outputs, reference, scoring
        if self.activation == "LogSoftmax":
            reference = np.exp(reference)
        scores = scores_of(outputs, scoring)
        if scoring == "sigmoid":
            # A label holds from 0 on, as logits do.
            return np.subtract(scores, HOLDS), np.subtract(reference, HOLDS), scoring
        return scores, reference, "none"

    def settled(self, reference: Array) -> Origin:
        """With outputs that are scores already recorded as such, where nobody said anything else.

        A softmax may be written as exponentials and a division: the outputs of every photo then sum to 1.
        """
        values = reference.astype(np.float64)
        sums_to_one = np.abs(values.sum(axis=1) - 1) <= SUM_ERROR
        scores = values.shape[1] > 1 and bool((values >= 0).all() and sums_to_one.all())
        if self.stated or self.activation is not None or not scores:
            return self
        card = replace(self.card, scores="none")
        card.write_to(self.graph)
        return replace(self, card=card)


@dataclass(frozen=True)
class VerifiedExport:
    """How an export compares with its origin, its card, and sentences that a user should read."""

    comparison: Comparison
    card: ModelCard
    notes: tuple[str, ...]


def write_verified(origin: Origin, destination: Path, samples: SampleImages) -> VerifiedExport:
    """Write beside `destination`, compare, and only then take its place. Raises TrtkitError."""
    from trtkit.graph.files import write_sealed

    reference = origin.reference(samples.images)
    origin = origin.settled(reference)
    with whole_file(destination) as temporary:
        write_sealed(origin.graph, temporary)
        # What the graph says, as in the reference, whatever int8 kernels would make of it.
        outputs = load_graphs(("head", temporary), exact=True).classify(samples.images)
        first, second, scoring = origin.comparable(outputs, reference)
        comparison = compare(first, second, origin.limits, scoring)
        name = f"The exported {destination.stem}"
        check(comparison, origin.limits, name, samples.describe(), REMEDY)
    notes = [*origin.notes, *meaning(origin)]
    if not origin.card.weights.startswith("random") and samples.source != GENERATED:
        sentence = one_answer(outputs, origin.card, samples.images)
        notes += [sentence] if sentence is not None else []
    return VerifiedExport(comparison, origin.card, tuple(notes))


def meaning(origin: Origin) -> list[str]:
    """What was made of the outputs, in sentences, where it is anything else than one class of several."""
    card = origin.card
    if origin.single:
        low, high = card.classes
        return [f"One output is two classes: {low} for a low score, {high} for a high one."]
    if card.scores == "sigmoid":
        return ["The outputs are independent labels (sigmoid), each of which holds from 0.5 on."]
    if card.scores == "none" and not origin.stated:
        return ["The outputs of each photo sum to 1, so they are taken for scores as they are."]
    return []


def one_answer(outputs: Array, card: ModelCard, images: Array) -> str | None:
    """A sentence if different photos all get one answer; None if they do not, or are the same photo."""
    if (images == images[:1]).all():
        return None
    scores = scores_of(outputs, card.scores)
    flags = holds(outputs, card.scores)
    scale = float(np.abs(outputs).max()) or 1.0
    alike = float(np.ptp(outputs, axis=0).max()) <= SAME_OUTPUTS * scale
    if not (alike and (flags == flags[:1]).all() and np.ptp(scores, axis=0).max() <= SAME_SCORE):
        return None
    best = int(scores[0].argmax())
    return (
        f"All {len(images)} photos that the export was compared on get {card.classes[best]} with "
        f"{scores[:, best].min():.1%} to {scores[:, best].max():.1%}: the network hardly depends on the "
        "photo. Check --mean and --std, which must be 0,0,0 and 1,1,1 for a file that normalises photos "
        "itself."
    )
