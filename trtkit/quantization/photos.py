"""What int8 is calibrated on: the options, the photos, and those held out to measure its accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from trtkit.confidence import fewest_to_prove, lower_bound
from trtkit.contents import ContentRecord
from trtkit.errors import ImageError, TrtkitError, listed
from trtkit.evaluation.folders import SkippedPhoto, class_names, part_folders
from trtkit.labels import clean_label
from trtkit.photos.decode import decode
from trtkit.photos.files import photo_paths
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.preprocessing import Preprocessing
from trtkit.quantization.ranges import METHODS
from trtkit.tensors import Array

# One in so many photos is held out, at most 500; up to half where a proof needs them.
MOST_HELD_OUT = 500
HELD_OUT_ONE_IN = 5
FEW = 100
# Entropy; if that is not good enough, the better of entropy and max.
AUTO = "auto"
CHOICES = (AUTO, *METHODS)
DEFAULT_IMAGES = 512
# In the folder of the ranges: the digests of the photos.
CONTENTS = ".contents.json"
DEFAULT_AGREEMENT = 0.99
# Of what the held-out photos prove about others, and the share that they should prove by default.
CONFIDENCE = 0.95
USUAL_PROOF = 0.95


@dataclass(frozen=True)
class Int8Options:
    """How int8 is calibrated and what it must keep.

    Ranges are measured on at most `images` photos of `folder`, by `method` (`entropy`, `max` or `auto`),
    and kept in `home`. `min_agreement`: the share of held-out photos, 0 to 1, that must keep their best
    class; with `proved` that share of all photos like them, by the bound that they prove. `explicit`: the
    caller set one of the calibration's options instead of taking the defaults. Raises TrtkitError.
    """

    folder: Path
    home: Path
    images: int = DEFAULT_IMAGES
    method: str = AUTO
    min_agreement: float = DEFAULT_AGREEMENT
    explicit: bool = False
    proved: bool = False

    def __post_init__(self) -> None:
        if self.method not in CHOICES:
            raise TrtkitError(
                f"Calibration method {self.method!r} not found; available: {listed(CHOICES)}."
            )
        if not 0 <= self.min_agreement <= 1:
            raise TrtkitError(
                f"An agreement of {self.min_agreement} is impossible; give a share from 0 to 1, such as "
                f"{DEFAULT_AGREEMENT}."
            )
        if self.images < 1:
            raise TrtkitError(f"Cannot calibrate on {self.images} photos; give 1 or more.")

    @property
    def needed(self) -> int:
        """How many held-out photos prove what is to be proved if all of them keep their best class."""
        share = self.min_agreement if self.proved else USUAL_PROOF
        return fewest_to_prove(share, CONFIDENCE) or 0

    def check_provable(self, photos: CalibrationPhotos) -> None:
        """Raise TrtkitError when no photo is held out, or too few to prove what the caller wants proved."""
        count, distinct = len(photos.held_out), len(photos.chosen) + len(photos.held_out)
        if not count:
            raise TrtkitError(
                f"int8 is judged by photos that it was not calibrated on, and {self.folder} has a single "
                f"photo, copies aside; add others: {2 * self.needed} prove what is usually proved, "
                f"{USUAL_PROOF:.0%} with a confidence of {CONFIDENCE:.0%}."
            )
        if not self.proved or count >= self.needed > 0 or self.min_agreement == 0:
            return
        if fewest_to_prove(self.min_agreement, CONFIDENCE) is None:
            raise TrtkitError(
                "No number of photos proves an agreement of 1; give a --min-agreement below it: "
                f"{fewest_to_prove(DEFAULT_AGREEMENT, CONFIDENCE)} held-out photos prove "
                f"{DEFAULT_AGREEMENT}."
            )
        reachable = int(1000 * lower_bound(count, count, CONFIDENCE)) / 1000
        raise TrtkitError(
            f"An agreement of {self.min_agreement:g} needs {self.needed} held-out photos to be proved with "
            f"a confidence of {CONFIDENCE:.0%}, and of the {distinct} distinct photos of {self.folder} "
            f"{count} are held out; have {2 * self.needed} photos there, or give a --min-agreement of "
            f"{reachable:g} or less, which {count} prove."
        )

    def digest(self) -> list[Any]:
        """What a build depends on; only photos that were changed lately are read."""
        listing = listing_digest(self.folder, self.home / CONTENTS)
        return [listing, self.images, self.method, self.min_agreement]


@dataclass(frozen=True)
class CalibrationPhoto:
    """A readable photo: the 32-byte BLAKE3 of its file, and the class folder it lies in, if any."""

    path: Path
    digest: bytes
    label: str | None


@dataclass(frozen=True)
class CalibrationPhotos:
    """Photos to measure ranges on, and held-out ones to judge by; no two have the same pixels.

    Of a single photo none is `held_out`. `needed`: how many held-out ones prove what is to be proved.
    `labelled`: some lie in class folders.
    """

    folder: Path
    chosen: tuple[CalibrationPhoto, ...]
    held_out: tuple[CalibrationPhoto, ...]
    skipped: tuple[SkippedPhoto, ...]
    labelled: bool
    needed: int = 0

    @property
    def id(self) -> str:
        """BLAKE3 (hex) of the bytes of the `chosen` photos, whatever their names."""
        return blake3(b"".join(sorted(photo.digest for photo in self.chosen))).hexdigest()

    def warnings(self) -> Iterator[str]:
        """What is wrong with the photos, in sentences."""
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
        count = len(self.held_out)
        if 0 < count < self.needed:
            yield (
                f"Photos of {self.folder} to judge int8 by: {count}, which prove an agreement of "
                f"{lower_bound(count, count, CONFIDENCE):.1%} at most, with a confidence of "
                f"{CONFIDENCE:.0%}; {self.needed} prove {USUAL_PROOF:.0%}."
            )
        labels = {photo.label for photo in (*self.chosen, *self.held_out)}
        if self.labelled and len(labels) == 1:
            yield (
                f"All photos of {self.folder} are of one class, {labels.pop()}; ranges measured on them "
                "may not hold for the others."
            )


def listing_digest(folder: Path, record: Path | None = None) -> str:
    """BLAKE3 (hex) of the names and the contents of the photos below `folder`.

    `record`: a file that keeps the contents' digests, so that a photo is read once.
    """
    content = blake3()
    with ContentRecord(record) as contents:
        for path in photo_paths(folder):
            try:
                digest = contents.digest(path)
            except OSError:
                # A link that leads nowhere, say: once it is mended it is another photo.
                digest = "unreadable"
            content.update(f"{path}\0{digest}\0".encode("utf-8", "surrogateescape"))
    return content.hexdigest()


def calibration_photos(folder: Path, count: int, needed: int = 0) -> CalibrationPhotos:
    """At most `count` photos below `folder` to measure on, evenly spread, and others to judge by.

    One in five is held out, more if the folder has more than `count`, at most 500; and up to half of
    them if a proof needs `needed`. Copies of one photo count once, whatever their files hold besides.
    Only as many as needed are read. Raises TrtkitError when no photo can be read.
    """
    if count < 1:
        raise TrtkitError(f"Cannot calibrate on {count} photos; give 1 or more.")
    paths = photo_paths(folder)
    if not paths:
        raise TrtkitError(
            f"int8 needs photos to measure ranges on, but {folder} holds none; put some hundred photos "
            "like those to be classified there, in class folders where their classes are known, or "
            "name a folder with --calibration."
        )
    wanted = held_out_count(len(paths), count, needed) + min(count, len(paths))
    photos, skipped = _read(paths, wanted, folder if _has_class_folders(folder) else None)
    if not photos:
        raise TrtkitError(
            f"int8 needs photos to measure ranges on, but the {len(skipped)} photos tried of {folder} "
            f"cannot be read, such as {skipped[0].path}: {skipped[0].reason.rstrip('.')}; put others there."
        )
    held_out = held_out_count(len(photos), count, needed)
    spread = {place * len(photos) // held_out for place in range(held_out)}
    judged = tuple(photo for place, photo in enumerate(photos) if place in spread)
    chosen = tuple(photo for place, photo in enumerate(photos) if place not in spread)[:count]
    # A class folder may be empty, with all photos beside it.
    labelled = any(photo.label is not None for photo in photos)
    return CalibrationPhotos(folder, chosen, judged, tuple(skipped), labelled, needed)


def prepared(
    photos: Sequence[CalibrationPhoto], preprocessing: Preprocessing, batch: int
) -> Iterator[tuple[tuple[CalibrationPhoto, ...], Array]]:
    """Photos and their images, uint8 N x H x W x 3, in batches; one that cannot be read is left out."""

    def load(photo: CalibrationPhoto) -> tuple[CalibrationPhoto, Array] | None:
        try:
            return photo, load_image(read_file(photo.path), preprocessing)
        except ImageError:
            # It was readable when it was chosen; the others are enough.
            return None

    workers = default_workers()
    with closing(ordered_map(load, photos, workers=workers, ahead=batch + workers)) as loaded:
        readable = (item for item in loaded if item is not None)
        while items := list(islice(readable, batch)):
            yield tuple(photo for photo, _ in items), np.stack([image for _, image in items])


def held_out_count(total: int, count: int, needed: int) -> int:
    """How many of `total` photos are held out when `count` are to be measured on."""
    fewest = -(-total // HELD_OUT_ONE_IN) if total > 1 else 0
    return min(MOST_HELD_OUT, max(fewest, total - count, min(needed, total // 2)))


def _spread(paths: Sequence[Path], wanted: int) -> list[Path]:
    wanted = min(wanted, len(paths))
    return [paths[place * len(paths) // wanted] for place in range(wanted)]


def _has_class_folders(folder: Path) -> bool:
    try:
        parts = part_folders(folder)
        class_names(parts[0] if parts else folder)
    except TrtkitError:
        return False
    return True


def _read(
    paths: Sequence[Path], wanted: int, root: Path | None
) -> tuple[list[CalibrationPhoto], list[SkippedPhoto]]:
    """At most `wanted` photos that can be decoded, without copies; and those that cannot.

    `root` holds class folders, itself or in its parts; None without any.
    """
    bases = [] if root is None else list(part_folders(root) or [root])

    def label(path: Path) -> str | None:
        for base in bases:
            if path.is_relative_to(base):
                below = path.relative_to(base).parts
                return clean_label(below[0]) if len(below) > 1 else None
        return None

    def read(path: Path) -> tuple[bytes, CalibrationPhoto] | SkippedPhoto:
        try:
            data = read_file(path)
            pixels = decode(data, shorter=Preprocessing().side).pixels
        except ImageError as error:
            return SkippedPhoto(path, str(error))
        content = blake3(np.ascontiguousarray(pixels).data)
        content.update(repr(pixels.shape).encode())
        return content.digest(), CalibrationPhoto(path, blake3(data).digest(), label(path))

    workers = default_workers()
    photos: dict[bytes, CalibrationPhoto] = {}
    skipped = []

    def read_all(paths: Sequence[Path]) -> None:
        with closing(ordered_map(read, paths, workers=workers, ahead=4 * workers)) as items:
            for item in items:
                if isinstance(item, SkippedPhoto):
                    skipped.append(item)
                else:
                    # Other metadata do not make another photo.
                    photos.setdefault(*item)
                if len(photos) == wanted:
                    break

    first = _spread(paths, wanted)
    read_all(first)
    if len(photos) < wanted:
        # Others replace copies and unreadable photos.
        tried = set(first)
        rest = [path for path in paths if path not in tried]
        step = max(1, len(rest) // (wanted - len(photos)))
        read_all([path for start in range(step) for path in rest[start::step]])
    place = {path: number for number, path in enumerate(paths)}
    return sorted(photos.values(), key=lambda photo: place[photo.path]), skipped
