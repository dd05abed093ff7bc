"""Finding the photos that a command line names: files, folders and globs."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final

from trtkit.errors import TrtkitError, listed, nearest, os_reason

IMAGE_EXTENSIONS: Final = frozenset(
    {
        ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
        ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip

# Folders that systems and network drives put beside photos, in lower case.
_SYSTEM_FOLDERS: Final = frozenset(
    {
        "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb",
        "__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found",
    }
)  # fmt: skip

# A misspelt name is compared with this many names of its folder, which may hold millions.
_COMPARED: Final = 10_000


@dataclass(frozen=True)
class FoundImage:
    """A file to be tried as a photo, or the reason why a path gave none.

    With `error` None, `path` is a file that was named or found; whether it can be read shows when
    it is. Otherwise `path` is what could not be searched (one of the request, or a folder below it) and
    `error` a sentence that does not repeat it.
    """

    path: Path
    error: str | None = None


@dataclass
class _Folder:
    """A folder that is being walked: what is left of it and what it is on disk."""

    path: Path
    names: Iterator[str]
    subfolders: set[str]
    identity: tuple[int, int]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is left out where it is not named itself.

    Names that begin with a dot, and the folders of thumbnails and deleted files that macOS, Windows
    and network drives make.

        is_hidden(".DS_Store"), is_hidden("@eaDir"), is_hidden("cats")  # True, True, False
    """
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def find_images(paths: Iterable[str | Path] | str | Path) -> Iterator[FoundImage]:
    """The photos that `paths` name, path by path in the order given.

    - A file is yielded as it is, whatever its extension.
    - A folder is walked with all that is below it, in the order of its names: files with an image
      extension (in either case), but nothing hidden (see `is_hidden`). Links are followed; one
      that leads back to a folder above it is not.
    - A glob (`*`, `?`, `[...]`, and `**` for any number of folders) is expanded as a shell would,
      in order and without hidden names. It yields files with an image extension unless the pattern
      itself names another one, and walks the folders that it matches, except that a pattern with
      `**` reaches into folders already. A name that exists as written is never taken for a glob.

    A path given twice is yielded twice. What cannot be found or read is yielded as a FoundImage
    with its `error`, and the rest goes on. Names that are not valid Unicode are kept as Python
    keeps them (surrogate escapes). At any time only the names of the folder being listed and of
    those above it are in memory.

    Searches up to the first photo before it returns. Raises TrtkitError when there is none.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    images = chain.from_iterable(_find(path) for path in paths)
    failures: list[FoundImage] = []
    for image in images:
        if image.error is None:
            return chain(failures, [image], images)
        failures.append(image)
    if not failures:
        raise TrtkitError("No photos were named; give files, folders or quoted globs.")
    if len(failures) == 1:
        raise TrtkitError(f"{failures[0].path}: {failures[0].error}")
    raise TrtkitError(
        "There is no photo in any of these paths. "
        f"{listed((f'{image.path}: {image.error}' for image in failures), limit=3)}"
    )


def photo_paths(folder: Path) -> list[Path]:
    """The photos below `folder`; empty where there is no such folder, or no photo in it."""
    try:
        return [image.path for image in find_images([folder]) if image.error is None]
    except TrtkitError:
        return []


def _find(name: str | Path) -> Iterator[FoundImage]:
    path = name if isinstance(name, Path) else Path(name)
    if name == "":
        yield FoundImage(path, "The path is empty; name a file, a folder or a quoted glob.")
        return
    try:
        status = path.stat()
    except FileNotFoundError:
        if _is_glob(str(path)) and not path.is_symlink():
            yield from _expand(path)
        else:
            yield FoundImage(path, _missing(path))
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        yield FoundImage(path, f"The path cannot be looked up: {os_reason(error)}.")
    else:
        if stat.S_ISDIR(status.st_mode):
            yield from _walk_or_say_why(path)
        else:
            yield FoundImage(path)


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"This link leads nowhere; its target {path.readlink()} does not exist."
    try:
        with os.scandir(path.parent) as entries:
            alike = nearest(path.name, (entry.name for entry in islice(entries, _COMPARED)))
    except OSError as error:
        return (
            f"There is no such file or folder, and its folder cannot be read: {os_reason(error)}."
        )
    if alike:
        return f"There is no such file or folder; its folder has {listed(alike)}."
    return "There is no such file or folder, and no similar name in its folder."


def _walk_or_say_why(path: Path) -> Iterator[FoundImage]:
    extensions: set[str] = set()
    none = True
    for item in _walk(path, extensions, _is_image):
        none = False
        yield item
    if none:
        others = f", only files ending in {listed(sorted(extensions))}" if extensions else ""
        yield FoundImage(
            path,
            f"The folder and those below it hold no image{others}; images end in {_extensions()}.",
        )


def _walk(
    path: Path, other_extensions: set[str], wanted: Callable[[str], bool]
) -> Iterator[FoundImage]:
    """Every wanted file below a folder. The extensions of others go into `other_extensions`."""
    # A stack, because folders can be nested deeper than Python calls.
    above: list[_Folder] = []
    entered: Path | None = path
    while above or entered is not None:
        if entered is not None:
            try:
                folder = _open(entered, other_extensions, wanted)
            except OSError as error:
                yield FoundImage(entered, _unreadable(error))
            else:
                if all(folder.identity != other.identity for other in above):
                    above.append(folder)
            entered = None
            continue
        folder = above[-1]
        name = next(folder.names, None)
        if name is None:
            above.pop()
        elif name in folder.subfolders:
            entered = folder.path / name
        else:
            yield FoundImage(folder.path / name)


def _open(path: Path, other_extensions: set[str], wanted: Callable[[str], bool]) -> _Folder:
    names, subfolders = [], set()
    status = path.stat()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if is_hidden(name):
                continue
            if _is_folder(entry):
                subfolders.add(name)
            elif not wanted(name):
                if len(other_extensions) < _COMPARED:
                    other_extensions.add(_extension(name) or name)
                continue
            names.append(name)
    names.sort()
    return _Folder(path, iter(names), subfolders, (status.st_dev, status.st_ino))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, for one. If it is named like a photo, reading it will say why not.
        return False


def _extension(name: str) -> str:
    """The extension in lower case; Path(name).suffix is too slow for millions of names."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def _is_image(name: str) -> bool:
    return _extension(name) in IMAGE_EXTENSIONS


