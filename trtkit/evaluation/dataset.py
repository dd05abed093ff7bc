"""Labelled photos: a folder of class folders, read, checked and split into train and val."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from blake3 import blake3

from trtkit.errors import ImageError, TrtkitError, listed
from trtkit.evaluation.folders import (
    TRAIN,
    VAL,
    LabelledPhoto,
    Listing,
    SkippedPhoto,
    class_folder,
    class_folders,
    class_names,
    list_photos,
    part_folders,
)
from trtkit.photos.decode import decode
from trtkit.photos.images import read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.reporting import advance

ALL: Final = "all"
AUTO: Final = "auto"
PARTS: Final = (AUTO, ALL, TRAIN, VAL)

# What `Dataset.split` says of data that come with train/ and val/.
FOLDERS: Final = "folders"
# Without them one in so many of a class's distinct photos is for validation.
_ONE_IN: Final = 5
_PROGRESS_STEPS: Final = 200
# Pixels: JPEGs are not decoded larger than this shorter side takes.
_SHORTER: Final = 256


@dataclass(frozen=True)
class Dataset:
    """Photos to train on and photos to validate on, all of which can be read.

    `classes` are the names of the class folders, sorted; `train` and `val` are sorted by class and
    path; `split` is `folders` when DATA has train/ and val/, else the ratio and the seed.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[LabelledPhoto, ...]
    val: tuple[LabelledPhoto, ...]
    skipped: tuple[SkippedPhoto, ...]
    split: str

    @property
    def fingerprint(self) -> str:
        """BLAKE3 (hex) of which content is in which class and part.

        The same wherever the folder lies and whatever its files are called.
        """
        entries = sorted(
            _entry(part, self.classes[photo.label]) + photo.digest
            for part, photos in ((TRAIN, self.train), (VAL, self.val))
            for photo in photos
        )
        return blake3(b"".join(entries)).hexdigest()

    @property
    def repeated(self) -> int:
        """How many photos of `val` have the bytes of one in `train`: they measure memory."""
        trained = {photo.digest for photo in self.train}
        return sum(photo.digest in trained for photo in self.val)

    @property
    def contradictory(self) -> int:
        """How many photos of `train` and `val` have the bytes of one in another class."""
        labels: dict[bytes, set[int]] = {}
        for photo in (*self.train, *self.val):
            labels.setdefault(photo.digest, set()).add(photo.label)
        return sum(len(labels[photo.digest]) > 1 for photo in (*self.train, *self.val))


@dataclass(frozen=True)
class Part:
    """The photos of DATA to evaluate on, not read yet unless they had to be split.

    `part` is `all`, `train` or `val`; `photos` are sorted by part, class and path. `folders`: DATA
    has train/ and val/. `dataset` is what was read in order to split, with everything in it.
    """

    root: Path
    part: str
    classes: tuple[str, ...]
    photos: tuple[LabelledPhoto, ...]
    skipped: tuple[SkippedPhoto, ...]
    folders: bool
    dataset: Dataset | None = None


def read_dataset(root: Path, *, seed: int = 0, workers: int | None = None) -> Dataset:
    """Find, read and decode every photo of `root` once, and split them.

    `root` holds class folders, or `train/` and `val/` with the same class folders in each; photos may
    lie in folders below. Without train/ and val/ about one in five distinct photos of each class (at
    least one, never all) is for validation; which ones depends on the seed, the class's name and the
    photos' bytes, never on names or order, and photos of one class with the same bytes stay together.

    `workers`: threads, the usable cores by default. Photos that cannot be read are in `skipped`.

    Raises TrtkitError when `root` has no such folders, there are fewer than two classes, train/ and
    val/ differ in their classes, or a class has no photo, or too few to be split.
    """
    folders, classes = class_folders(root)
    listings = [list_photos(folder, classes) for folder in folders]
    photos, skipped = _scan(root, listings, workers)
    for folder, readable in zip(folders, photos, strict=True):
        _check_every_class(folder, classes, readable, skipped)
    if len(folders) > 1:
        return Dataset(root, classes, photos[0], photos[1], skipped, FOLDERS)
    train, val = split_photos(photos[0], classes, seed)
    return Dataset(root, classes, train, val, skipped, f"{_ONE_IN - 1}:1, seed {seed}")


