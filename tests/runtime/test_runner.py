"""The runner of a tree on the processor: any outputs, from images and from maps of any stage."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings

from tests.runtime.batches import WRONG_IMAGES, WRONG_MAPS, batches, values
from tests.runtime.branched import (
    ALL,
    EARLY,
    EMBEDDING,
    EXIT,
    IMAGES,
    MAPS,
    WHOLE,
    A,
    B,
    assert_whole,
    load_tree,
    path,
    rows_of,
)
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.errors import TrtkitError
from trtkit.runtime.runner import HostRunner
from trtkit.stages import OutputRef


class CountingEngine:
    """An engine that keeps how many rows it was given, run by run."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.rows = []

    def run(self, inputs):
        outputs = self.engine.run(inputs)
        self.rows.append(next(iter(outputs.values())).shape[0])
        return outputs


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    stages, engines = load_tree(OnnxRuntimeBackend(), tmp_path_factory.mktemp("tree"))
    return stages, {name: CountingEngine(engine) for name, engine in engines.items()}


@pytest.fixture
def runner(tree):
    stages, engines = tree
    for engine in engines.values():
        engine.rows.clear()
    return HostRunner(stages, engines)


@pytest.mark.parametrize("method", ["run", "submit"])
def test_any_outputs_of_any_images_and_maps_are_the_whole_model_s(tree, method):
    stages, engines = tree
    runner = HostRunner(stages, engines)

    @given(batch=batches())
    @settings(max_examples=100, deadline=None)
    def check(batch):
        wanted, images, known = batch
        for engine in engines.values():
            engine.rows.clear()
        if method == "run":
            outputs = runner.run(wanted, IMAGES[images], values(known))
            assert list(outputs) == wanted
            outputs = {ref: value for ref, value in outputs.items() if len(value)}
        else:
            outputs = runner.submit(wanted, list(IMAGES[images]), values(known)).result()
        assert_whole(outputs, wanted, images, known)
        # Each stage on the paths runs once, on all its rows; the others do not run.
        needed = {stage for ref in wanted for stage in path(ref.stage)}
        for name, engine in engines.items():
            output = next(ref for ref in ALL if ref.stage == name)
            rows = len(rows_of(output, images, known))
            assert engine.rows == ([rows] if rows and name in needed else [])

    check()


def test_a_stage_gives_all_its_outputs_in_one_run(runner, tree):
    outputs = runner.run([EARLY, MAPS], IMAGES[:3])
    assert_whole(outputs, [EARLY, MAPS], range(3), {})
    assert tree[1]["prefix"].rows == [3]


def test_an_output_without_rows_is_empty_or_left_out(runner, tree):
    known = {EMBEDDING: WHOLE[EMBEDDING][:2]}
    outputs = runner.run([MAPS, A], IMAGES[:0], known)
    assert (outputs[MAPS].shape, outputs[MAPS].dtype) == ((0, 4, 8, 8), np.float32)
    assert_whole({A: outputs[A]}, [A], [], {EMBEDDING: [0, 1]})
    assert runner.submit([MAPS, A], [], known).result().keys() == {A}
    assert {name: engine.rows for name, engine in tree[1].items() if engine.rows} == {"a": [2, 2]}
    assert runner.run([A], IMAGES[:0])[A].shape == (0, 5)
    with pytest.raises(TrtkitError, match="^Output a:logits not found; "):
        runner.run([OutputRef("a", "logits")], IMAGES[:0])


def test_maps_come_as_an_array_as_well(runner):
    known = {MAPS: WHOLE[MAPS][4:7], EARLY: WHOLE[EARLY][4:7]}
    outputs = runner.run([A, B], IMAGES[:2], known)
    assert_whole(outputs, [A, B], [0, 1], {MAPS: [4, 5, 6], EARLY: [4, 5, 6]})


def test_no_known_maps_are_as_none(runner):
    outputs = runner.run([A, B], IMAGES[:2], {MAPS: [], EARLY: [], EMBEDDING: []})
    assert_whole(outputs, [A, B], [0, 1], {})


def test_maps_of_another_dtype_are_converted(runner):
    known = {MAPS: [WHOLE[MAPS][3].astype(np.float64)]}
    outputs = runner.run([EXIT], IMAGES[:1], known)
    assert_whole(outputs, [EXIT], [0], {MAPS: [3]})


