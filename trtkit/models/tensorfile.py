"""What a checkpoint's file holds, whatever its ending: tensors, and plain values around them.

No code of a file is run. PyTorch's reader for tensors alone takes the file apart, and objects of classes
that it does not know become dicts of what they held; their classes are neither imported nor called.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from trtkit.errors import TrtkitError, first_line
from trtkit.filekind import check_content

ZIP = b"PK\x03\x04"
PICKLE = b"\x80"
HDF5 = b"\x89HDF"
SAVE = "save it with torch.save(model.state_dict(), PATH)"
# What PyTorch's reader raises for damaged files, one by one.
DAMAGE = (
    RuntimeError, EOFError, OSError, ValueError, IndexError, KeyError, TypeError, AttributeError,
    AssertionError, OverflowError, MemoryError, struct.error,
)  # fmt: skip


class Inert(dict[str, Any]):
    """What an object of a file held, by name. It stands for any class and does nothing."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self.update(part)


def is_safetensors(path: Path) -> bool:
    """Whether the file is safetensors by its content: a length, then JSON. Raises as `check_content`."""
    head = check_content(path)
    if path.suffix == ".safetensors":
        return True
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 8 + length <= path.stat().st_size


def read_content(path: Path) -> Any:
    """What `torch.save` wrote. Raises TrtkitError for anything else, and for what only code could read."""
    head = check_content(path)
    names: list[str] = []
    if head.startswith(ZIP):
        _check_archive(path)
    elif head.startswith(HDF5):
        raise TrtkitError(
            f"{path} is HDF5, such as Keras writes; export the model to ONNX and give the .onnx."
        )
    elif not head.startswith(PICKLE):
        raise TrtkitError(f"{path} is no checkpoint of PyTorch and no safetensors file; {SAVE}.")
    try:
        if head.startswith(ZIP):
            names = get_unsafe_globals_in_checkpoint(path)
        with safe_globals([(Inert, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch advises to turn its safety off, which is no advice.
        raise TrtkitError(
            f"{path} holds objects that cannot be read without executing code; {SAVE}."
        ) from error
    except DAMAGE as error:
        raise TrtkitError(
            f"{path} is cut short or damaged, or no state dict ({first_line(error)}); copy it again, or "
            f"{SAVE}."
        ) from error


def _check_archive(path: Path) -> None:
    """Raise TrtkitError unless the zip file is whole and one of `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error) as error:
        raise TrtkitError(
            f"{path} is cut short: its end, with the table of contents, is missing; copy it again."
        ) from error
    if any(name.endswith(("/constants.pkl", "/code/")) or "/code/" in name for name in names):
        raise TrtkitError(
            f"{path} is TorchScript, a program with its weights; {SAVE}, or export it to ONNX and give "
            "the .onnx."
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise TrtkitError(f"{path} is a zip archive, but no checkpoint of PyTorch; {SAVE}.")
