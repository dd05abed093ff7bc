"""The photos that int8 is calibrated on, and those held out to see what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from blake3 import blake3

from trtkit.errors import ImageError, TrtkitError
from trtkit.evaluation.folders import SkippedPhoto, class_names, part_folders
from trtkit.photos.files import file_state, find_images
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.preprocessing import Preprocessing
from trtkit.tensors import Array

# At most so many are held out, and one in so many where there are few.
MOST_HELD_OUT = 500
HELD_OUT_ONE_IN = 5
FEW = 100


@dataclass(frozen=True)
class Photo:
    """A photo that can be read: the 32-byte BLAKE3 of its file, and its class folder, if it lies in one."""

    path: Path
    digest: bytes
    label: str | None


@dataclass(frozen=True)
class CalibrationPhotos:
    """Photos to measure ranges on, and others to judge by; none has the bytes of another.

    `held_out` are the same as `chosen` when there is only one. `labelled`: some lie in class
    folders.
    """

    folder: Path
    chosen: tuple[Photo, ...]
    held_out: tuple[Photo, ...]
    skipped: tuple[SkippedPhoto, ...]
    labelled: bool

    @property
    def id(self) -> str:
        """BLAKE3 (hex) of the bytes of those to measure on, whatever they are called."""
        return blake3(b"".join(sorted(photo.digest for photo in self.chosen))).hexdigest()

    def warnings(self) -> Iterator[str]:
        """Sentences on what is wrong with them."""
        if self.skipped:
            first = self.skipped[0]
            yield (
                f"{len(self.skipped)} photos of {self.folder} cannot be read and are left out, such as "
                f"{first.path}: {first.reason}"
            )
        if len(self.chosen) < FEW:
            yield (
                f"Photos of {self.folder} to calibrate on: {len(self.chosen)}; ranges measured on fewer "
                f"than {FEW} may not hold for others."
            )
        if len(self.held_out) < FEW:
            yield (
                f"Photos of {self.folder} to judge int8 by: {len(self.held_out)}, so that one of them is "
                f"{1 / len(self.held_out):.1%}."
            )
        labels = {photo.label for photo in (*self.chosen, *self.held_out)}
        if self.labelled and len(labels) == 1:
            yield (
                f"All photos of {self.folder} are of one class, {labels.pop()}; ranges measured on them "
                "may not hold for the others."
            )


def listing_digest(folder: Path) -> str:
    """BLAKE3 (hex) of the names, sizes and times of the photos below `folder`; reads none of them."""
    content = blake3()
    for path in _paths(folder):
        content.update(f"{path}\0{file_state(path)}\0".encode("utf-8", "surrogateescape"))
    return content.hexdigest()


def calibration_photos(folder: Path, count: int) -> CalibrationPhotos:
    """At most `count` photos below `folder` to measure on, evenly spread, and others to judge by.

    One in five is held out, more where there are more than `count`, at most 500. Only as many are
    read as are needed. Raises TrtkitError when there is none that can be read.
    """
    if count < 1:
        raise TrtkitError(f"{count} photos to calibrate on were asked for; give 1 or more.")
    paths = _paths(folder)
    if not paths:
        raise TrtkitError(
            f"int8 needs photos to measure ranges on, but {folder} holds none; put some hundred photos "
            "like those to be classified there, in class folders where their classes are known, or "
            "name a folder with --calibration."
        )
    wanted = _held_out_count(len(paths), count) + min(count, len(paths))
    root, in_folders = _class_root(folder)
    photos, skipped = _read(paths, wanted, root if in_folders else None)
    if not photos:
        raise TrtkitError(
            f"int8 needs photos to measure ranges on, but none of the {len(skipped)} tried of {folder} can "
            f"be read, such as {skipped[0].path}: {skipped[0].reason.rstrip('.')}; put others there."
        )
    held_out = _held_out_count(len(photos), count)
    places = {place * len(photos) // held_out for place in range(held_out)} if held_out else set()
    judged = tuple(photo for place, photo in enumerate(photos) if place in places)
    chosen = tuple(photo for place, photo in enumerate(photos) if place not in places)[:count]
    # A class folder may be empty, with all photos beside it.
    labelled = any(photo.label is not None for photo in photos)
    return CalibrationPhotos(folder, chosen, judged or chosen, tuple(skipped), labelled)


def prepared(
    photos: Sequence[Photo], preprocessing: Preprocessing, batch: int
) -> Iterator[tuple[tuple[Photo, ...], Array]]:
    """Photos and their images, uint8 N x H x W x 3, in batches; one that cannot be read is left out."""

    def load(photo: Photo) -> tuple[Photo, Array] | None:
        try:
            return photo, load_image(read_file(photo.path), preprocessing)
        except ImageError:
            # It was readable when it was chosen: what is judged is then the others.
            return None

    workers = default_workers()
    with closing(ordered_map(load, photos, workers=workers, ahead=batch + workers)) as loaded:
        readable = (item for item in loaded if item is not None)
        while items := list(islice(readable, batch)):
            yield tuple(photo for photo, _ in items), np.stack([image for _, image in items])


def _paths(folder: Path) -> list[Path]:
    try:
        return [item.path for item in find_images([folder]) if item.error is None]
    except TrtkitError:
        # There is no such folder, or no photo in it: the same thing here.
        return []


def _held_out_count(total: int, count: int) -> int:
    """How many of `total` photos are held out when `count` are to be measured on."""
    fewest = -(-total // HELD_OUT_ONE_IN) if total > 1 else 0
    return min(MOST_HELD_OUT, max(fewest, total - count))


def _spread(paths: Sequence[Path], wanted: int) -> list[Path]:
    wanted = min(wanted, len(paths))
    return [paths[place * len(paths) // wanted] for place in range(wanted)]


def _class_root(folder: Path) -> tuple[Path, bool]:
    """Where the class folders lie, and whether there are any."""
    try:
        parts = part_folders(folder)
        class_names(parts[0] if parts else folder)
    except TrtkitError:
        return folder, False
    return folder, True


def _read(
    paths: Sequence[Path], wanted: int, root: Path | None
) -> tuple[list[Photo], list[SkippedPhoto]]:
    """As many as are wanted that can be decoded, the same bytes once; and those that cannot."""
    parts = part_folders(root) if root is not None else None

    def label(path: Path) -> str | None:
        for base in (*(parts or ()), *([root] if root is not None and parts is None else [])):
            if path.is_relative_to(base):
                below = path.relative_to(base).parts
                return below[0] if len(below) > 1 else None
        return None

    def read(path: Path) -> Photo | SkippedPhoto:
        try:
            data = read_file(path)
            load_image(data, Preprocessing())
        except ImageError as error:
            return SkippedPhoto(path, str(error))
        return Photo(path, blake3(data).digest(), label(path))

    workers = default_workers()
    photos: dict[bytes, Photo] = {}
    skipped = []

    def take(some: Sequence[Path]) -> None:
        with closing(ordered_map(read, some, workers=workers, ahead=4 * workers)) as found:
            for item in found:
                if isinstance(item, SkippedPhoto):
                    skipped.append(item)
                else:
                    photos.setdefault(item.digest, item)
                if len(photos) == wanted:
                    break

    first = _spread(paths, wanted)
    take(first)
    if len(photos) < wanted:
        # Others stand in for copies and for those that cannot be read.
        taken = set(first)
        rest = [path for path in paths if path not in taken]
        step = max(1, len(rest) // (wanted - len(photos)))
        take([path for start in range(step) for path in rest[start::step]])
    place = {path: number for number, path in enumerate(paths)}
    return sorted(photos.values(), key=lambda photo: place[photo.path]), skipped
