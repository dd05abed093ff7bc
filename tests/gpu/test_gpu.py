"""What only a GPU can show: real plans, run by the real driver beside torch."""

from __future__ import annotations

import numpy as np
import pytest

import trtkit
from trtkit.engines.cuda.device import free_memory
from trtkit.engines.options import BuildOptions
from trtkit.photos.samples import generate_images

pytestmark = pytest.mark.gpu
OPTIONS = BuildOptions.for_batches([(1, 4, 16), (1, 1, 1)])


@pytest.fixture(scope="module")
def place(tmp_path_factory, exports):
    root = tmp_path_factory.mktemp("gpu")
    (root / "export").symlink_to(exports)
    return root


@pytest.fixture(scope="module")
def bundles(place):
    return {
        precision: trtkit.build(
            ["resnet18", "resnet34"], cut=2, precision=precision, options=OPTIONS, workspace=place
        )
        for precision in ("fp32", "fp16")
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_inspector_tells_the_precision_asked_for(bundles, precision):
    manifest = bundles[precision].manifest
    assert manifest.unverified is None
    for stage in manifest.stages:
        counts = stage.engine["inspector"]
        assert counts["heavy"] > 0
        assert counts["unknown"] == 0, "the inspector words a type in a way that is not known yet"
        assert counts[precision] == counts["heavy"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_recorded_runs_give_what_plain_ones_give(bundles, precision):
    report = bundles[precision]
    images = generate_images(16, report.manifest.preprocessing, seed=2)
    with trtkit.load(report.folder, tail="resnet34") as pipeline:
        first = pipeline.logits(images)
        for _ in range(6):
            np.testing.assert_array_equal(pipeline.logits(images), first)
        assert pipeline.runner.runs.recorded > 0


def test_torch_reads_and_is_read_where_it_lies(bundles):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    report = bundles["fp32"]
    images = generate_images(4, report.manifest.preprocessing, seed=2)
    with trtkit.load(report.folder) as pipeline:
        given = torch.from_numpy(images).cuda()
        logits = torch.from_dlpack(pipeline.logits_on_device(given))
        expected = pipeline.logits(images)
    np.testing.assert_allclose(logits.cpu().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_thousand_runs_leave_the_memory_as_it_was(bundles):
    report = bundles["fp16"]
    images = list(generate_images(4, report.manifest.preprocessing))
    with trtkit.load(report.folder) as pipeline:
        for _ in range(20):
            pipeline.runner.submit([pipeline.tail.ref("logits")], images).result()
        before, _ = free_memory()
        for _ in range(1000):
            pipeline.runner.submit([pipeline.tail.ref("logits")], images).result()
        after, _ = free_memory()
    assert abs(before - after) < 8 << 20
