"""What the last engine took, brought to the host, on a simulated GPU and on the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.chains import device_chain, host_chain
from tests.engines.simulated import VERSIONS, install
from tests.engines.simulated.plans import backend_for, engines
from tests.graph.onnx_graphs import classifier, run
from trtkit.engines.base import StageBuild
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.engines.options import BuildOptions
from trtkit.graph.embedding import divide
from trtkit.graph.split import split

PHOTOS = np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)
LOGITS = run(classifier(), PHOTOS)
FC = next(
    numpy_helper.to_array(weight)
    for weight in classifier().graph.initializer
    if weight.name == "fc"
)


def parts() -> list[tuple[str, onnx.ModelProto]]:
    sides = split(classifier(), "d")
    tail = divide(sides.tail, "tail")
    return [("prefix", sides.prefix), ("body", tail.prefix), ("head", tail.tail)]


EMBEDDINGS = run(parts()[1][1], run(parts()[0][1], PHOTOS))


def loaded(backend, folder: Path, *, precision: str = "fp32", profiles=((1, 4, 8),)) -> list:
    found = []
    for name, graph in parts():
        options = BuildOptions(profiles=profiles)
        stage = StageBuild(name, graph, precision, name == "prefix", name == "head", options)
        path = folder / f"{name}-0{backend.suffix}"
        built = backend.build(stage, path, folder / "timing")
        found.append(backend.load(path, built.record, "trtkit build"))
    return found


def assert_close(outcome, photos, *, atol: float = 1e-5) -> None:
    """`atol`: in units of the largest."""
    photos = list(photos)
    for found, wanted in (
        (outcome.penultimate, EMBEDDINGS[photos]),
        (outcome.logits, LOGITS[photos]),
        # The head adds no bias: the logits are those of these very vectors.
        (outcome.logits, outcome.penultimate.astype(np.float32) @ FC.T),
    ):
        np.testing.assert_allclose(found, wanted, atol=atol * np.abs(wanted).max())


def images(*places: int) -> list[np.ndarray]:
    return [PHOTOS[place] for place in places]


def test_the_last_product_of_these_is_the_logits():
    np.testing.assert_allclose(EMBEDDINGS @ FC.T, LOGITS, rtol=1e-4, atol=1e-5)


def test_on_the_processor_of_images_and_of_hits(tmp_path):
    chain = host_chain(loaded(OnnxRuntimeBackend(), tmp_path))
    first = chain.submit(images(0, 1, 2), (), keep=True, penultimate=True).result()
    assert_close(first, range(3))
    assert first.penultimate.dtype == np.float32
    maps = list(first.features)
    assert_close(chain.submit(images(5), maps[:2], penultimate=True).result(), [5, 0, 1])
    assert_close(chain.submit([], maps, penultimate=True).result(), range(3))
    assert chain.submit(images(0), ()).result().penultimate is None
    np.testing.assert_allclose(chain.logits(PHOTOS[:4]), LOGITS[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_the_gpu_of_images_and_of_hits(monkeypatch, tmp_path, version, precision):
    simulation = install(monkeypatch, version=version)
    chain = device_chain(loaded(backend_for(version), tmp_path, precision=precision))
    # fp16: roundings of 2^-11 in two convolutions, a product and the vector itself.
    atol = 1e-5 if precision == "fp32" else 20 * 2**-11
    first = chain.submit(images(0, 1, 2), (), keep=True, penultimate=True).result()
    assert_close(first, range(3), atol=atol)
    assert first.penultimate.dtype == {"fp32": np.float32, "fp16": np.float16}[precision]
    maps = [each.copy() for each in first.features]
    for _ in range(3):
        assert_close(
            chain.submit(images(5), maps[:2], penultimate=True).result(), [5, 0, 1], atol=atol
        )
    assert_close(chain.submit([], maps, penultimate=True).result(), range(3), atol=atol)
    assert chain.submit(images(0), ()).result().penultimate is None
    chain.close()
    # The maps and vectors of the first one lie in the chain's own memory.
    del chain, first
    simulation.cuda.assert_clean()


def test_batches_whose_slots_are_taken_keep_theirs(monkeypatch, tmp_path):
    install(monkeypatch, busy=0.5, seed=3)
    chain = device_chain(loaded(backend_for("10.3.0"), tmp_path))
    waiting = [
        chain.submit(images(place, place + 1), (), keep=True, penultimate=True)
        for place in range(7)
    ]
    for place, pending in enumerate(waiting):
        assert_close(pending.result(), (place, place + 1))
        assert len(pending.result().features) == 2


@pytest.mark.parametrize("seed", range(6))
def test_it_is_copied_after_it_was_computed_and_before_it_is_used_again(
    monkeypatch, tmp_path, seed
):
    install(monkeypatch, busy=0.0, seed=seed)
    chain = device_chain(loaded(backend_for("10.3.0"), tmp_path))
    waiting = []
    for place in range(0, 20, 2):
        waiting.append(
            (chain.submit(images(place, place + 1, place + 2), (), penultimate=True), place)
        )
        if len(waiting) == chain.depth:
            pending, first = waiting.pop(0)
            assert_close(pending.result(), range(first, first + 3))


def test_fewer_rows_than_the_engines_take(monkeypatch, tmp_path):
    install(monkeypatch)
    chain = device_chain(loaded(backend_for("10.3.0"), tmp_path, profiles=((3, 4, 8),)))
    outcome = chain.submit(images(4), (), penultimate=True).result()
    assert outcome.penultimate.shape == (1, 4)
    assert_close(outcome, [4])


def test_nothing_is_copied_that_nobody_asked_for(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    chain = device_chain(loaded(backend_for("10.3.0"), tmp_path))
    for wanted, copies in ((False, 1), (True, 2)):
        chain.submit(images(0, 1), (), penultimate=wanted).result()
        simulation.cuda.log.clear()
        chain.submit(images(0, 1), (), penultimate=wanted).result()
        kinds = [kind for _, kind in simulation.cuda.log]
        assert kinds.count("memcpy D2H") == copies


@pytest.mark.parametrize("cut", [True, False])
def test_a_tail_of_one_engine_has_none(monkeypatch, tmp_path, cut):
    install(monkeypatch)
    plans = engines(tmp_path, cut=cut)
    assert device_chain(plans).submit(images(0), (), penultimate=True).result().penultimate is None
    backend, sides = OnnxRuntimeBackend(), split(classifier(), "d")
    graphs = [sides.prefix, sides.tail] if cut else [classifier()]
    paths = [tmp_path / f"{place}.onnx" for place in range(len(graphs))]
    for graph, path in zip(graphs, paths, strict=True):
        onnx.save(graph, path)
    chain = host_chain([backend.load(path) for path in paths])
    assert chain.submit(images(0), (), penultimate=True).result().penultimate is None
