"""The baselines of a GPU on a real one: each computes the model, and tells a time that can be."""

from __future__ import annotations

import time

import pytest

import trtkit
from tests.pictures import write_photos
from trtkit.benchmark.competitors import load
from trtkit.benchmark.kinds import GPU_BASELINES, missing
from trtkit.benchmark.spec import COMPUTE, END_TO_END, Spec
from trtkit.cpu import usable_cores
from trtkit.engines.options import BuildOptions

pytestmark = pytest.mark.gpu
COUNT = 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, exports):
    root = tmp_path_factory.mktemp("gpu-bench")
    (root / "export").symlink_to(exports)
    options = BuildOptions.for_batches([(1, 4, 8)])
    return trtkit.build(
        ["resnet18", "resnet34"], cut=2, precision="fp16", options=options, workspace=root
    ).folder


@pytest.fixture(scope="module")
def spec(bundle, tmp_path_factory):
    photos = tmp_path_factory.mktemp("photos")
    write_photos(photos, count=COUNT, size=(100, 80))
    kept = tmp_path_factory.mktemp("kept")

    def make(kind: str, measure: str) -> Spec:
        return Spec(
            kind, measure, str(bundle), "resnet34", tuple(map(str, sorted(photos.iterdir()))),
            batch=8, threads=usable_cores(), built_dir=str(kept),
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def expected(spec):
    reference = load(spec("onnxruntime", COMPUTE))
    return reference.labels()


@pytest.mark.parametrize("kind", ["trtkit", *GPU_BASELINES])
def test_a_kind_computes_the_model_and_tells_its_time(spec, expected, kind):
    if missing(kind):
        pytest.skip(missing(kind))
    ready = load(spec(kind, COMPUTE))
    started = time.perf_counter()
    seconds = ready.run()
    passed = time.perf_counter() - started
    # The device cannot have worked for longer than the host waited.
    assert 1e-6 < seconds < (passed if kind != "trtexec" else 10)
    labels = ready.labels()
    ready.close()
    if kind == "trtexec":
        assert labels == []
        return
    # Of random weights, whose best classes are close to each other: fp16 may turn one.
    assert sum(a == b for a, b in zip(labels, expected, strict=True)) >= COUNT - 1


@pytest.mark.parametrize("kind", ["trtkit", "torch-cuda", "onnxruntime-cuda", "tensorrt"])
def test_a_kind_begins_with_files(spec, expected, kind):
    if missing(kind):
        pytest.skip(missing(kind))
    ready = load(spec(kind, END_TO_END))
    assert ready.run() is None
    same = sum(a == b for a, b in zip(ready.labels(), expected, strict=True))
    ready.close()
    assert same >= COUNT - 1
