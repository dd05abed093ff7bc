"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import pytest

from trtkit.errors import TrtkitError
from trtkit.sizes import human_bytes, parse_size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 << 20, "1.5 GiB"),
        (3 << 40, "3.0 TiB"), (None, "unknown"),
    ],
)  # fmt: skip
def test_sizes_are_readable(count: int | None, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("500M", 500 << 20), ("10GB", 10 << 30), ("1.5 GiB", 3 << 29), ("7", 7), (" 2k ", 2048)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "0", "-1G", "10X", "1e999G", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(TrtkitError) as caught:
        parse_size(text, "feature maps")
    assert str(caught.value) == (
        f"{text!r} is not a size for feature maps; write a number with K, M, G or T, such as 10G."
    )
