"""A string or path where a list is expected is one name; `dir(trtkit)` lists what there is."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import trtkit
from tests.small import BUNDLE
from trtkit import TrtkitError, names
from trtkit.names import names_of


def test_one_name_or_several():
    assert doctest.testmod(names).failed == 0
    assert names_of(Path("a/b")) == (Path("a/b"),)
    assert names_of([Path("a"), "b"]) == (Path("a"), "b")
    assert names_of(iter("ab")) == ("a", "b")
    assert names_of("") == ("",)


def test_dir_lists_the_functions_and_classes():
    listed = dir(trtkit)
    assert listed == sorted(set(trtkit.__all__))
    assert {"Result", "Pipeline", "build", "load", "open_bundle", "cache_info"} <= set(listed)
    for name in listed:
        assert getattr(trtkit, name) is not None
    assert trtkit.Result.__name__ == "Result"
    with pytest.raises(AttributeError, match="^module 'trtkit' has no attribute 'Results'$"):
        _ = trtkit.Results


def test_build_of_one_model(make_workspace):
    place = make_workspace("resnet18")
    report = trtkit.build("resnet18", cut=0, precision="fp32", workspace=place.root)
    assert [tail.name for tail in report.manifest.tails] == ["resnet18"]


UNKNOWN = {
    "build": (
        lambda place: trtkit.build("resnet81", cut=2, workspace=place),
        "Model `resnet81` not found",
    ),
    "evaluate: a checkpoint": (
        lambda place: trtkit.evaluate(place, checkpoints="nothing.safetensors", workspace=place),
        "Checkpoint `nothing.safetensors` not found",
    ),
    "evaluate: a checkpoint's path": (
        lambda place: trtkit.evaluate(place, checkpoints=Path("no/thing"), workspace=place),
        "Checkpoint `no/thing` not found",
    ),
    "evaluate: a bundle": (
        lambda place: trtkit.evaluate(place, bundles="nothing", workspace=place),
        "Bundle `nothing` not found",
    ),
    "evaluate: a tail": (
        lambda place: trtkit.evaluate(place, bundles=BUNDLE, tails="nope", workspace=place),
        "Tail `nope` not found",
    ),
    "bench: a photo": (
        lambda place: trtkit.bench("no.jpg", bundles=str(BUNDLE), workspace=place),
        "no.jpg",
    ),
    "bench: a bundle": (
        lambda place: trtkit.bench(bundles="nothing", workspace=place),
        "Bundle `nothing` not found",
    ),
    "bench: a tail": (
        lambda place: trtkit.bench(bundles=BUNDLE, tails="nope", workspace=place),
        "Tail `nope` not found",
    ),
    "bench: a measure": (
        lambda place: trtkit.bench(bundles=BUNDLE, measures="speed", workspace=place),
        "speed",
    ),
    "ingest": (
        lambda place: trtkit.ingest("gate.mp4", store=place / "store", workspace=place),
        "gate.mp4",
    ),
    "load": (lambda place: trtkit.load(BUNDLE, tail="nope"), "Tail `nope` not found"),
    "open_bundle": (
        lambda place: trtkit.open_bundle(BUNDLE, tail="nope", workspace=place),
        "Tail `nope` not found",
    ),
}


@pytest.mark.parametrize(("call", "text"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_string_is_one_name(tmp_path, call, text):
    # A list of its letters would name one of them.
    with pytest.raises(TrtkitError) as raised:
        call(tmp_path)
    assert text in str(raised.value)
