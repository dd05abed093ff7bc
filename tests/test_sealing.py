"""Seals: whatever is changed in a sealed file is noticed, or means the same."""

from __future__ import annotations

import doctest
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtkit import sealing
from trtkit.sealing import (
    BLANK,
    KEY,
    MARK,
    SealBroken,
    check_file,
    read_json_file,
    seal_file,
    sealed,
    unsealed,
)
from trtkit.serialization import write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
VALUE = {"format": 2, "classes": ["größe", "b"], "scores": [0.1, 2.5e-7], "batch": {"least": 1}}


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_what_was_sealed_is_opened(value):
    value.pop(sealing.KEY, None)
    assert unsealed(json.loads(json.dumps(sealed(value)))) == value


def test_numbers_as_keys_and_tuples_are_sealed_as_they_are_read(tmp_path: Path) -> None:
    write_json(tmp_path / "cuts.json", {10: (1, 2), 9: ()})
    assert read_json_file(tmp_path / "cuts.json") == {"10": [1, 2], "9": []}


@pytest.mark.parametrize("value", [None, 7, "text", [1], {"no": "seal"}])
def test_what_has_no_seal_is_as_it_was(value):
    assert unsealed(value) == value


def test_a_damaged_name_of_the_seal_is_noticed():
    value = sealed({"cut": 7})
    damaged = {"cut": 8, "seil": value[KEY]}
    with pytest.raises(SealBroken):
        unsealed(damaged)


def test_whitespace_and_order_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    text = json.dumps(dict(reversed(sealed(VALUE).items())), indent="\t").replace("\n", "\r\n")
    path.write_text(text, newline="")
    assert read_json_file(path) == VALUE


def flips(data: bytes, count: int, seed: int):
    """`data` with one bit turned, `count` times."""
    draw = random.Random(seed)
    for _ in range(count):
        at, bit = draw.randrange(len(data)), draw.randrange(8)
        yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_no_single_bit_changes_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, VALUE)
    data = path.read_bytes()
    noticed = 0
    for damaged in flips(data, 2000, seed=1):
        path.write_bytes(damaged)
        try:
            value = read_json_file(path)
        except ValueError:
            noticed += 1
            continue
        # Whitespace, or the name of the seal itself, which is a key nobody knows then.
        assert {key: value[key] for key in VALUE} == VALUE
    assert noticed > 1600


def sealed_binary(path: Path) -> bytes:
    path.write_bytes(os.urandom(500) + MARK.encode() + b"\x12\x40" + BLANK.encode() + b"behind")
    seal_file(path)
    return path.read_bytes()


def test_every_bit_of_a_binary_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = sealed_binary(path)
    check_file(path)
    mark = data.rfind(MARK.encode())
    for damaged in flips(data, 1000, seed=2):
        path.write_bytes(damaged)
        changed = next(
            at for at, pair in enumerate(zip(data, damaged, strict=True)) if len({*pair}) > 1
        )
        if mark <= changed < mark + len(MARK) + 2:
            # Without its mark the file has no seal, and the rest of it is unchanged.
            check_file(path)
            continue
        with pytest.raises(SealBroken, match="damaged or changed"):
            check_file(path)


def test_files_without_a_seal_pass(tmp_path: Path) -> None:
    for content in (b"", b"anything", MARK.encode(), MARK.encode() + b'":"too short'):
        (tmp_path / "file").write_bytes(content)
        check_file(tmp_path / "file")
        with pytest.raises(ValueError, match="no place for a seal|empty file"):
            seal_file(tmp_path / "file")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path: Path, make) -> None:
    make(tmp_path / "file.json")
    with pytest.raises(OSError, match="no regular file"):
        read_json_file(tmp_path / "file.json")


def test_a_value_nested_too_deeply_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json_file(tmp_path / "file.json")


def test_the_examples() -> None:
    assert doctest.testmod(sealing).failed == 0
