"""Dataclasses as JSON and back."""

from __future__ import annotations

import doctest
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtkit import serialization
from trtkit.serialization import from_plain, read_json, to_plain, write_json


@dataclass(frozen=True)
class Part:
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Whole:
    seconds: float
    parts: tuple[Part, ...]
    folder: Path | None = None
    notes: dict[str, str] = field(default_factory=dict)


@given(
    st.builds(
        Whole,
        seconds=st.floats(allow_nan=False),
        parts=st.lists(
            st.builds(Part, st.text(), st.lists(st.integers(-(2**60), 2**60)).map(tuple))
        ).map(tuple),
        folder=st.none() | st.just(Path("some/folder")),
        notes=st.dictionaries(st.text(), st.text()),
    )
)
def test_what_was_written_is_read_back(whole: Whole) -> None:
    assert from_plain(to_plain(whole), Whole) == whole


def test_a_file_is_read_back(tmp_path: Path) -> None:
    whole = Whole(0.25, (Part("a", (1, 2)),), tmp_path)
    write_json(tmp_path / "whole.json", whole)
    assert read_json(tmp_path / "whole.json", Whole) == whole
    assert (tmp_path / "whole.json").read_text().startswith('{\n  "seconds": 0.25,\n  "parts": [')


def test_unknown_keys_are_ignored() -> None:
    assert from_plain({"name": "a", "shape": [], "newer": 1}, Part) == Part("a", ())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"seconds": "1", "parts": []}, r"Expected `float`, got `str` - at `\$.seconds`"),
        ({"seconds": 1.0}, "missing required field `parts`"),
        ({"seconds": 1.0, "parts": [{"name": "a", "shape": [0.5]}]}, r"`\$.parts\[0\].shape\[0\]`"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_what_does_not_fit_is_named(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_plain(value, Whole)


def test_a_value_without_a_json_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        to_plain({"a": object()})


def test_its_examples() -> None:
    assert doctest.testmod(serialization).failed == 0
