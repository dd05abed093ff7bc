"""One entry as bytes: a fixed header, a checksum over everything, then the payload."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from xxhash import xxh3_128

from trtkit.errors import TrtkitError, listed

KEY_BYTES = 32
MAX_RANK = 8
CHECKSUM_BYTES = 16

Array = np.ndarray[Any, np.dtype[Any]]
DtypeName = Literal["fp16", "fp32"]
CodecName = Literal["none", "lz4", "zstd"]

# The numbers are written to disk: one may be added, none may be changed.
DTYPE_CODES = {"fp16": 1, "fp32": 2, "int8": 3, "uint8": 4}
CODEC_CODES = {"none": 0, "lz4": 1, "zstd": 2}
REQUESTABLE = ("fp16", "fp32")

_NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "fp16": np.dtype("<f2"),
    "fp32": np.dtype("<f4"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
}
_DTYPE_NAMES = {code: name for name, code in DTYPE_CODES.items()}
_CODEC_NAMES = {code: name for name, code in CODEC_CODES.items()}
_NAME_OF_NUMPY = {dtype: name for name, dtype in _NUMPY_DTYPES.items()}

_MAGIC = b"TRTKMAP1"
# magic, key, requested dtype, stored dtype, codec, rank, raw bytes, payload bytes, shape
_FIELDS = struct.Struct(f"<8s{KEY_BYTES}sBBBBQQ{MAX_RANK}Q")
HEADER_BYTES = _FIELDS.size + CHECKSUM_BYTES

# The smallest magnitude that rounds to infinity in fp16: halfway from 65504 to 65536.
_FP16_OVERFLOW = 65520.0
_ZSTD_LEVEL = 1


class DamagedEntry(Exception):
    """Bytes on disk that are not the entry they should be; never leaves the store."""


@dataclass(frozen=True)
class Header:
    """What an entry says about itself.

    `raw_bytes` is the size of the array, `payload_bytes` that of its (compressed) form on disk.
    `requested` is the store's dtype, `dtype` the one the array is stored as.
    """

    key: bytes
    requested: str
    dtype: str
    codec: str
    shape: tuple[int, ...]
    raw_bytes: int
    payload_bytes: int


def check_key(key: bytes) -> bytes:
    """`key` if it is 32 bytes, otherwise a TrtkitError."""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        size = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise TrtkitError(
            f"A feature store's key is {KEY_BYTES} bytes, not {size}: hash what identifies the map."
        )
    return key


def check_array(value: Array) -> None:
    """Raise a TrtkitError unless a store can hold `value`."""
    if value.dtype.newbyteorder("<") not in _NAME_OF_NUMPY:
        raise TrtkitError(
            f"A feature store cannot hold an array of {value.dtype}: "
            f"convert it to one of {listed(str(d) for d in _NAME_OF_NUMPY)}."
        )
    if value.ndim > MAX_RANK:
        raise TrtkitError(
            f"A feature store holds arrays of at most {MAX_RANK} dimensions, not {value.ndim}: "
            "reshape it."
        )


def as_stored(value: Array, requested: str) -> Array:
    """`value` as a store of `requested` dtype keeps it, C-contiguous; `value` itself if it is so.

    Float arrays become `requested`; an fp32 array with a finite value beyond fp16 stays fp32.
    Integer arrays stay as they are.
    """
    if value.dtype.kind != "f":
        return np.asarray(value, order="C")
    target = _NUMPY_DTYPES[requested]
    if requested == "fp16" and value.dtype.itemsize > target.itemsize and _overflows_fp16(value):
        target = _NUMPY_DTYPES["fp32"]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(value, dtype=target, order="C")


def _overflows_fp16(value: Array) -> bool:
    if value.size == 0 or max(value.max(), -value.min()) < _FP16_OVERFLOW:
        return False
    # Reached with large, infinite or NaN elements: only the finite ones can overflow.
    return bool((np.isfinite(value) & (np.abs(value) >= _FP16_OVERFLOW)).any())


def dtype_name(array: Array) -> str:
    """The store's name of the dtype of an array made by `as_stored`."""
    return _NAME_OF_NUMPY[array.dtype]


