"""Sealed files: they carry a digest of their own content, so that damage and edits are noticed.

A JSON object has it under `seal`, over its values: whitespace and the order of keys do not matter. A binary
file (ONNX, safetensors) has it in its metadata, over all its other bytes. Files without a seal, as earlier
versions and other tools write them, are as good as before.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3

KEY = "seal"
# In the metadata of a binary file, where 64 hexadecimal digits follow before long.
MARK = "trtkit.seal"
BLANK = "0" * 64
_HEAD_BYTES = 2**20
# Between the name and the digits: JSON's punctuation, inside a JSON string, or protobuf's tag and length.
_PLACE = re.compile(MARK.encode() + rb'(?:\\": \\"|\x12\x40)(.{64})', re.DOTALL)


class SealBroken(ValueError):
    """The content is not what was sealed. The message is a clause."""

    def __init__(self) -> None:
        super().__init__("it was damaged or changed after trtkit wrote it")


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal, as its last key.

    >>> sealed({"cut": 7})
    {'cut': 7, 'seal': 'e256b89a1e95eca4985725a5801e95724ac87a1ff54cb58c1bdb472f80fc7198'}
    """
    content = {key: item for key, item in value.items() if key != KEY}
    # Of what is read back: there a tuple is a list, and a key a string.
    return {**content, KEY: _digest(json.loads(json.dumps(content)))}


def unsealed(value: Any) -> Any:
    """What `sealed` was given; a value without a seal as it is. Raises SealBroken."""
    if not isinstance(value, dict):
        return value
    if KEY not in value:
        last = next(reversed(value.values()), None)
        if isinstance(last, str) and len(last) == len(BLANK):
            # A seal whose own name was damaged: no file of an earlier version ends in a digest.
            raise SealBroken
        return value
    content = {key: item for key, item in value.items() if key != KEY}
    if value[KEY] != _digest(content):
        raise SealBroken
    return content


def read_json_file(path: Path) -> Any:
    """The value in a JSON file, its seal checked. Raises OSError, or ValueError for content that is none.

    Only a regular file is read: a pipe would wait and a device need not end.
    """
    with regular_file(path) as file:
        try:
            return unsealed(json.loads(file.read()))
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error


def regular_file(path: Path) -> BinaryIO:
    """The file, opened to read bytes. Raises OSError, also for what is no regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, os.strerror(21), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(0, "it is no regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def seal_file(path: Path) -> None:
    """Fill in the seal of a binary file whose metadata has MARK with BLANK for a value.

    Raises OSError, and ValueError for a file without that place.
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        place = _place(content)
        if place is None or content[slice(*place)] != BLANK.encode():
            raise ValueError(f"{path} has no place for a seal")
        content[slice(*place)] = _bytes_digest(content, place)


def check_file(path: Path) -> None:
    """Raise SealBroken if the file has a seal and its bytes are others. Raises OSError."""
    with regular_file(path) as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            place = _place(content)
            if place is not None and content[slice(*place)] != _bytes_digest(content, place):
                raise SealBroken


def _digest(content: Mapping[str, Any]) -> str:
    return blake3(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _place(content: mmap.mmap) -> tuple[int, int] | None:
    """Where the digits are. The name stands at the start of safetensors and at the end of ONNX."""
    at = content.find(MARK.encode(), 0, _HEAD_BYTES)
    if at < 0:
        at = content.rfind(MARK.encode())
    match = _PLACE.match(content, at) if at >= 0 else None
    return None if match is None else match.span(1)


def _bytes_digest(content: mmap.mmap, place: tuple[int, int]) -> bytes:
    """The digits of all bytes with BLANK at that place."""
    hasher = blake3(max_threads=blake3.AUTO)
    with memoryview(content) as view:
        for part in (view[: place[0]], BLANK.encode(), view[place[1] :]):
            hasher.update(part)
            if isinstance(part, memoryview):
                part.release()
    return hasher.hexdigest().encode()