def test_outputs_are_the_callers(runner):
    first = runner.run(ALL, IMAGES[:4])
    copies = {ref: value.copy() for ref, value in first.items()}
    logits = runner.submit([A], list(IMAGES[:4])).result()[A]
    for start in range(4, 20, 4):
        runner.run(ALL, IMAGES[start : start + 4])
        runner.submit([A], list(IMAGES[start : start + 4])).result()
    for ref, value in first.items():
        np.testing.assert_array_equal(value, copies[ref])
        assert value.flags.owndata
    np.testing.assert_allclose(logits, WHOLE[A][:4], rtol=1e-4, atol=1e-5)
    assert logits.flags.owndata


WRONG = {
    "an unknown output": (
        [OutputRef("a", "logits")],
        {},
        "Output a:logits not found; available: prefix:maps, prefix:early, a-body:embedding, "
        "a:logits-a, b:logits-b, exit:logits-exit.",
    ),
    "an unknown stage": (
        [A, OutputRef("c", "logits-a")],
        {},
        "Output c:logits-a not found; available: prefix:maps, prefix:early, a-body:embedding, "
        "a:logits-a, b:logits-b, exit:logits-exit.",
    ),
    "maps beside the way": (
        [B],
        {EMBEDDING: [0]},
        "Known maps of a-body:embedding lead to none of b:logits-b; leave them out.",
    ),
    "maps of what is wanted": (
        [MAPS],
        {MAPS: [0]},
        "Known maps of prefix:maps lead to none of prefix:maps; leave them out.",
    ),
    "maps of what does not exist": (
        [A, EXIT],
        {OutputRef("prefix", "map"): [0]},
        "Known maps of prefix:map lead to none of a:logits-a, exit:logits-exit; leave them out.",
    ),
    "fewer of one": (
        [B],
        {MAPS: [0, 1], EARLY: [0]},
        "Stage b takes maps float32 N x 4 x 8 x 8, early float32 N x 4 x 8 x 8; give as many known "
        "maps for each of these, or the images.",
    ),
    "one without the other": (
        [A, B],
        {MAPS: [0, 1]},
        "Stage b takes maps float32 N x 4 x 8 x 8, early float32 N x 4 x 8 x 8; give as many known "
        "maps for each of these, or the images.",
    ),
    "one and nothing of the other": (
        [B],
        {MAPS: [0], EARLY: []},
        "Stage b takes maps float32 N x 4 x 8 x 8, early float32 N x 4 x 8 x 8; give as many known "
        "maps for each of these, or the images.",
    ),
}


@pytest.mark.parametrize("method", ["run", "submit"])
@pytest.mark.parametrize(("wanted", "known", "sentence"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_run_is_said_before_anything_runs(
    runner, tree, method, wanted, known, sentence
):
    maps = {
        ref: [WHOLE.get(ref, WHOLE[MAPS])[number] for number in numbers]
        for ref, numbers in known.items()
    }
    images = IMAGES[:2] if method == "run" else list(IMAGES[:2])
    with pytest.raises(TrtkitError, match=f"^{re.escape(sentence)}$"):
        getattr(runner, method)(wanted, images, maps)
    assert not any(engine.rows for engine in tree[1].values())


@pytest.mark.parametrize("method", ["run", "submit"])
@pytest.mark.parametrize(("maps", "sentence"), WRONG_MAPS.values(), ids=WRONG_MAPS)
def test_known_maps_that_no_stage_gives_are_refused(runner, tree, method, maps, sentence):
    with pytest.raises(TrtkitError, match=f"^{re.escape(sentence)}$"):
        getattr(runner, method)([A, EXIT], IMAGES[:2], {MAPS: maps})
    assert not any(engine.rows for engine in tree[1].values())


@pytest.mark.parametrize(("images", "sentence"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_images_that_no_engine_takes_are_refused(runner, tree, images, sentence):
    with pytest.raises(TrtkitError, match=f"^{re.escape(sentence)}$"):
        runner.submit([A], images)
    assert not any(engine.rows for engine in tree[1].values())


def test_runs_of_several_threads_take_turns(tree):
    stages, engines = tree
    running = []

    class Alone:
        """An engine that one thread at a time may run."""

        def __init__(self, engine) -> None:
            self.engine = engine

        def run(self, inputs):
            running.append(self)
            time.sleep(0.0005)
            assert running == [self]
            outputs = self.engine.run(inputs)
            running.remove(self)
            return outputs

    runner = HostRunner(stages, {name: Alone(engine) for name, engine in engines.items()})
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda n: runner.run([A, B], IMAGES[n : n + 2]), range(12))
        for number, outputs in enumerate(results):
            assert_whole(outputs, [A, B], [number, number + 1], {})