def read_part(root: Path, part: str = AUTO, *, seed: int = 0, workers: int | None = None) -> Part:
    """The photos of `root` to evaluate on: `all`, `train`, `val`, or `auto`.

    `auto` is `val` when `root` has train/ and val/, else `all`. `train` and `val` of class folders
    without them are those of `read_dataset` with that seed, for which `workers` threads read all
    photos; otherwise nothing but names is read, so that photos which cannot be read are still among
    `photos`, and a class may have none.

    Raises TrtkitError when there is no such folder, no such part, or no photo in it.
    """
    if part not in PARTS:
        raise TrtkitError(f"Unknown part {part!r} of {root}; available: {listed(PARTS)}.")
    folders = part_folders(root)
    if folders is None and part in (TRAIN, VAL):
        dataset = read_dataset(root, seed=seed, workers=workers)
        side = dataset.train if part == TRAIN else dataset.val
        return Part(root, part, dataset.classes, side, dataset.skipped, False, dataset)
    if folders is None:
        part, chosen = ALL, [root]
    else:
        part = VAL if part == AUTO else part
        chosen = {ALL: [*folders], TRAIN: [folders[0]], VAL: [folders[1]]}[part]
    names = [class_names(folder) for folder in chosen]
    classes = tuple(sorted({name for own in names for name in own}))
    listings = [
        list_photos(folder, own, classes) for folder, own in zip(chosen, names, strict=True)
    ]
    photos = tuple(photo for listing, _ in listings for photo in listing)
    if not photos:
        raise TrtkitError(
            f"None of the class folders of {listed(map(str, chosen))} ({listed(classes)}) holds a "
            "photo; put photos into them."
        )
    skipped = tuple(item for _, unreadable in listings for item in unreadable)
    return Part(root, part, classes, photos, skipped, folders is not None)


def split_photos(
    photos: Iterable[LabelledPhoto], classes: Sequence[str], seed: int
) -> tuple[tuple[LabelledPhoto, ...], tuple[LabelledPhoto, ...]]:
    """Photos with their digests as train and val, each in the order given.

    Raises TrtkitError for a class all of whose photos have the same bytes.
    """
    photos = tuple(photos)
    digests: list[list[bytes]] = [[] for _ in classes]
    for photo in photos:
        digests[photo.label].append(photo.digest)
    held_out: list[set[bytes]] = []
    for name, own in zip(classes, digests, strict=True):
        distinct = set(own)
        if len(distinct) == 1:
            what = f"{len(own)} photos that are all the same" if len(own) > 1 else "a single photo"
            raise TrtkitError(
                f"The class {name} has {what}, too few to be split into train and val; add another, or "
                "give folders train/ and val/ of your own."
            )
        # Sorting by a hash is a shuffle that is the same with every version of every library, so
        # that `evaluate --part val` finds what another machine's training left out.
        key = _entry(str(seed), name)
        shuffled = [digest for _, digest in sorted((blake3(key + d).digest(), d) for d in distinct)]
        held_out.append(set(shuffled[: max(1, round(len(distinct) / _ONE_IN))]))
    return (
        tuple(photo for photo in photos if photo.digest not in held_out[photo.label]),
        tuple(photo for photo in photos if photo.digest in held_out[photo.label]),
    )


def _entry(*texts: str) -> bytes:
    """Names in bytes, each ended by a zero, which no name holds."""
    return "".join(f"{text}\0" for text in texts).encode("utf-8", "surrogateescape")


def _scan(
    root: Path, listings: Sequence[Listing], workers: int | None
) -> tuple[list[tuple[LabelledPhoto, ...]], tuple[SkippedPhoto, ...]]:
    """Read, hash and decode all photos: those of each listing that can be read, and what cannot."""
    items = [(index, photo) for index, (photos, _) in enumerate(listings) for photo in photos]
    step = max(1, len(items) // _PROGRESS_STEPS)
    readable: list[list[LabelledPhoto]] = [[] for _ in listings]
    skipped = [item for _, unreadable in listings for item in unreadable]

    def read(item: tuple[int, LabelledPhoto]) -> LabelledPhoto | SkippedPhoto:
        photo = item[1]
        try:
            data = read_file(photo.path)
            decode(data, shorter=_SHORTER)
        except ImageError as error:
            return SkippedPhoto(photo.path, str(error))
        return replace(photo, digest=blake3(data).digest())

    workers = workers or default_workers()
    with closing(ordered_map(read, items, workers=workers, ahead=4 * workers)) as results:
        for done, ((index, _), photo) in enumerate(zip(items, results, strict=True), start=1):
            if isinstance(photo, SkippedPhoto):
                skipped.append(photo)
            else:
                readable[index].append(photo)
            if done % step == 0 or done == len(items):
                advance(f"Reading {root}", done / len(items))
    return [tuple(photos) for photos in readable], tuple(skipped)


def _check_every_class(
    root: Path,
    classes: Sequence[str],
    photos: Iterable[LabelledPhoto],
    skipped: Sequence[SkippedPhoto],
) -> None:
    """Raise TrtkitError for the first class without a photo that can be read."""
    labels = {photo.label for photo in photos}
    for label, name in enumerate(classes):
        if label in labels:
            continue
        folder = class_folder(root, name)
        own = [item for item in skipped if item.path.is_relative_to(folder)]
        first = own[0]
        if first.path == folder:
            why = first.reason.rstrip(".")
        else:
            why = f"{len(own)} unreadable, such as {first.path}: {first.reason.rstrip('.')}"
        raise TrtkitError(
            f"The class folder {folder} has no readable image ({why}); put photos into it or "
            "remove it."
        )
