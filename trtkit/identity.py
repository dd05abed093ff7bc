"""The identities that everything derived is found by: BLAKE3 of the content it came from.

Whatever changes the result changes the id, so that a stale feature map or engine is never found and
nothing is ever invalidated by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

from blake3 import blake3


def bytes_digest(data: bytes) -> bytes:
    """32-byte BLAKE3 of `data`."""
    return blake3(data).digest()


def file_digest(path: Path) -> str:
    """BLAKE3 (hex) of a file's content, read through a memory map on several threads.

    Raises OSError when the file cannot be read.
    """
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def stage_id(graph_digest: str, precision: str, parent: str | None) -> str:
    """The id of a stage (64 hex digits): what it computes, at which precision, behind which parent.

    int8 ranges are part of the graph. `parent` is the parent stage's id, None where the parent is the
    image.
    """
    # Earlier versions had the id of a calibration there. Without it all ids would change.
    return _digest("stage", graph_digest, precision, None, parent)


def feature_key(input_digest: bytes, preprocessing_digest: str, prefix_id: str) -> bytes:
    """The 32-byte key of a feature map: this file's bytes, prepared so, through this prefix."""
    content = blake3(input_digest)
    content.update(bytes.fromhex(preprocessing_digest))
    content.update(bytes.fromhex(prefix_id))
    return content.digest()


def build_id(**request: object) -> str:
    """The id of a build request (64 hex digits): two requests with one id build the same bundle."""
    return _digest("build", request)


def derived_seed(*content: object) -> int:
    """A seed, 64 bits, that depends on nothing but `content`, whatever else draws random numbers."""
    return int.from_bytes(bytes.fromhex(_digest("seed", *content))[:8], "little")


def _digest(*content: object) -> str:
    return blake3(json.dumps(content, sort_keys=True).encode()).hexdigest()
