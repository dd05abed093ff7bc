"""The cases in the order in which they are measured: what is most worth knowing first."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from acceptance.case import Case, Goal, Limit, at_least, at_most, by_batch, no_goals, ratio, rows_of
from acceptance.context import Context
from acceptance.device import compute, host_time, leaks, loops, submitted
from acceptance.environment import environment
from acceptance.making import build, export, rebuild
from acceptance.pipeline import EAGER, against_torch, end_to_end, parity
from acceptance.settings import MAIN, PRECISIONS, AcceptanceSettings, Bundle, ModelSet, unsplit
from trtkit.building.verification import LIMITS
from trtkit.bundle import MANIFEST

CHAIN_AT_MOST, CHAIN_BATCHES = at_most(1.02), (1, 8, 32)
LOOP_AT_LEAST = at_least(0.98)
SUBMIT_UNDER = Limit("under 50 us", lambda microseconds: microseconds < 50.0)
TIMES_FASTER = {"fp16": at_least(4), "int8": at_least(6)}
WARM_AT_MOST = at_most(0.25)
# The driver gives memory out in pieces of this size, so that less than one is not seen.
LOST_AT_MOST = Limit("at most 2 MiB", lambda lost: lost <= 2 * 2**20)
# Targets are listed by the kind of their case.
KINDS = ("compute", "host time", "loops", "torch", "parity", "rebuild", "leaks")


def plan(models: ModelSet) -> list[Case]:
    """Every case once, in order."""
    cases: dict[str, Case] = {}
    for case in (Case("environment", environment), *_main(models), *_others(models)):
        cases.setdefault(case.name, case)
    return list(cases.values())


def judged(models: ModelSet) -> list[Case]:
    """The cases in the order of their targets."""
    ranks = {kind: rank for rank, kind in enumerate(KINDS)}

    def rank(case: Case) -> int:
        return ranks.get(case.name, ranks.get(case.name.split()[0], len(KINDS)))

    return sorted(plan(models), key=rank)


def _main(models: ModelSet) -> Iterator[Case]:
    """The shared bundle at the main precision, and what is measured on it alone."""
    shared, first = models.shared, models.compared[0]
    needs = (f"build {shared.name} {MAIN}",)
    here = {"bundle": shared, "precision": MAIN}
    yield from _built(shared, MAIN)
    yield from _compared(models, first, MAIN)
    submit = by_batch("Host time of a batch", SUBMIT_UNDER, _submit, submitted)
    yield Case("host time", partial(host_time, **here), needs, goals=submit)
    yield _torch(shared, MAIN)
    yield Case(
        "loops",
        partial(loops, model=first, precision=MAIN),
        (f"build {unsplit(first).name} {MAIN}",),
        goals=by_batch("Throughput, our loop to a bare one", LOOP_AT_LEAST, ratio),
    )
    yield _parity(shared, MAIN)
    yield _rebuilt(shared, MAIN)
    yield Case("end to end", partial(end_to_end, **here), needs)
    yield Case("leaks", partial(leaks, **here), needs, goals=_lost)
    yield from _compared(models, models.compared[1], MAIN)


def _others(models: ModelSet) -> Iterator[Case]:
    """Precision by precision: parity and torch, the chain; at last the timing caches."""
    for precision in PRECISIONS:
        for bundle in models.split:
            yield from _built(bundle, precision)
            yield _parity(bundle, precision)
            if precision in TIMES_FASTER:
                yield _torch(bundle, precision)
    for precision in PRECISIONS:
        for model in models.compared:
            yield from _compared(models, model, precision)
    for precision in PRECISIONS:
        for bundle in models.bundles:
            yield _rebuilt(bundle, precision)


def _built(bundle: Bundle, precision: str) -> Iterator[Case]:
    for model in bundle.models:
        makes = partial(Context.export, model=model)
        yield Case(f"export {model}", partial(export, model=model), makes=makes)
    # Quantized exports are given; the fp32 ones are what they are compared with.
    needs = () if precision == "int8" else tuple(f"export {model}" for model in bundle.models)
    yield Case(
        f"build {bundle.name} {precision}",
        partial(build, bundle=bundle, precision=precision),
        needs,
        lambda context: context.built(bundle, precision) / MANIFEST,
    )


def _compared(models: ModelSet, model: str, precision: str) -> Iterator[Case]:
    yield from _built(unsplit(model), precision)
    what = f"Device time, chain to unsplit, {model} {MAIN}"
    # The first row is with CUDA graphs where they can be recorded, which is how a bundle runs.
    goals = by_batch(what, CHAIN_AT_MOST, ratio, _chain_batches)
    yield Case(
        f"compute {model} {precision}",
        partial(compute, model=model, precision=precision),
        tuple(f"build {b.name} {precision}" for b in (models.shared, unsplit(model))),
        goals=goals if precision == MAIN else no_goals,
    )


def _torch(bundle: Bundle, precision: str) -> Case:
    limit = TIMES_FASTER[precision]

    def goals(context: Context, result: Any) -> Iterator[Goal]:
        for model in bundle.models:
            what = f"Times faster than torch eager fp32, {model} {precision}"
            if result is None:
                # One line for all that was not measured.
                yield Goal(what, limit, None)
                continue
            of_model = by_batch(what, limit, _times, model=model, mode=EAGER)
            yield from of_model(context, result)

    run = partial(against_torch, bundle=bundle, precision=precision)
    return Case(f"torch {bundle.name} {precision}", run, _needs(bundle, precision), goals=goals)


def _parity(bundle: Bundle, precision: str) -> Case:
    limits, int8 = LIMITS[precision], precision == "int8"
    limit = at_least(limits.agreement, ".0%") if int8 else at_most(limits.relative_error)
    kind = "equal top-1 classes" if int8 else "relative error"

    def figure(rows: Any) -> tuple[str, float]:
        if int8:
            least = min(row["agreement"] for row in rows)
            return f"{least:.1%}", least
        # An infinite error is null in JSON.
        errors = [float("inf") if (e := row["relative_error"]) is None else e for row in rows]
        worst = max(errors)
        return f"{worst:.1e}" if worst < float("inf") else "not finite", worst

    def goals(context: Context, result: Any) -> Iterator[Goal]:
        for tail in bundle.models:
            rows = rows_of(result, tail=tail)
            what = f"Parity, {kind}, {tail} {precision}"
            yield Goal(what, limit, figure(rows) if rows else None)

    run = partial(parity, bundle=bundle, precision=precision)
    return Case(f"parity {bundle.name} {precision}", run, _needs(bundle, precision), goals=goals)


def _rebuilt(bundle: Bundle, precision: str) -> Case:
    needs = _needs(bundle, precision)

    def goals(context: Context, result: Any) -> Iterator[Goal]:
        # Without quantized exports nothing is expected of int8.
        if precision != "int8" or context.journal.done(*needs):
            what = f"Build time, warm timing cache to cold, {bundle.name} {precision}"
            yield Goal(what, WARM_AT_MOST, result and (f"{result['ratio']:.3f}", result["ratio"]))

    run = partial(rebuild, bundle=bundle, precision=precision)
    return Case(f"rebuild {bundle.name} {precision}", run, needs, goals=goals)


def _needs(bundle: Bundle, precision: str) -> tuple[str, ...]:
    return (f"build {bundle.name} {precision}",)


def _chain_batches(settings: AcceptanceSettings) -> list[int]:
    return [batch for batch in settings.batches if batch in CHAIN_BATCHES]


def _submit(row: Any) -> tuple[str, float]:
    taken, pixels = row["submit_median_microseconds"], row["pixels_median_microseconds"]
    return f"{taken:.1f} us ({pixels:.1f} of it pixels)", taken


def _times(row: Any) -> tuple[str, float] | None:
    times = row["times_faster"]
    return None if times is None else (f"{times:.2f}", times)


def _lost(context: Context, result: Any) -> Iterator[Goal]:
    what = "Device memory lost by bindings made and dropped"
    if result is None:
        yield Goal(what, LOST_AT_MOST, None)
    else:
        few, many = sorted(map(int, result["free_bytes_after"]))[1:]
        lost = result["lost_bytes"]
        figure = f"{lost / 2**20:.1f} MiB", lost
        yield Goal(f"{what}, from number {few} to {many}", LOST_AT_MOST, figure)
