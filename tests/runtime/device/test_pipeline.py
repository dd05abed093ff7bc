"""A pipeline whose engines run on the simulated GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from tests.chains import Chain, device_chain
from tests.engines.simulated import install
from tests.engines.simulated.plans import engines
from tests.graph.onnx_graphs import classifier, run
from trtkit.bundle import Manifest
from trtkit.errors import TrtkitError
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.pipeline import Pipeline

PHOTOS = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
LOGITS = run(classifier(), PHOTOS)


def pipeline_of(chain: Chain) -> Pipeline:
    *above, head = chain.stages
    tail = replace(head, classes=("a", "b", "c", "d", "e"))
    manifest = Manifest(
        name="simulated", build_id="", cut=1, precision="", computes="", backend="",
        backend_version="", trtkit_version="", created="", batch=(1, 4, 8),
        preprocessing=Preprocessing(), stages=(*above, tail),
    )  # fmt: skip
    return Pipeline(manifest, [tail], chain.runner)


def test_feature_maps_and_logits_of_one_run(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    with pipeline_of(chain) as pipeline:
        kept = []
        for start in (0, 8):
            logits, features = pipeline.logits_and_features(PHOTOS[start : start + 8])
            np.testing.assert_allclose(logits, LOGITS[start : start + 8], rtol=1e-4, atol=1e-5)
            assert features.shape == (8, 4, 8, 8)
            kept.append(features.copy())
        first = pipeline.features(PHOTOS[:8])
        # A copy: two more runs use every buffer again.
        for _ in range(2):
            pipeline.features(PHOTOS[8:])
        np.testing.assert_array_equal(first, kept[0])
        # The tail goes on from the maps to the logits of the same photos.
        onwards = chain.submit([], list(kept[1])).result().logits
        np.testing.assert_allclose(onwards, LOGITS[8:], rtol=1e-4, atol=1e-5)
        with pytest.raises(TrtkitError, match="The engines take batches of 1 to 8, not 9"):
            pipeline.features(PHOTOS[:9])
    del chain, pipeline, features
    simulation.cuda.assert_clean()


def test_runs_of_several_threads_take_turns(monkeypatch, tmp_path):
    install(monkeypatch)
    with pipeline_of(device_chain(engines(tmp_path))) as pipeline, ThreadPoolExecutor(4) as threads:
        maps = [pipeline.features(PHOTOS[start : start + 4]) for start in range(8)]

        def work(turn: int) -> None:
            start = turn % 8
            own = PHOTOS[start : start + 4]
            if turn % 3 == 0:
                logits, features = pipeline.logits_and_features(own)
            else:
                logits, features = pipeline.logits(own), pipeline.features(own)
            np.testing.assert_array_equal(features, maps[start])
            np.testing.assert_allclose(logits, LOGITS[start : start + 4], rtol=1e-4, atol=1e-5)

        for done in [threads.submit(work, turn) for turn in range(32)]:
            done.result()


def test_no_feature_maps_without_a_cut(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    with pipeline_of(device_chain(engines(tmp_path, cut=False))) as pipeline:
        logits, features = pipeline.logits_and_features(PHOTOS[:3])
        np.testing.assert_allclose(logits, LOGITS[:3], rtol=1e-4, atol=1e-5)
        assert features is None
        assert pipeline.features(PHOTOS[:3]) is None
    del pipeline
    simulation.cuda.assert_clean()