def _expand(pattern: Path) -> Iterator[FoundImage]:
    root = Path(pattern.anchor)
    parts = list(pattern.parts[1:] if pattern.anchor else pattern.parts)
    if parts[-1] == "**":
        parts.append("*")
    suffix = _extension(parts[-1])
    wanted = _is_image if not suffix or _is_glob(suffix) else bool
    plain = parts[: parts.index("**")] if "**" in parts else parts
    below = parts[len(plain) :]

    unreadable: list[FoundImage] = []
    matches: Iterable[Path] = [root]
    for part in plain:
        matches = _matches(matches, part, unreadable)
    others = 0
    matched = False
    for match in matches:
        if match.is_dir():
            for item in _walk(match, set(), wanted if below else _is_image):
                if item.error is None:
                    if below and not _fits(item.path.relative_to(match).parts, below):
                        continue
                    matched = True
                yield item
        elif not below and wanted(match.name):
            matched = True
            yield FoundImage(match)
        else:
            others += 1
    yield from unreadable
    if not matched:
        what = f"no image, only {others} other files" if others else "no image"
        yield FoundImage(
            pattern,
            f"The pattern matches {what}; images end in {_extensions()}, and files that end "
            f"otherwise have to be named.",
        )


def _matches(folders: Iterable[Path], part: str, unreadable: list[FoundImage]) -> Iterator[Path]:
    """The paths in `folders` whose name fits one part of a glob; in order, folder by folder."""
    for folder in folders:
        if not _is_glob(part):
            path = folder / part
            if os.path.lexists(path):
                yield path
            continue
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if _part_fits(entry.name, part))
        except (NotADirectoryError, FileNotFoundError):
            continue
        except OSError as error:
            unreadable.append(FoundImage(folder, _unreadable(error)))
            continue
        for name in names:
            yield folder / name


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the names of a path fit the parts of a glob, `**` standing for any number of them."""
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[skipped:], parts[1:]) for skipped in range(len(names)))
    return bool(names) and _part_fits(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _part_fits(name: str, part: str) -> bool:
    if is_hidden(name) and not part.startswith(name[0]):
        return False
    return fnmatch.fnmatch(name, part)


def _is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def _extensions() -> str:
    return listed(sorted(IMAGE_EXTENSIONS), limit=len(IMAGE_EXTENSIONS))


def _unreadable(error: OSError) -> str:
    return f"The folder cannot be read: {os_reason(error)}."
