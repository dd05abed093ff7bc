"""Saying what is missing and how to get it."""

from __future__ import annotations

import importlib.util

import pytest

from trtkit.errors import TrtkitError
from trtkit.extras import EXTRAS, Package, require


@pytest.fixture
def without(monkeypatch):
    """Hide packages, by the name they are imported by."""
    real = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name in names else real(name)
        )

    return hide


def test_what_is_there_is_not_asked_for():
    assert require("train", "Exporting") is None
    assert require("train", "Building", "onnx") is None


def test_all_of_an_extra(without):
    without("torch", "onnx")
    with pytest.raises(TrtkitError) as caught:
        require("train", "Exporting")
    assert str(caught.value) == (
        "Exporting needs torch, onnx, which this installation does not have; run "
        "`pip install 'trtkit[train]'`."
    )


def test_some_of_an_extra_come_without_the_rest(without):
    without("torch", "onnx")
    with pytest.raises(TrtkitError) as caught:
        require("train", "Building", "onnx")
    assert str(caught.value) == (
        "Building needs onnx, which this installation does not have; run `pip install onnx`."
    )


def test_versions():
    assert Package("cuda.bindings", ("cuda-python", "cuda-bindings")).version[0].isdigit()
    assert Package("no_such_package.part", ()).installed is False
    assert Package("json", ("no-such-distribution",)).version == "of unknown version"
    assert {"train", "tensorrt", "tensorrt-rtx", "pycuda", "quantize", "video"} == set(EXTRAS)
