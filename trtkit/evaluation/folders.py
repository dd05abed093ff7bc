"""Class folders: where DATA has them, what they are called, and which photos they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trtkit.errors import TrtkitError, listed, os_reason
from trtkit.labels import checked_labels, clean_label
from trtkit.photos.files import IMAGE_EXTENSIONS, find_images, is_hidden

TRAIN: Final = "train"
VAL: Final = "val"


@dataclass(frozen=True)
class SkippedPhoto:
    """A photo, or a folder below a class folder, that cannot be read, and the reason, a sentence."""

    path: Path
    reason: str


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo and its class.

    `label` is the index into the classes that come with it; `digest` the 32-byte BLAKE3 of the
    file's bytes, of photos that were scanned.
    """

    path: Path
    label: int
    digest: bytes = b""


Listing = tuple[list[LabelledPhoto], list[SkippedPhoto]]


def part_folders(root: Path) -> tuple[Path, Path] | None:
    """train/ and val/ of `root`, None when it has neither. Raises TrtkitError when it has only one."""
    names, _ = _look_into(root)
    train, val = root / TRAIN, root / VAL
    if TRAIN in names and VAL in names:
        return train, val
    for here, missing in ((train, val), (val, train)):
        # A class may be called train, with its photos directly in it.
        if here.name in names and _look_into(here)[0]:
            raise TrtkitError(
                f"{root} has a folder {here.name} of class folders but no {missing.name} beside it; "
                f"add {missing.name} with the same class folders, or give {here} itself."
            )
    return None


def class_folders(root: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The folders that hold the class folders of `root` (train/ and val/, or itself), and the classes.

    Reads the names of folders alone. Raises TrtkitError unless there are two classes or more, the same
    in train/ and val/.
    """
    parts = part_folders(root)
    folders = parts or (root,)
    names = [class_names(folder) for folder in folders]
    if parts is not None:
        check_same(root, *names)
    check_two(folders[0], names[0])
    return folders, names[0]


def class_names(root: Path) -> tuple[str, ...]:
    """The classes that the folders in `root` are named after, sorted.

    Raises TrtkitError when there are none, and when two names are one class.
    """
    names, photos = _look_into(root)
    if names:
        return tuple(sorted(checked_labels(sorted(names), str(root))))
    if photos:
        raise TrtkitError(
            f"{root} has {photos} photos lying directly in it but no class folders; put the photos of "
            "each class into a folder named after it, or give the folder above."
        )
    raise TrtkitError(
        f"{root} has no class folders; give a folder with one folder of photos for each class, or "
        "with train/ and val/ that hold such folders."
    )


def class_folder(root: Path, name: str) -> Path:
    """The folder of a class in `root`, however its name is spelt."""
    folder = root / name
    if not folder.is_dir():
        spelt = (path for path in root.iterdir() if clean_label(path.name) == name)
        folder = next(spelt, folder)
    return folder


def _look_into(root: Path) -> tuple[set[str], int]:
    """The names of the folders in `root`, hidden ones aside, and the number of photos beside them."""
    try:
        entries = [path for path in root.iterdir() if not is_hidden(path.name)]
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise TrtkitError(
            f"{f'There is no folder {root}' if missing else f'{root} is a file'}; give a folder with one "
            "folder of photos for each class."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise TrtkitError(
            f"The folder {root} cannot be read ({os_reason(error)}); fix its permissions, or give "
            "another."
        ) from error
    folders = {path.name for path in entries if path.is_dir()}
    photos = sum(
        path.name not in folders and path.suffix.lower() in IMAGE_EXTENSIONS for path in entries
    )
    return folders, photos


def list_photos(root: Path, names: Sequence[str], classes: Sequence[str] | None = None) -> Listing:
    """The photos of the class folders `names` in `root`, and what could not be searched.

    A photo's label is the index of its folder in `classes`, by default `names`.
    """
    labels = {name: label for label, name in enumerate(classes or names)}
    photos: list[LabelledPhoto] = []
    skipped: list[SkippedPhoto] = []
    for name in names:
        folder = class_folder(root, name)
        try:
            images = list(find_images([folder]))
        except TrtkitError as error:
            skipped.append(SkippedPhoto(folder, str(error).removeprefix(f"{folder}: ")))
            continue
        skipped += [SkippedPhoto(image.path, image.error) for image in images if image.error]
        paths = sorted(image.path for image in images if image.error is None)
        photos += [LabelledPhoto(path, labels[name]) for path in paths]
    return photos, skipped


def check_two(root: Path, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise TrtkitError(
            f"{root} has a single class folder, {classes[0]}, and a classifier needs two; add the "
            "folder of another class, or give the folder above."
        )


def check_same(root: Path, train: Sequence[str], val: Sequence[str]) -> None:
    if train == val:
        return
    only_train, only_val = sorted({*train} - {*val}), sorted({*val} - {*train})
    differences = [
        f"only {part} has {listed(names)}"
        for part, names in ((TRAIN, only_train), (VAL, only_val))
        if names
    ]
    raise TrtkitError(
        f"train and val of {root} differ in their classes: {' and '.join(differences)}; give both the "
        "same class folders."
    )
