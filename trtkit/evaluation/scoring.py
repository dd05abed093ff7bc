"""Scoring subjects on the labelled photos of a folder, and the report of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from trtkit.errors import ImageError, TrtkitError
from trtkit.evaluation.compared import SubjectRun, side_by_side
from trtkit.evaluation.dataset import Part, read_part
from trtkit.evaluation.folders import (
    TRAIN,
    VAL,
    LabelledPhoto,
    SkippedPhoto,
    class_names,
    part_folders,
)
from trtkit.evaluation.metrics import ClassScores, Scores
from trtkit.evaluation.provenance import may_be_of, photos_trained_on
from trtkit.evaluation.subjects import Subject, match_labels
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.preprocessing import Preprocessing
from trtkit.reporting import advance
from trtkit.scores import Scoring
from trtkit.tensors import Array

# Photos that are decoded together; each subject runs them in batches of its own.
DECODED_TOGETHER = 64


@dataclass(frozen=True)
class SubjectReport:
    """The scores of one checkpoint or tail; shares are 0 to 1.

    `agreement`: the share of images with the same best label (of independent labels: with all labels on
    the same side of 0.5) as `agrees_with`: for a tail the
    checkpoint of its name if there is one, else the first subject; both None for that one.
    `logits_error`: the norm of the difference from that subject's logits, divided by the norm of
    those, of the median image; None where their classes differ. `boundary_error`: the same of the
    feature maps at the cut, against `boundary_with`, the first subject of the same tail, cut and
    shape of the map; both None without. `bytes`: the size of its engine files, or of the checkpoint.
    `images_per_second`: by this run's median batch, compute only; a rough figure. `classes`
    are those of the data, and those of the model that were predicted, in the model's order; `confusion`
    has a row for each by its images, a column by what was predicted.
    """

    name: str
    kind: str
    checkpoint: str | None
    bundle: str | None
    tail: str | None
    precision: str
    backend: str
    data: str
    part: str
    images: int
    skipped: int
    top1: float
    top5: float
    agreement: float | None
    agrees_with: str | None
    logits_error: float | None
    boundary_error: float | None
    boundary_with: str | None
    bytes: int
    images_per_second: float | None
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()
    scores: Scoring = "softmax"


@dataclass(frozen=True)
class EvaluateReport:
    """What was evaluated, subject by subject, and the photos that could not be read."""

    subjects: tuple[SubjectReport, ...]
    skipped: tuple[SkippedPhoto, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the scores have to be read with, each once."""
        return tuple(dict.fromkeys(note for subject in self.subjects for note in subject.notes))


@dataclass(frozen=True)
class _PreparedPhoto:
    """A photo that was read, prepared for each preprocessing."""

    photo: LabelledPhoto
    images: dict[Preprocessing, Array]


def score_subjects(
    subjects: Sequence[Subject], data: Path, part: str, *, seed: int, workers: int | None
) -> EvaluateReport:
    """Score the subjects on that part of `data`, split by `seed` where it has to be split.

    Every photo is decoded once for all subjects of the same preprocessing. Raises TrtkitError.
    """
    if part in (TRAIN, VAL) and part_folders(data) is None:
        # Before splitting, which reads all photos.
        for subject in subjects:
            match_labels(subject, class_names(data))
    photos = read_part(data, part, seed=seed, workers=workers)
    runs = side_by_side(subjects, photos.classes)
    skipped, digests = _run_photos(runs, photos, workers)
    for run in runs:
        about = run.subject.trained_on
        if not may_be_of(photos, about):
            continue
        trained = photos_trained_on(photos, digests, about, workers=workers)
        if trained:
            split = "" if photos.folders else f" --split-seed {about.get('seed', 0)}"
            run.notes.append(
                f"{trained} of these {len(digests)} photos were trained on by {run.subject.name}; "
                f"--part val{split} evaluates on the others."
            )
    return EvaluateReport(tuple(_report(run, photos, len(skipped)) for run in runs), tuple(skipped))


