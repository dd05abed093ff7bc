"""What one chunk hands to the next: detector, tracker and pictures, packed without loss."""

from __future__ import annotations

from typing import Any


def pack(detector: bytes, tracker: bytes, evidence: dict[str, Any]) -> bytes:
    """The states of the parts as bytes."""
    import msgspec

    return msgspec.msgpack.encode([detector, tracker, evidence])


def unpack(packed: bytes) -> tuple[bytes, bytes, dict[str, Any]]:
    """The states in what `pack` made; empty ones of nothing. Raises MsgspecError for other bytes."""
    import msgspec

    if not packed:
        return b"", b"", {}
    return msgspec.msgpack.decode(packed, type=tuple[bytes, bytes, dict[str, Any]])
