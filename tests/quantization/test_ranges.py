"""Ranges as a file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtkit.errors import TrtkitError
from trtkit.quantization.ranges import METHODS, Ranges, ranges_path, read_ranges

RANGES = Ranges(
    model="resnet18",
    digest="d" * 64,
    images="i" * 64,
    count=512,
    method="entropy",
    tool="nvidia-modelopt 0.47.0",
    created="2026-01-01T00:00:00+00:00",
    ranges={"relu": 3.25, "größe/add": 0.125},
    edges={"conv1": (0,), "add": (0, 1)},
    constant=("dead",),
    kept={"unsigned, cut 2, agreement 0.99": ("conv1", "gemm")},
)
FIELDS = tuple(Ranges.__dataclass_fields__)

NAMES = st.text(max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WRITTEN = st.builds(
    Ranges,
    model=NAMES,
    digest=NAMES,
    images=NAMES,
    count=st.integers(1, 10**6),
    method=st.sampled_from(METHODS),
    tool=NAMES,
    created=NAMES,
    ranges=st.dictionaries(NAMES, FLOATS, max_size=5),
    edges=st.dictionaries(NAMES, st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=5),
    constant=st.lists(NAMES, max_size=3).map(tuple),
    kept=st.dictionaries(NAMES, st.lists(NAMES, max_size=3).map(tuple), max_size=3),
)
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """Where each example writes anew."""
    return ranges_path(tmp_path_factory.mktemp("calibration"), "resnet18")


def as_json(ranges: Ranges = RANGES) -> dict:
    return {"format": 1, **{name: getattr(ranges, name) for name in FIELDS}}


def reason(path: Path, content: bytes | str) -> str:
    """Why there are no ranges in a file of that content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found, why = read_ranges(path)
    assert found is None
    assert why
    return why


@given(WRITTEN)
def test_what_is_written_is_read(path, ranges):
    ranges.write(path)
    assert read_ranges(path) == (ranges, None)


def test_the_file_can_be_read_by_people(tmp_path):
    path = ranges_path(tmp_path / "calibration", "resnet18")
    assert path == tmp_path / "calibration" / "resnet18.ranges.json"
    RANGES.write(path)
    assert [item.name for item in path.parent.iterdir()] == ["resnet18.ranges.json"]
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert ' "größe/add": 0.125' in text
    value = json.loads(text)
    assert tuple(value) == ("format", *FIELDS, "seal")
    assert value["format"] == 1
    assert value["edges"] == {"conv1": [0], "add": [0, 1]}


def test_no_file_is_no_reason(tmp_path):
    assert read_ranges(ranges_path(tmp_path, "none")) == (None, None)
    assert read_ranges(ranges_path(tmp_path / "nowhere", "none")) == (None, None)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b'"text"', b"7", b"{}"]
)
def test_what_is_no_such_object_is_a_reason(path, content):
    assert reason(path, content).startswith("the file cannot be read (")


def test_another_format_is_told(path):
    assert "(it has format 2, this trtkit reads 1)" in reason(path, '{"format": 2, "what": "else"}')
    assert "(it has format None, this trtkit reads 1)" in reason(path, "{}")


@pytest.mark.parametrize("name", FIELDS)
def test_what_is_missing_is_named(path, name):
    value = as_json()
    del value[name]
    assert f"it has no {name}" in reason(path, json.dumps(value))


def test_a_file_that_is_nested_beyond_reading(path):
    assert reason(path, "[" * 100_000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ranges", {"relu": "wide"}),
        ("ranges", {"relu": None}),
        ("ranges", {"relu": 10**400}),
        ("ranges", [1.0]),
        ("edges", {"conv1": 0}),
        ("edges", {"conv1": ["first"]}),
        ("edges", {"conv1": [float("inf")]}),
        ("edges", [0]),
        ("constant", 3),
        ("kept", {"unsigned": None}),
        ("kept", ["conv1"]),
    ],
)
def test_a_field_of_another_kind_is_a_reason(path, name, value):
    assert reason(path, json.dumps({**as_json(), name: value}))


@given(st.sampled_from(["format", *FIELDS]), ANY_JSON)
def test_no_field_can_make_it_fail(path, name, value):
    path.write_text(json.dumps({**as_json(), name: value}), encoding="utf-8")
    found, why = read_ranges(path)
    assert (found is None) == bool(why)


@given(st.integers(0, 10**6), st.binary(max_size=3))
def test_no_damage_can_make_it_fail(path, place, new):
    RANGES.write(path)
    data = path.read_bytes()
    # The last byte is the end of the line, without which it is as good.
    place %= len(data) - 1
    path.write_bytes(data[:place] + new + data[place + len(new) :])
    found, why = read_ranges(path)
    assert (found is None) == bool(why)
    path.write_bytes(data[:place])
    assert read_ranges(path)[0] is None


def test_ranges_hold_for_one_model_one_set_of_photos_and_one_method():
    asked = (RANGES.digest, RANGES.images, RANGES.method)
    assert RANGES.why_stale(*asked) is None
    assert replace(RANGES, model="other", count=3, tool="x", kept={}).why_stale(*asked) is None
    assert replace(RANGES, digest="e").why_stale(*asked) == "the model is another one"
    assert replace(RANGES, images="e").why_stale(*asked) == "the photos are others"
    assert replace(RANGES, method="max").why_stale(*asked) == "they were measured by max"
    # Whichever was found better.
    assert replace(RANGES, method="max").why_stale(*asked[:2], None) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path):
    path = ranges_path(tmp_path, "resnet18")
    RANGES.write(path)
    path.chmod(0)
    with pytest.raises(TrtkitError, match=r"cannot be read \(Permission denied\); mend its perm"):
        read_ranges(path)


def test_what_the_system_refuses_is_an_error(tmp_path):
    (tmp_path / "resnet18.ranges.json").mkdir()
    path = ranges_path(tmp_path, "resnet18")
    with pytest.raises(
        TrtkitError, match=r"resnet18\.ranges\.json cannot be read \(Is a directory\)"
    ):
        read_ranges(path)
    with pytest.raises(TrtkitError, match=r"resnet18\.ranges\.json cannot be written"):
        RANGES.write(path)
