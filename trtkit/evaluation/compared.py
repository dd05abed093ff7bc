"""Subjects side by side on the same photos: what each scores, and how far it is from another."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import median

import numpy as np
import numpy.typing as npt

from trtkit.errors import TrtkitError
from trtkit.evaluation.metrics import Tally, predicted, relative_error
from trtkit.evaluation.subjects import Subject, match_labels
from trtkit.scores import agreement
from trtkit.tensors import Array

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LatestOutputs:
    """Best classes' identities, logits and, when needed, features of a subject's latest photos."""

    best: Indices
    logits: Array
    features: Array | None


@dataclass
class SubjectRun:
    """A subject under way: its scores so far, and its errors against others on the same photos.

    `labels`: the index among the subject's classes of each of the data's; `identities`: the same
    number for the same label, whichever subject's class it is. `reference`: whom predictions and
    logits are compared with; `columns`: the order of the logits that is the reference's, None where
    the classes differ. `boundary`: whom feature maps are compared with. The errors are relative, one
    a photo.
    """

    subject: Subject
    labels: Indices
    identities: Indices
    reference: SubjectRun | None
    columns: Indices | None
    boundary: SubjectRun | None
    tally: Tally
    notes: list[str]
    agreeing: int = 0
    logits_errors: array[float] = field(default_factory=lambda: array("d"))
    boundary_errors: array[float] = field(default_factory=lambda: array("d"))
    keeps_features: bool = False
    latest: LatestOutputs | None = None

    def add(self, images: Array, labels: Indices) -> None:
        """Run prepared photos, uint8 N x H x W x 3, of these of the data's classes, and count them.

        The subjects that it is compared with must have run the same photos just before.
        """
        needed = self.keeps_features or self.boundary is not None
        logits, features = self.subject.compute(images, features=needed)
        try:
            self.tally.add(logits, self.labels[labels])
        except TrtkitError as error:
            raise TrtkitError(f"{self.subject.name}: {error}") from error
        best = self.identities[predicted(logits)]
        if self.reference is not None and self.reference.latest is not None:
            other = self.reference.latest
            if self.columns is not None:
                aligned = logits[:, self.columns]
                pairs = zip(aligned, other.logits, strict=True)
                self.logits_errors.extend(relative_error(own, its) for own, its in pairs)
            if self.subject.scoring != "sigmoid":
                self.agreeing += int((best == other.best).sum())
            elif self.columns is not None:
                self.agreeing += int(agreement(aligned, other.logits, "sigmoid").same.sum())
        if self.boundary is not None and features is not None:
            self.boundary_errors.extend(_map_errors(self, features, self.boundary))
        self.latest = LatestOutputs(best, logits, features if self.keeps_features else None)

    @property
    def agreement(self) -> float | None:
        """The share of photos with the reference's best label; of independent labels with all of them.

        None without a reference, and for independent labels that are not the reference's.
        """
        images = self.tally.scores().images
        unknown = self.subject.scoring == "sigmoid" and self.columns is None
        return None if self.reference is None or unknown else self.agreeing / images

    @property
    def logits_error(self) -> float | None:
        return middle(self.logits_errors)

    @property
    def boundary_error(self) -> float | None:
        return middle(self.boundary_errors)


def side_by_side(subjects: Sequence[Subject], classes: Sequence[str]) -> list[SubjectRun]:
    """The subjects, to be run in this order over photos of `classes`, each compared with earlier ones.

    A tail is compared with the checkpoint of its name if there is one, else with the first tail of its
    name, else with the first subject; its feature map with that of the first subject of the same tail,
    cut and shape. Raises TrtkitError when a subject does not know one of the classes.
    """
    identities: dict[str, int] = {}
    runs: list[SubjectRun] = []
    for subject in subjects:
        own = [run for run in runs if run.subject.tail is None and run.subject.name == subject.tail]
        alike = [run for run in runs if run.subject.tail == subject.tail]
        reference = next(iter(own or alike or runs), None)
        place = subject.boundary
        boundary = next((run for run in runs if place and run.subject.boundary == place), None)
        if boundary is not None:
            boundary.keeps_features = True
        run = SubjectRun(
            subject,
            match_labels(subject, classes),
            np.array([identities.setdefault(name, len(identities)) for name in subject.classes]),
            reference=reference,
            columns=_columns(subject, reference.subject) if reference is not None else None,
            boundary=boundary,
            tally=Tally(len(subject.classes), subject.scoring),
            notes=[*subject.notes],
        )
        runs.append(run)
    return runs


def middle(errors: Sequence[float]) -> float | None:
    """The median; None without errors, and when it is infinite."""
    error = median(errors) if errors else float("inf")
    return error if isfinite(error) else None


def _map_errors(run: SubjectRun, features: Array, boundary: SubjectRun) -> Iterable[float]:
    """Photo by photo, so that maps of all of them are never in memory as float64."""
    own, its = run.subject.feature_map, boundary.subject.feature_map
    others = boundary.latest.features if boundary.latest is not None else None
    if own is None or its is None or others is None:
        return
    for value, reference in zip(features, others, strict=True):
        yield relative_error(own.values(value), its.values(reference))


def _columns(subject: Subject, reference: Subject) -> Indices | None:
    """Where the reference's classes are among the subject's; None unless both have the same ones."""
    own, its = subject.classes, reference.classes
    if own == its:
        return np.arange(len(own))
    place = {name: index for index, name in enumerate(own)}
    # A name that two classes share is ambiguous.
    if len(place) < len(own) or sorted(own) != sorted(its):
        return None
    return np.array([place[name] for name in its], np.int64)