def _run_photos(
    runs: Sequence[SubjectRun], photos: Part, workers: int | None
) -> tuple[list[SkippedPhoto], dict[Path, bytes]]:
    """Run every subject over every photo: what could not be read, and the digests of the rest.

    Digests only when a checkpoint may have been trained on the photos.
    """
    hashed = any(may_be_of(photos, run.subject.trained_on) for run in runs)
    kinds = list(dict.fromkeys(run.subject.preprocessing for run in runs))
    skipped = list(photos.skipped)
    digests: dict[Path, bytes] = {}
    done, readable = 0, 0

    def prepare(photo: LabelledPhoto) -> _PreparedPhoto | SkippedPhoto:
        try:
            data = read_file(photo.path)
            images = {kind: load_image(data, kind) for kind in kinds}
        except ImageError as error:
            return SkippedPhoto(photo.path, str(error))
        digest = blake3(data).digest() if hashed else b""
        return _PreparedPhoto(replace(photo, digest=digest), images)

    workers = workers or default_workers()
    ahead = DECODED_TOGETHER + workers
    # Closed, so that no thread goes on decoding when a subject fails.
    with closing(ordered_map(prepare, photos.photos, workers=workers, ahead=ahead)) as results:
        while group := list(islice(results, DECODED_TOGETHER)):
            skipped += [item for item in group if isinstance(item, SkippedPhoto)]
            prepared = [item for item in group if isinstance(item, _PreparedPhoto)]
            digests.update((item.photo.path, item.photo.digest) for item in prepared if hashed)
            if prepared:
                labels = np.array([item.photo.label for item in prepared])
                stacked = {
                    kind: np.stack([item.images[kind] for item in prepared]) for kind in kinds
                }
                for run in runs:
                    run.add(stacked[run.subject.preprocessing], labels)
            readable, done = readable + len(prepared), done + len(group)
            advance(f"Evaluating on {photos.root}", done / len(photos.photos))
    if not readable:
        raise TrtkitError(
            f"None of the {done} photos of {photos.root} can be read, such as {skipped[-1].path}: "
            f"{skipped[-1].reason.rstrip('.')}; give others."
        )
    return skipped, digests


def _report(run: SubjectRun, photos: Part, skipped: int) -> SubjectReport:
    subject, scores = run.subject, run.tally.scores()
    classes, confusion = _relevant_classes(subject.classes, scores, run.labels)
    return SubjectReport(
        name=subject.name,
        kind=subject.kind,
        checkpoint=subject.checkpoint,
        bundle=subject.bundle,
        tail=subject.tail,
        precision=subject.precision,
        backend=subject.backend,
        data=str(photos.root),
        part=photos.part,
        images=scores.images,
        skipped=skipped,
        top1=scores.top1,
        top5=scores.top5,
        agreement=run.agreement,
        agrees_with=None if run.reference is None else run.reference.subject.name,
        logits_error=run.logits_error,
        boundary_error=run.boundary_error,
        boundary_with=None if run.boundary is None else run.boundary.subject.name,
        bytes=subject.bytes,
        images_per_second=subject.pace.images_per_second,
        classes=classes,
        confusion=confusion,
        notes=tuple(run.notes),
        scores=subject.scoring,
    )


def _relevant_classes(
    names: Sequence[str], scores: Scores, labels: npt.NDArray[np.int64]
) -> tuple[tuple[ClassScores, ...], tuple[tuple[int, ...], ...]]:
    """The classes that the data or the predictions have, and the confusion matrix of those.

    Data of ten classes so give no matrix of a million cells for a model of a thousand.
    """
    of_data = np.isin(np.arange(len(names)), labels)
    relevant = np.flatnonzero(of_data | (scores.confusion.sum(axis=0) > 0)).tolist()
    classes = scores.by_class(names)
    matrix = scores.confusion[np.ix_(relevant, relevant)]
    return tuple(classes[index] for index in relevant), tuple(map(tuple, matrix.tolist()))