def encode(key: bytes, requested: str, array: Array, codec: str) -> tuple[Header, bytes, Any]:
    """The header, its bytes and the payload (a buffer) of `array`, made by `as_stored`.

    An array that `codec` does not shrink is stored with codec "none". The payload may share the
    memory of `array`.
    """
    raw = array.reshape(-1).view(np.uint8)
    payload: Any = raw.data
    if codec != "none":
        packed = _compress(codec, payload)
        if len(packed) < raw.nbytes:
            payload = packed
        else:
            codec = "none"
    header = Header(
        key=key,
        requested=requested,
        dtype=dtype_name(array),
        codec=codec,
        shape=array.shape,
        raw_bytes=raw.nbytes,
        payload_bytes=len(payload),
    )
    fields = _pack(header)
    return header, fields + checksum(fields, payload), payload


def _pack(header: Header) -> bytes:
    return _FIELDS.pack(
        _MAGIC,
        header.key,
        DTYPE_CODES[header.requested],
        DTYPE_CODES[header.dtype],
        CODEC_CODES[header.codec],
        len(header.shape),
        header.raw_bytes,
        header.payload_bytes,
        *header.shape,
        *(0,) * (MAX_RANK - len(header.shape)),
    )


def checksum(fields: bytes, payload: Any) -> bytes:
    """XXH3 (128 bits) of the payload followed by the header's fields.

    It guards against accidents, not attackers: 14 us for a 0.8 MB map where BLAKE3 takes 124.
    """
    # The payload comes first so that a reader can hash it while the rest is still being read.
    hasher = xxh3_128(payload)
    hasher.update(fields)
    return hasher.digest()


def split_header(block: bytes) -> tuple[bytes, bytes]:
    """The fields and the checksum of a header's bytes."""
    return block[: _FIELDS.size], block[_FIELDS.size :]


def parse_header(block: bytes) -> Header:
    """The header in `block`; DamagedEntry when it is none. Does not look at the checksum."""
    magic, key, requested, dtype, codec, rank, raw_bytes, payload_bytes, *shape = _FIELDS.unpack(
        split_header(block)[0]
    )
    if magic != _MAGIC:
        raise DamagedEntry("there is no entry at this place")
    if (
        rank > MAX_RANK
        or not {requested, dtype} <= _DTYPE_NAMES.keys()
        or codec not in _CODEC_NAMES
    ):
        raise DamagedEntry("its header makes no sense")
    header = Header(
        key=key,
        requested=_DTYPE_NAMES[requested],
        dtype=_DTYPE_NAMES[dtype],
        codec=_CODEC_NAMES[codec],
        shape=tuple(shape[:rank]),
        raw_bytes=raw_bytes,
        payload_bytes=payload_bytes,
    )
    if math.prod(header.shape) * _NUMPY_DTYPES[header.dtype].itemsize != raw_bytes:
        raise DamagedEntry("its header's shape and size disagree")
    return header


def decode(header: Header, payload: Array) -> Array:
    """The array of a verified entry; with codec "none" it is a view of `payload` (uint8, 1-D)."""
    if header.codec != "none":
        payload = _decompress(header.codec, payload, header.raw_bytes)
    if payload.nbytes != header.raw_bytes:
        raise DamagedEntry("its payload has the wrong size")
    return payload.view(_NUMPY_DTYPES[header.dtype]).reshape(header.shape)


def _compress(codec: str, raw: memoryview) -> bytes:
    if codec == "lz4":
        import lz4.block

        packed: bytes = lz4.block.compress(raw, store_size=False)
        return packed
    import zstandard

    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(raw)


def _decompress(codec: str, payload: Array, raw_bytes: int) -> Array:
    """The decompressed bytes, in memory the caller may write to."""
    if codec == "lz4":
        import lz4.block

        try:
            unpacked = lz4.block.decompress(
                payload, uncompressed_size=raw_bytes, return_bytearray=True
            )
        except lz4.block.LZ4BlockError as error:
            raise DamagedEntry(f"lz4 cannot decompress it: {error}") from error
        return np.frombuffer(unpacked, np.uint8)
    import zstandard

    raw = np.empty(raw_bytes, np.uint8)
    filled = 0
    try:
        with zstandard.ZstdDecompressor().stream_reader(payload.data) as reader:
            while filled < raw_bytes and (count := reader.readinto(raw[filled:].data)):
                filled += count
    except zstandard.ZstdError as error:
        raise DamagedEntry(f"zstd cannot decompress it: {error}") from error
    return raw[:filled]
