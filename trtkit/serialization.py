"""Dataclasses as JSON and back, checked against their types by msgspec.

Fields become keys in their order. Unknown keys are ignored, so that files of a
newer version with more fields still load; a missing key without a default or a wrong type is an error
that names the field.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from trtkit.atomic import whole_file
from trtkit.sealing import read_json_file, sealed

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """`value` as dicts, lists, strings, numbers, booleans and None; paths become strings.

    Tuples become lists, as when JSON is read back, and bytes hexadecimal digits.

    >>> from trtkit.tensors import TensorSpec
    >>> to_plain(TensorSpec("images", "uint8", (224, 224, 3)))
    {'name': 'images', 'dtype': 'uint8', 'shape': [224, 224, 3]}
    """
    import msgspec

    return _with_lists(msgspec.to_builtins(value, enc_hook=_encode, builtin_types=(bytes,)))


def from_plain(value: Any, kind: type[T]) -> T:
    """The `kind` that `value` describes. Raises ValueError that names the field that does not fit."""
    import msgspec

    try:
        return msgspec.convert(value, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def read_json(path: Path, kind: type[T]) -> T:
    """The `kind` in a JSON file, its seal checked if it has one.

    Raises OSError, or ValueError for content that does not fit.
    """
    return from_plain(read_json_file(path), kind)


def write_json(path: Path, value: Any) -> None:
    """Write an object as indented JSON with its seal; the file appears whole. Raises TrtkitError."""
    with whole_file(path) as temporary:
        temporary.write_text(sealed_text(value), encoding="utf-8")


def sealed_text(value: Any, indent: int = 2) -> str:
    """An object as the text of a JSON file, with its seal."""
    return json.dumps(sealed(to_plain(value)), indent=indent, ensure_ascii=False) + "\n"


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_lists(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def _encode(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    # NumPy's float64 is a float too.
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _decode(kind: type, value: Any) -> Any:
    if issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    raise TypeError(f"{value!r} is no {kind.__name__}")
