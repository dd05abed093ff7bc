"""DLPack capsules: handing a pointer to another library, and taking one (DLPack 0.x, the C layout).

The layout of the structures: https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtkit.errors import TrtkitError

NAME = b"dltensor"
USED = b"used_dltensor"
CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
KINDS = {code: kind for kind, code in CODES.items()}


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (
    ("tensor", _DLTensor),
    ("context", ctypes.c_void_p),
    ("deleter", _Deleter),
)
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, _Destructor)
_get = ctypes.pythonapi.PyCapsule_GetPointer
_get.restype, _get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.restype, _rename.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)
# In a destructor the capsule has no references left, so it goes by its address there.
_valid_at = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_get_at = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

# What each exported structure needs while somebody holds it, by the structure's address.
_alive: dict[int, tuple[Any, ...]] = {}


def _release(managed: Any) -> None:
    _alive.pop(ctypes.addressof(managed.contents), None)


def _drop_unused(capsule: int) -> None:
    if _valid_at(capsule, NAME):
        _alive.pop(_get_at(capsule, NAME), None)


# C keeps these addresses: they must live as long as the module.
_on_release = _Deleter(_release)
_on_drop = _Destructor(_drop_unused)


def make_capsule(
    pointer: int, shape: tuple[int, ...], dtype: str, device: tuple[int, int], owner: Any
) -> Any:
    """A capsule of a contiguous array. `owner` lives until the capsule's taker is done with it."""
    kind = np.dtype(dtype)
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    tensor = _DLTensor(
        data=pointer,
        device_type=device[0],
        device_id=device[1],
        ndim=len(shape),
        code=CODES[kind.kind],
        bits=kind.itemsize * 8,
        lanes=1,
        shape=ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64)),
        strides=None,
        byte_offset=0,
    )
    managed = _Managed(tensor=tensor, context=None, deleter=_on_release)
    address = ctypes.addressof(managed)
    _alive[address] = (managed, sizes, owner)
    return _new(address, NAME, _on_drop)


@dataclass(eq=False)
class ReceivedArray:
    """An array that another library handed over. `strides` in elements, None for contiguous."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    managed: Any

    def __del__(self) -> None:
        if self.managed.contents.deleter:
            self.managed.contents.deleter(self.managed)


def take_capsule(capsule: Any) -> ReceivedArray:
    """Take over the array in a capsule, which is released with the result."""
    address = _get(capsule, NAME)
    _rename(capsule, USED)
    managed = ctypes.cast(address, ctypes.POINTER(_Managed))
    tensor = managed.contents.tensor
    count = tensor.ndim
    if tensor.code not in KINDS or tensor.lanes != 1:
        managed.contents.deleter(managed)
        raise TrtkitError(
            f"Engines take integers and floats of 8 to 64 bits, not a device array of DLPack type "
            f"{tensor.code}; convert it first."
        )
    return ReceivedArray(
        pointer=(tensor.data or 0) + tensor.byte_offset,
        shape=tuple(tensor.shape[:count]),
        strides=tuple(tensor.strides[:count]) if tensor.strides else None,
        dtype=np.dtype(f"{KINDS[tensor.code]}{tensor.bits // 8}").name,
        managed=managed,
    )
