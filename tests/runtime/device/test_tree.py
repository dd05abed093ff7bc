"""A tree with branches on a simulated GPU, which runs what is queued as late as CUDA may."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.simulated import VERSIONS, install
from tests.engines.simulated.plans import backend_for
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
from trtkit.errors import TrtkitError
from trtkit.runtime.device.resident import ResidentLease
from trtkit.runtime.device.runner import DeviceRunner
from trtkit.runtime.device.runs import PreparedRuns
from trtkit.stages import OutputRef

MAP_BYTES = 4 * 8 * 8 * 4


def runner_of(folder: Path, version: str = "10.3.0", *, profiles=((1, 4, 8),), **options):
    stages, engines = load_tree(backend_for(version), folder, profiles=profiles)
    return DeviceRunner(stages, engines, guarded=MAPS, **options)


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> Path:
    """A folder for plans that the examples of a property share, one folder for each profile."""
    return tmp_path_factory.mktemp("plans")


def folder_for(plans: Path, profiles) -> Path:
    folder = plans / "-".join(str(profile) for profile in profiles)
    folder.mkdir(exist_ok=True)
    return folder


def images_of(numbers) -> list[np.ndarray]:
    return [IMAGES[number].copy() for number in numbers]


def runs_queued(patch) -> list[tuple[str, int]]:
    """The stages that are queued from now on, each with its number of rows."""
    queued: list[tuple[str, int]] = []
    enqueue = PreparedRuns.enqueue

    def counting(self, stage, slot, images, addresses):
        queued.append((stage, images))
        return enqueue(self, stage, slot, images, addresses)

    patch.setattr(PreparedRuns, "enqueue", counting)
    return queued


def key(number: int) -> bytes:
    return bytes([number]) * 32


@pytest.mark.parametrize("profiles", [((1, 4, 8),), ((3, 4, 8),), ((1, 4, 8), (2, 2, 2))])
@given(
    several=st.lists(batches(), min_size=1, max_size=7),
    seed=st.integers(0, 10**6),
    busy=st.sampled_from([0.0, 0.15, 0.6]),
    graphs=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_any_outputs_of_any_images_and_maps_are_the_whole_model_s(
    plans, profiles, several, seed, busy, graphs
):
    least = profiles[0][0]
    with pytest.MonkeyPatch.context() as patch:
        simulation = install(patch, seed=seed, busy=busy)
        runner = runner_of(folder_for(plans, profiles), profiles=profiles, graphs=graphs)
        queued = runs_queued(patch)
        under_way = []
        for wanted, images, known in several:
            queued.clear()
            pending = runner.submit(wanted, images_of(images), values(known))
            assert len({stage for stage, _ in queued}) == len(queued), "an engine ran twice"
            assert dict(queued) == runs_expected(wanted, images, known, least)
            under_way.append((pending, wanted, images, known))
            if len(under_way) == runner.depth:
                pending, *batch = under_way.pop(0)
                assert_whole(pending.result(), *batch)
        for waiting, *batch in under_way:
            assert_whole(waiting.result(), *batch)
        runner.close()
        del runner, under_way, pending
        waiting = None
        simulation.cuda.assert_clean()


def runs_expected(wanted, images, known, least):
    rows = {
        stage: len(rows_of(next(ref for ref in ALL if ref.stage == stage), images, known))
        for output in wanted
        for stage in path(output.stage)
    }
    return {stage: max(count, least) for stage, count in rows.items() if count}


@pytest.mark.parametrize("profiles", [((1, 4, 8),), ((3, 4, 8),)])
@given(
    several=st.lists(
        st.tuples(
            st.lists(st.sampled_from(ALL), min_size=1, unique=True).map(lambda refs: {*refs, EXIT}),
            st.lists(st.integers(0, 23), min_size=1, max_size=8, unique=True),
        ),
        min_size=2,
        max_size=8,
    ),
    seed=st.integers(0, 10**6),
    capacity=st.sampled_from([2, 8, 24]),
)
@settings(max_examples=12, deadline=None)
def test_maps_that_stay_on_the_card_serve_every_tail(plans, profiles, several, seed, capacity):
    with pytest.MonkeyPatch.context() as patch:
        simulation = install(patch, seed=seed)
        runner = runner_of(
            folder_for(plans, profiles), profiles=profiles, gpu_cache=capacity * MAP_BYTES
        )
        under_way = []
        for refs, numbers in several:
            # The other tail takes an output besides that is not kept.
            wanted = sorted(refs - {B})
            held = {number: runner.lease(key(number)) for number in numbers}
            hits = [number for number in numbers if held[number] is not None]
            misses = [number for number in numbers if held[number] is None]
            known = {MAPS: hits} if hits else {}
            pending = runner.submit(
                wanted,
                images_of(misses),
                {MAPS: [held[number] for number in hits]} if hits else {},
                keys=[key(number) for number in (*misses, *hits)],
            )
            del held
            under_way.append((pending, wanted, misses, known))
            if len(under_way) == runner.depth:
                pending, *batch = under_way.pop(0)
                assert_whole(pending.result(), *batch)
        for waiting, *batch in under_way:
            assert_whole(waiting.result(), *batch)
        runner.close()
        del runner, under_way, pending
        waiting = None
        simulation.cuda.assert_clean()


def test_what_one_tail_computed_another_finds_on_the_card(monkeypatch, tmp_path):
    install(monkeypatch)
    runner = runner_of(tmp_path, gpu_cache=8 * MAP_BYTES)
    keys = [key(number) for number in range(3)]
    runner.submit([EXIT], images_of(range(3)), keys=keys).result()
    held = [runner.lease(one) for one in keys]
    assert all(isinstance(lease, ResidentLease) for lease in held)
    queued = runs_queued(monkeypatch)
    outputs = runner.submit([A, EMBEDDING], [], {MAPS: held}, keys=keys).result()
    assert queued == [("a-body", 3), ("a", 3)]
    assert_whole(outputs, [A, EMBEDDING], [], {MAPS: range(3)})


@pytest.mark.parametrize("known", [{MAPS: [7]}, {MAPS: [7, 8], EARLY: [7, 8], EMBEDDING: [9]}])
@pytest.mark.parametrize("seed", range(6))
def test_rows_beyond_a_minimum_do_not_overwrite_known_maps(monkeypatch, tmp_path, known, seed):
    # Each stage runs over three rows for one image: the known maps lie where it writes.
    install(monkeypatch, busy=0.0, seed=seed)
    runner = runner_of(tmp_path, profiles=((3, 4, 8),))
    wanted = [A, B, EXIT] if EARLY in known else [A, EXIT]
    for number in range(5):
        outputs = runner.submit(wanted, images_of([number]), values(known)).result()
        assert_whole(outputs, wanted, [number], known)


def test_runs_of_all_stages_are_recorded_when_they_come_again(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    runner = runner_of(tmp_path)
    for _ in range(10):
        outputs = runner.submit([A, B, EXIT], images_of(range(4))).result()
        assert_whole(outputs, [A, B, EXIT], range(4), {})
    # Five stages in each of two slots; the first run of each is not recorded.
    assert runner.runs.recorded == 10
    assert (simulation.cuda.captures, simulation.cuda.launches) == (10, 40)


def test_recorded_runs_stay_right_when_other_outputs_are_wanted(monkeypatch, tmp_path):
    simulation = install(monkeypatch, busy=0.3, seed=5)
    runner = runner_of(tmp_path)
    wishes = [[A], [B, EXIT], [EMBEDDING], [A, B, EXIT, MAPS], [EARLY]]
    for turn in range(30):
        wanted = wishes[turn % len(wishes)]
        numbers = range(turn % 20, turn % 20 + 4)
        assert_whole(runner.submit(wanted, images_of(numbers)).result(), wanted, numbers, {})
    assert simulation.cuda.captures == runner.runs.recorded == 10


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_runs_the_tree(monkeypatch, tmp_path, version):
    simulation = install(monkeypatch, version=version)
    runner = runner_of(tmp_path, version)
    for start in range(3):
        outputs = runner.run(list(ALL), IMAGES[start : start + 13])
        assert_whole(outputs, ALL, range(start, start + 13), {})
    runner.close()
    del runner, outputs
    simulation.cuda.assert_clean()


def test_only_wanted_outputs_are_copied_out_and_known_maps_in(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    runner = runner_of(tmp_path)
    for wanted, known, inward, outward in (
        ([A], {}, 1, 1),
        ([A, B, EXIT], {}, 1, 3),
        ([A, EMBEDDING, MAPS], {}, 1, 3),
        ([A, B], {MAPS: [5, 6], EARLY: [5, 6]}, 1 + 4, 2),
    ):
        simulation.cuda.log.clear()
        runner.submit(wanted, images_of([0, 1]), values(known)).result()
        kinds = [kind for _, kind in simulation.cuda.log]
        assert (kinds.count("memcpy H2D"), kinds.count("memcpy D2H")) == (inward, outward)
        assert "memcpy D2D" not in kinds


def test_a_tensor_on_the_card_of_any_output(monkeypatch, tmp_path):
    from tests.engines.simulated.plans import on_device

    install(monkeypatch)
    runner = runner_of(tmp_path)
    for ref in ALL:
        found = runner.on_device(ref, on_device(IMAGES[:4])).numpy()
        np.testing.assert_allclose(found, WHOLE[ref][:4], rtol=1e-4, atol=1e-5)


def test_maps_come_as_an_array_as_well(monkeypatch, tmp_path):
    install(monkeypatch)
    runner = runner_of(tmp_path)
    known = {MAPS: WHOLE[MAPS][4:7], EARLY: WHOLE[EARLY][4:7]}
    outputs = runner.run([A, B], IMAGES[:2], known)
    assert_whole(outputs, [A, B], [0, 1], {MAPS: [4, 5, 6], EARLY: [4, 5, 6]})
    outputs = runner.submit([A, B], IMAGES[:2], known).result()
    assert_whole(outputs, [A, B], [0, 1], {MAPS: [4, 5, 6], EARLY: [4, 5, 6]})


def test_an_output_without_rows_is_empty(monkeypatch, tmp_path):
    install(monkeypatch)
    runner = runner_of(tmp_path)
    outputs = runner.run([A, MAPS], IMAGES[:0])
    assert {ref: value.shape for ref, value in outputs.items()} == {A: (0, 5), MAPS: (0, 4, 8, 8)}
    outputs = runner.run([A, MAPS], IMAGES[:0], {EMBEDDING: WHOLE[EMBEDDING][:2]})
    assert outputs[MAPS].shape == (0, 4, 8, 8)
    assert_whole({A: outputs[A]}, [A], [], {EMBEDDING: [0, 1]})
    with pytest.raises(TrtkitError, match="^Output a:logits not found; "):
        runner.run([OutputRef("a", "logits")], IMAGES[:0])


def test_empty_known_maps_are_as_none(monkeypatch, tmp_path):
    install(monkeypatch)
    outputs = runner_of(tmp_path).run([A], IMAGES[:13], {MAPS: [], EMBEDDING: []})
    assert_whole(outputs, [A], range(13), {})


WRONG = {
    "an unknown output": (
        [OutputRef("a", "logits")],
        {},
        "Output a:logits not found; available: prefix:maps, prefix:early, a-body:embedding, "
        "a:logits-a, b:logits-b, exit:logits-exit.",
    ),
    "maps beside the way": (
        [B],
        {EMBEDDING: [0]},
        "Known maps of a-body:embedding lead to none of b:logits-b; leave them out.",
    ),
    "one without the other": (
        [A, B],
        {MAPS: [0, 1]},
        "Stage b takes maps float32 N x 4 x 8 x 8, early float32 N x 4 x 8 x 8; give as many known "
        "maps for each of these, or the images.",
    ),
    "too many for a stage below": (
        [A],
        {MAPS: [0, 1, 2, 3], EMBEDDING: [4, 5, 6]},
        "The engines take batches of 1 to 8, not 9; choose one of those or build with --batch.",
    ),
}


@pytest.mark.parametrize(("wanted", "known", "sentence"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_run_is_said_before_anything_runs(
    monkeypatch, tmp_path, wanted, known, sentence
):
    simulation = install(monkeypatch)
    runner = runner_of(tmp_path)
    before = simulation.cuda.live()
    with pytest.raises(TrtkitError, match=f"^{re.escape(sentence)}$"):
        runner.submit(wanted, images_of([0, 1]), values(known))
    assert simulation.cuda.live() == before
    assert_whole(runner.submit([A], images_of([2])).result(), [A], [2], {})


WRONG_BATCHES = {
    **{
        f"maps {name}": (IMAGES[:2], {MAPS: maps}, text)
        for name, (maps, text) in WRONG_MAPS.items()
    },
    **{f"images {name}": (images, {}, text) for name, (images, text) in WRONG_IMAGES.items()},
}


def test_images_and_maps_that_no_stage_takes_are_refused(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    runner = runner_of(tmp_path)
    before = simulation.cuda.live()
    for images, known, sentence in WRONG_BATCHES.values():
        for method in (runner.submit, runner.run):
            with pytest.raises(TrtkitError, match=f"^{re.escape(sentence)}$"):
                method([A, EXIT], images, known)
    assert simulation.cuda.live() == before


def test_runs_of_several_threads_take_turns(monkeypatch, tmp_path):
    install(monkeypatch)
    runner = runner_of(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda n: runner.run([A, MAPS], IMAGES[n : n + 3]), range(20))
        for number, outputs in enumerate(results):
            assert_whole(outputs, [A, MAPS], range(number, number + 3), {})


def test_keys_that_do_not_fit_the_batch_are_refused(monkeypatch, tmp_path):
    install(monkeypatch)
    runner = runner_of(tmp_path, gpu_cache=4 * MAP_BYTES)
    for number in (2, 4):
        sentence = f"^{number} keys do not fit 2 images and 1 known maps of prefix:maps; give "
        with pytest.raises(TrtkitError, match=sentence):
            runner.submit([A], images_of([0, 1]), values({MAPS: [2]}), keys=[bytes(32)] * number)
    assert len(runner.resident) == 0


def test_batches_of_several_threads_give_each_its_logits(monkeypatch, tmp_path):
    install(monkeypatch)
    runner = runner_of(tmp_path)

    def work(number: int):
        pending = runner.submit([A, EXIT], images_of([number, number + 1]))
        time.sleep(0.001 * (number % 3))
        return pending.result()

    with ThreadPoolExecutor(4) as threads:
        for number, outputs in enumerate(threads.map(work, range(20))):
            assert_whole(outputs, [A, EXIT], [number, number + 1], {})
