"""Lists of names or paths, where one of them may stand for a list of one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import overload


@overload
def names_of(names: str | Iterable[str]) -> tuple[str, ...]: ...


@overload
def names_of(names: str | Path | Iterable[str | Path]) -> tuple[str | Path, ...]: ...


def names_of(names: str | Path | Iterable[str | Path]) -> tuple[str | Path, ...]:
    """The names of a list, or the one that is given instead of a list: a string or a path.

    >>> names_of("resnet18"), names_of(["resnet18", "resnet34"]), names_of(())
    (('resnet18',), ('resnet18', 'resnet34'), ())
    """
    return (names,) if isinstance(names, str | Path) else tuple(names)
