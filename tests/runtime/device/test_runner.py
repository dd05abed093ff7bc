"""A prefix and a tail on a simulated GPU, which runs what is queued as late and as mixed up as CUDA may."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chains import device_chain
from tests.engines.simulated import VERSIONS, install
from tests.engines.simulated.plans import engines, on_device
from tests.graph.onnx_graphs import classifier, run
from trtkit.engines.cuda.memory import PinnedRows
from trtkit.errors import TrtkitError
from trtkit.runtime.device.runs import PreparedRuns

PHOTOS = np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)
LOGITS = run(classifier(), PHOTOS)
FEATURE_BYTES = 4 * 8 * 8 * 4


def close(logits, photos):
    np.testing.assert_allclose(logits, LOGITS[list(photos)], rtol=1e-4, atol=1e-5)


def features_of(chain, photos):
    """The feature maps of these photos, as a cache would hand them back."""
    outcome = chain.submit([PHOTOS[i] for i in photos], (), keep=True).result()
    return dict(zip(photos, outcome.features.copy(), strict=True))


def submit(chain, fresh, known, features, *, in_pinned=None):
    """A batch of photos to compute and of photos whose feature maps are known, each held or given."""
    hits = []
    for photo in known:
        held = chain.runner.lease(key(photo))
        row = in_pinned.take() if in_pinned is not None and held is None else None
        if row is not None:
            row = row.view(np.float32).reshape(features[photo].shape)
            row[...] = features[photo]
        hits.append(held or (features[photo] if row is None else row))
    return chain.submit(
        [PHOTOS[i].copy() for i in fresh], hits, keys=[key(i) for i in (*fresh, *known)], keep=True
    )


def key(photo):
    return bytes([photo]) * 32


batches = st.lists(
    st.lists(st.integers(0, 23), min_size=1, max_size=8, unique=True), min_size=1, max_size=7
)


@pytest.mark.parametrize("profiles", [((1, 4, 8),), ((3, 4, 8),), ((1, 4, 8), (2, 2, 2))])
@given(batches=batches, seed=st.integers(0, 10**6), cached=st.sampled_from([0, 3, 24]))
@settings(max_examples=12, deadline=None)
def test_any_partition_in_any_order_gives_the_same_logits(profiles, batches, seed, cached):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        simulation = install(patch, seed=seed)
        chain = device_chain(
            engines(Path(folder), profiles=profiles), gpu_cache=cached * FEATURE_BYTES
        )
        features = features_of(chain, range(8))
        chain.runner.reserve(8, 16)
        under_way = []
        for batch in batches:
            known = [photo for photo in batch if photo < 8]
            fresh = [photo for photo in batch if photo >= 8]
            pending = submit(chain, fresh, known, features, in_pinned=chain.runner._rows)
            under_way.append((pending, fresh, known))
            if len(under_way) == chain.depth:
                check(*under_way.pop(0))
        for waiting in under_way:
            check(*waiting)
        chain.close()
        del chain, under_way, pending, waiting
        simulation.cuda.assert_clean()


def check(pending, fresh, known):
    outcome = pending.result()
    close(outcome.logits, [*fresh, *known])
    assert (outcome.features is not None) == bool(fresh)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_version_runs_the_chain(monkeypatch, tmp_path, version, precision):
    simulation = install(monkeypatch, version=version)
    chain = device_chain(engines(tmp_path, version, precision=precision))
    largest = np.abs(LOGITS).max()
    for _ in range(3):
        logits = chain.logits(PHOTOS[:13])
        # fp16: roundings of 2^-11 in two convolutions and a product behind them.
        np.testing.assert_allclose(logits, LOGITS[:13], atol=(20 * 2**-11) * largest)
    # In 8.5 a profile belongs to one context, so that there is nothing to record.
    assert (chain.runner.runs.recorded > 0) == (version != "8.5.3.1")
    chain.close()
    del chain
    simulation.cuda.assert_clean()


def test_a_run_is_recorded_when_it_comes_again_and_once_only(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    recorded = []
    for _ in range(10):
        chain.submit(list(PHOTOS[:4]), ()).result()
        recorded.append(chain.runner.runs.recorded)
    # Two stages in each of two slots; a slot comes again with the third batch.
    assert recorded == [0, 0, 2, 4, 4, 4, 4, 4, 4, 4]
    assert (simulation.cuda.captures, simulation.cuda.launches) == (4, 16)


def test_recorded_runs_are_bounded_and_stay_right(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    chain.runner.runs = PreparedRuns(
        chain.runner._engines, chain.runner._scratch, chain.runner.compute, limit=3
    )
    random = np.random.default_rng(1)
    for _ in range(40):
        size = int(random.integers(1, 9))
        start = int(random.integers(0, 16))
        outcome = chain.submit(list(PHOTOS[start : start + size]), ()).result()
        close(outcome.logits, range(start, start + size))
        assert len(chain.runner.runs) <= 6
        assert simulation.cuda.live()["graph_execs"] <= 6


def test_an_engine_that_cannot_be_recorded_runs_all_the_same(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    real = simulation.cuda.cudaStreamEndCapture

    def fail(stream):
        real(stream)
        from cuda.bindings.runtime import cudaError_t

        return cudaError_t.cudaErrorStreamCaptureInvalidated, None

    monkeypatch.setattr(simulation.cuda, "cudaStreamEndCapture", fail)
    for _ in range(6):
        close(chain.submit(list(PHOTOS[:3]), ()).result().logits, range(3))
    assert (chain.runner.runs.recorded, simulation.cuda.captures) == (0, 3)


def test_a_recording_that_fails_once_is_tried_again(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    chain = device_chain(engines(tmp_path, cut=False))
    real = simulation.cuda.cudaGraphInstantiate
    failing = iter([True])

    def fail_once(graph, flags):
        from cuda.bindings.runtime import cudaError_t

        if next(failing, False):
            return cudaError_t.cudaErrorMemoryAllocation, None
        return real(graph, flags)

    monkeypatch.setattr(simulation.cuda, "cudaGraphInstantiate", fail_once)
    for _ in range(6):
        close(chain.submit(list(PHOTOS[:3]), ()).result().logits, range(3))
    assert chain.runner.runs.recorded == 2


def test_rtx_is_not_recorded_while_it_still_compiles(monkeypatch, tmp_path):
    simulation = install(monkeypatch, version="rtx1.7")
    simulation.library.capturable = False
    chain = device_chain(engines(tmp_path, "rtx1.7"))
    for _ in range(4):
        close(chain.submit(list(PHOTOS[:3]), ()).result().logits, range(3))
    assert chain.runner.runs.recorded == 0
    simulation.library.capturable = True
    for _ in range(2):
        close(chain.submit(list(PHOTOS[:3]), ()).result().logits, range(3))
    assert chain.runner.runs.recorded == 4


def test_a_batch_is_copied_in_while_the_one_before_is_computed(monkeypatch, tmp_path):
    # A device that does nothing until it must: what ran is what the second copy had to wait for.
    simulation = install(monkeypatch, busy=0.0)
    chain = device_chain(engines(tmp_path), graphs=False)
    chain.runner.reserve(4)
    for _ in range(2):
        chain.submit(list(PHOTOS[:4]), ()).result()
    simulation.cuda.log.clear()
    first = chain.submit(list(PHOTOS[:4]), ())
    second = chain.submit(list(PHOTOS[4:8]), ())
    simulation.cuda.cudaStreamSynchronize(chain.runner._inward.handle)
    ran = [kind for _, kind in simulation.cuda.log if kind != "record"]
    assert ran == ["memcpy H2D", "memcpy H2D"], "neither waited for the first batch to be computed"
    close(second.result().logits, range(4, 8))
    close(first.result().logits, range(4))


def test_buffers_are_used_again(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    chain = device_chain(engines(tmp_path), gpu_cache=4 * FEATURE_BYTES)
    features = features_of(chain, range(8))
    chain.runner.reserve(8, 8)

    def work():
        submit(chain, range(8, 12), range(4), features).result()

    for _ in range(4):
        work()
    before = simulation.cuda.live()
    for _ in range(20):
        work()
    assert simulation.cuda.live() == before


def test_a_larger_batch_than_the_last_makes_room(monkeypatch, tmp_path):
    install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    waiting = chain.submit(list(PHOTOS[:2]), (), keep=True)
    close(chain.submit(list(PHOTOS[2:10]), ()).result().logits, range(2, 10))
    # The first batch was taken out of its slot before the slot went.
    close(waiting.result().logits, range(2))
    assert len(waiting.result().features) == 2


def test_a_result_nobody_asked_for_does_not_stop_the_next_batches(monkeypatch, tmp_path):
    install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    waiting = [chain.submit([PHOTOS[i]], (), keep=True) for i in range(5)]
    for i, pending in enumerate(waiting):
        close(pending.result().logits, [i])
        expected = features_of(chain, [i])[i]
        np.testing.assert_array_equal(pending.result().features[0], expected)


def test_the_tail_reads_what_the_prefix_wrote_where_it_lies(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    for _ in range(2):
        chain.submit(list(PHOTOS[:4]), ()).result()
    simulation.cuda.log.clear()
    chain.submit(list(PHOTOS[:4]), ()).result()
    copies = [kind for _, kind in simulation.cuda.log if kind.startswith("memcpy")]
    assert copies == ["memcpy H2D", "memcpy D2H"], "images in, logits out"


def test_the_model_in_one_piece(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    chain = device_chain(engines(tmp_path, cut=False), gpu_cache=1 << 20)
    assert chain.runner.resident is None
    for _ in range(3):
        outcome = chain.submit(list(PHOTOS[:5]), (), keep=True).result()
        close(outcome.logits, range(5))
        assert outcome.features is None
    chain.close()
    del chain
    simulation.cuda.assert_clean()


@pytest.mark.parametrize("images", [0, 9])
def test_a_batch_beyond_the_profile(monkeypatch, tmp_path, images):
    install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    with pytest.raises(
        TrtkitError, match=f"The engines take batches of 1 to 8, not {images}; .*--batch"
    ):
        chain.submit(list(PHOTOS[:images]), ())


def test_tensorrt_refusing_to_run(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    simulation.library.fail_execute = True
    with pytest.raises(
        TrtkitError, match="TensorRT could not run prefix on 2 images .* lower --batch"
    ):
        chain.submit(list(PHOTOS[:2]), ())
    simulation.library.fail_execute = False
    close(chain.submit(list(PHOTOS[:2]), ()).result().logits, range(2))


def test_not_enough_device_memory_says_for_what(monkeypatch, tmp_path):
    install(monkeypatch, memory=6 << 20)
    loaded = engines(tmp_path)
    with pytest.raises(
        TrtkitError,
        match=r"not enough device memory for the feature maps kept on the card: 8\.0 GiB are needed, "
        r"[\d.]+ MiB of 6\.0 MiB are free; lower --gpu-cache",
    ):
        device_chain(loaded, gpu_cache=8 << 30)
    with pytest.raises(
        TrtkitError,
        match=r"does not hold one feature map, which takes 1\.0 KiB; give --gpu-cache more",
    ):
        device_chain(loaded, gpu_cache=1)


def test_pinned_rows_are_free_again_when_nothing_shows_them(monkeypatch):
    install(monkeypatch)
    rows = PinnedRows(2, (3,), "float16")
    first, second = rows.take(), rows.take()
    assert rows.take() is None
    assert rows.owns(first.view(np.float16)) and not rows.owns(np.zeros(6, np.uint8))
    view = second.view(np.float16).reshape(3)[1:]
    del second
    assert rows.take() is None, "a view of it is still there"
    del view
    assert rows.take() is not None


def test_a_row_the_device_still_reads_is_not_given_to_anyone(monkeypatch, tmp_path):
    install(monkeypatch, busy=0.0)
    chain = device_chain(engines(tmp_path))
    features = features_of(chain, [0])
    chain.runner.reserve(1, 1)
    pending = submit(chain, [], [0], features, in_pinned=chain.runner._rows)
    assert chain.runner._rows.take() is None, "its copy has not run yet"
    close(pending.result().logits, [0])
    assert chain.runner._rows.take() is not None


def test_a_run_is_dropped_only_after_it_ran(monkeypatch, tmp_path):
    simulation = install(monkeypatch, busy=0.0)
    chain = device_chain(engines(tmp_path))
    chain.runner.runs = PreparedRuns(
        chain.runner._engines, chain.runner._scratch, chain.runner.compute, limit=1
    )
    waiting = [chain.submit(list(PHOTOS[i : i + 3]), ()) for i in range(2)]
    for i, pending in enumerate(waiting):
        close(pending.result().logits, range(i, i + 3))
    chain.close()
    del chain, waiting, pending
    simulation.cuda.assert_clean()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("seed", range(6))
def test_an_array_on_the_card_between_batches_under_way(monkeypatch, tmp_path, version, seed):
    simulation = install(monkeypatch, version=version, seed=seed, busy=0.6)
    chain = device_chain(engines(tmp_path, version))
    given_array = on_device(PHOTOS[:4])
    for _ in range(3):
        waiting = [chain.submit(list(PHOTOS[i : i + 4]), ()) for i in range(2)]
        close(chain.on_device(given_array).numpy(), range(4))
        for i, pending in enumerate(waiting):
            close(pending.result().logits, range(i, i + 4))
    chain.close()
    del chain, waiting, pending, given_array
    simulation.cuda.assert_clean()


def test_more_hits_read_ahead_than_before_make_room(monkeypatch, tmp_path):
    install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    features = features_of(chain, range(4))
    chain.runner.reserve(2, 2)
    early = chain.runner._rows.take().view(np.float32).reshape(features[0].shape)
    early[...] = features[0]
    chain.runner.reserve(2, 5)
    assert sum(chain.runner._rows.take() is not None for _ in range(3)) == 3
    close(chain.submit([], [early]).result().logits, [0])
