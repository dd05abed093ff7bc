"""`trtkit evaluate`: scores of checkpoints and bundles on labelled photos, and how far they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from trtkit.errors import ImageError, TrtkitError, listed
from trtkit.evaluation.compared import Run, side_by_side
from trtkit.evaluation.dataset import (
    AUTO,
    PARTS,
    TRAIN,
    VAL,
    LabelledPhoto,
    Part,
    SkippedPhoto,
    read_part,
    unsplit_classes,
)
from trtkit.evaluation.metrics import ClassScores, Scores
from trtkit.evaluation.plots import draw_confusion
from trtkit.evaluation.provenance import may_be_of, photos_trained_on
from trtkit.evaluation.subjects import (
    CheckpointSubject,
    Subject,
    TailSubject,
    match_labels,
    tails_of,
)
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.plotting import check_picture
from trtkit.preprocessing import Preprocessing
from trtkit.tensors import Array
from trtkit.workspace import Workspace

# Photos that are decoded together; each subject runs them in batches of its own.
DECODED_TOGETHER = 64

Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class SubjectReport:
    """The scores of one checkpoint or tail; shares are 0 to 1.

    `agreement`: the share of images with the same best label as `agrees_with`: for a tail the
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class EvaluateReport:
    """What was evaluated, subject by subject, and the photos that could not be read."""

    subjects: tuple[SubjectReport, ...]
    skipped: tuple[SkippedPhoto, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the scores have to be read with, each once."""
        return tuple(dict.fromkeys(note for subject in self.subjects for note in subject.notes))

    def to_json(self) -> list[dict[str, Any]]:
        return [subject.to_json() for subject in self.subjects]


@dataclass(frozen=True)
class _Decoded:
    """A photo that was read, prepared for each preprocessing."""

    photo: LabelledPhoto
    images: dict[Preprocessing, Array]


def evaluate(
    data: str | Path,
    *,
    checkpoints: Sequence[str | Path] = (),
    bundles: Sequence[str | Path] = (),
    tails: Sequence[str] = (),
    part: str = AUTO,
    split_seed: int = 0,
    batch: int | None = None,
    image_size: int | None = None,
    workers: int | None = None,
    plot: str | Path | None = None,
    workspace: str | Path | None = None,
    advance: Advance = lambda phase, share: None,
) -> EvaluateReport:
    """Score checkpoints, and then bundles, on the labelled photos of `data`.

    `data` holds class folders, or train/ and val/ with class folders; a folder's name is its class's
    label. `part`: `all`, `train`, `val`, or `auto`, which is `val` when there is such a folder, else
    `all`; without train/ and val/ those parts are the ones of training with that
    `split_seed`.

    `checkpoints`: files. `bundles`: names or folders, with all their tails or those named in `tails`;
    without either the bundle built last. `batch` images a run (32 for a checkpoint, a bundle's
    optimum by default); `image_size`, in pixels, for checkpoints in place of their own; `workers`
    decoding threads, the usable cores by default; `advance` is told a phase and the share done of it.

    Every photo is decoded once for all subjects of the same preprocessing, exactly as `infer` does
    it. Photos that cannot be read are left out and listed. `plot`: a file for a picture of the first
    subject's confusion matrix. Raises TrtkitError.
    """
    picture = Path(plot) if plot is not None else None
    if picture is not None:
        check_picture(picture)
    if batch is not None and batch < 1:
        raise TrtkitError(f"A batch of {batch} was asked for; give 1 image or more.")
    if part not in PARTS:
        raise TrtkitError(f"The part {part!r} was asked of {data}; choose {listed(PARTS)}.")
    place = Workspace.at(workspace)
    with ExitStack() as opened:
        subjects = _open(place, checkpoints, bundles, tails, batch, image_size, opened)
        photos = _photos(Path(data), part, split_seed, subjects, workers, advance)
        runs = side_by_side(subjects, photos.classes)
        skipped, digests = _score(runs, photos, workers, advance)
        for run in runs:
            if not may_be_of(photos, run.subject.trained_on):
                continue
            trained = photos_trained_on(
                photos, digests, run.subject.trained_on, workers=workers, advance=advance
            )
            if trained:
                run.notes.append(_trained_note(run.subject, photos, trained, len(digests)))
    reports = tuple(_report(run, photos, len(skipped)) for run in runs)
    if picture is not None:
        _draw(reports[0], picture)
    return EvaluateReport(reports, tuple(skipped))


def _open(
    place: Workspace,
    checkpoints: Sequence[str | Path],
    bundles: Sequence[str | Path],
    tails: Sequence[str],
    batch: int | None,
    image_size: int | None,
    opened: ExitStack,
) -> list[Subject]:
    """The subjects, loaded, in the order of the report; `opened` closes them."""
    if image_size is not None and not checkpoints:
        raise TrtkitError(
            f"--image-size {image_size} was given, but it is for checkpoints: a bundle's images have "
            "the size it was exported with; leave it out."
        )
    if image_size is not None and image_size < 1:
        raise TrtkitError(f"--image-size {image_size} was given; give 1 pixel or more.")
    if tails and checkpoints and not bundles:
        raise TrtkitError(
            f"The tails {listed(tails)} were asked of checkpoints, which have none; add --bundle."
        )
    asked: list[str | Path | None] = [*bundles]
    if not checkpoints and not bundles:
        asked = [None]
    chosen = tails_of([place.find_bundle(name) for name in asked], tails)
    subjects: list[Subject] = []
    subjects += [
        CheckpointSubject(place.find_checkpoint(path), image_size, batch) for path in checkpoints
    ]
    for folder, tail in chosen:
        loaded = TailSubject(folder, tail, batch)
        opened.callback(loaded.close)
        subjects.append(loaded)
    names = [subject.name for subject in subjects]
    for subject in subjects:
        if names.count(subject.name) > 1:
            subject.name = subject.place
    return subjects


def _photos(
    root: Path,
    part: str,
    seed: int,
    subjects: Sequence[Subject],
    workers: int | None,
    advance: Advance,
) -> Part:
    """The photos asked for, once every subject is known to have their classes."""
    if part in (TRAIN, VAL):
        # Splitting reads all photos, which would be for nothing.
        for subject in subjects:
            match_labels(subject, unsplit_classes(root))
    return read_part(root, part, seed=seed, workers=workers, advance=advance)


def _score(
    runs: Sequence[Run], photos: Part, workers: int | None, advance: Advance
) -> tuple[list[SkippedPhoto], dict[Path, bytes]]:
    """Run every subject over every photo: what could not be read, and the digests of the rest.

    Digests only when a checkpoint's training may have seen the photos.
    """
    hashed = any(may_be_of(photos, run.subject.trained_on) for run in runs)
    kinds = list(dict.fromkeys(run.subject.preprocessing for run in runs))
    skipped = list(photos.skipped)
    digests: dict[Path, bytes] = {}
    done, good = 0, 0

    def read(photo: LabelledPhoto) -> _Decoded | SkippedPhoto:
        try:
            data = read_file(photo.path)
            images = {kind: load_image(data, kind) for kind in kinds}
        except ImageError as error:
            return SkippedPhoto(photo.path, str(error))
        digest = blake3(data).digest() if hashed else b""
        return _Decoded(replace(photo, digest=digest), images)

    workers = workers or default_workers()
    ahead = DECODED_TOGETHER + workers
    # Closed, so that no thread goes on decoding when a subject fails.
    with closing(ordered_map(read, photos.photos, workers=workers, ahead=ahead)) as decoded:
        while batch := list(islice(decoded, DECODED_TOGETHER)):
            skipped += [item for item in batch if isinstance(item, SkippedPhoto)]
            readable = [item for item in batch if isinstance(item, _Decoded)]
            digests.update((item.photo.path, item.photo.digest) for item in readable if hashed)
            if readable:
                _add(runs, readable)
            good, done = good + len(readable), done + len(batch)
            advance(f"Evaluating on {photos.root}", done / len(photos.photos))
    if not good:
        raise TrtkitError(
            f"None of the {done} photos of {photos.root} can be read, such as {skipped[-1].path}: "
            f"{skipped[-1].reason.rstrip('.')}; give others."
        )
    return skipped, digests


def _add(runs: Sequence[Run], batch: Sequence[_Decoded]) -> None:
    """Count a batch for every subject."""
    labels = np.array([item.photo.label for item in batch])
    stacked: dict[Preprocessing, Array] = {}
    for run in runs:
        kind = run.subject.preprocessing
        if kind not in stacked:
            stacked[kind] = np.stack([item.images[kind] for item in batch])
        run.add(stacked[kind], labels)


def _trained_note(subject: Subject, photos: Part, trained: int, images: int) -> str:
    note = f"{trained} of these {images} photos were trained on by {subject.name}"
    if photos.folders:
        return f"{note}; --part val evaluates on the others."
    return f"{note}; --part val --split-seed {subject.trained_on.get('seed', 0)} evaluates on the others."


def _report(run: Run, photos: Part, skipped: int) -> SubjectReport:
    subject, scores = run.subject, run.tally.scores()
    classes, confusion = _shown(subject.classes, scores, run.labels)
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
        agreement=None if run.reference is None else run.agreeing / scores.images,
        agrees_with=None if run.reference is None else run.reference.subject.name,
        logits_error=run.logits_error,
        boundary_error=run.boundary_error,
        boundary_with=None if run.boundary is None else run.boundary.subject.name,
        bytes=subject.bytes,
        images_per_second=subject.pace.images_per_second,
        classes=classes,
        confusion=confusion,
        notes=tuple(run.notes),
    )


def _draw(report: SubjectReport, path: Path) -> None:
    title = f"{report.name}: {report.top1:.1%} of {report.images} photos"
    labels = [scores.label for scores in report.classes]
    draw_confusion(np.array(report.confusion), labels, path, title)


def _shown(
    names: Sequence[str], scores: Scores, labels: npt.NDArray[np.int64]
) -> tuple[tuple[ClassScores, ...], tuple[tuple[int, ...], ...]]:
    """The classes that the data or the predictions have, and the confusion matrix of those.

    Of a thousand classes, data of ten then fill no matrix of a million.
    """
    of_data = np.isin(np.arange(len(names)), labels)
    shown = np.flatnonzero(of_data | (scores.confusion.sum(axis=0) > 0)).tolist()
    classes = scores.by_class(names)
    matrix = scores.confusion[np.ix_(shown, shown)]
    return tuple(classes[index] for index in shown), tuple(tuple(row) for row in matrix.tolist())
