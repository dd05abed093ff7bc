"""The cases: what is built, what competes, what the target is; in the order of what is worth most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from acceptance.context import MAIN, PRECISIONS, Bundle, Context, ModelSet, unsplit
from acceptance.device import SUBMIT_BATCHES, compute, host_time, leaks, loops
from acceptance.environment import environment
from acceptance.journal import FAILED, LEFT_OUT
from acceptance.making import build, export, rebuild
from acceptance.pipeline import EAGER, against_torch, end_to_end, parity
from trtkit.building.verification import LIMITS
from trtkit.bundle import MANIFEST

CHAIN_AT_MOST, CHAIN_BATCHES = 1.02, (1, 8, 32)
LOOP_AT_LEAST = 0.98
SUBMIT_MICROSECONDS = 50
TIMES_FASTER = {"fp16": 4, "int8": 6}
WARM_AT_MOST = 0.25
# The driver gives memory out in pieces of this size, so that less than one is not seen.
LOST_MIB = 2
# Targets are listed by the kind of their case.
KINDS = ("compute", "host time", "loops", "torch", "parity", "rebuild", "leaks")

# The text of a figure, and whether it meets the target; None where nothing was measured.
Figure = tuple[str, bool] | None


@dataclass(frozen=True)
class Goal:
    """A target of a case; `figure` takes the case's result."""

    what: str
    must_be: str
    figure: Callable[[Any], Figure]


@dataclass(frozen=True)
class Case:
    """`run` measures and returns the result, which becomes JSON; `needs`: the cases to be done before.

    `makes`: the file that the case leaves behind for others; without it the case is run again.
    """

    name: str
    run: Callable[[Context], Any]
    needs: tuple[str, ...] = ()
    makes: Callable[[Context], Path] | None = None
    goals: Callable[[Context], Iterable[Goal]] = lambda context: ()


def plan(models: ModelSet) -> list[Case]:
    """Every case once, behind those that it needs."""
    cases = {case.name: case for case in _cases(models)}
    ordered: dict[str, Case] = {}

    def add(name: str) -> None:
        for needed in cases[name].needs:
            add(needed)
        ordered.setdefault(name, cases[name])

    for name in _order(models):
        add(name)
    return list(ordered.values())


def targets(context: Context) -> Iterator[dict[str, Any]]:
    """What was measured against what it must be.

    `measured` is empty and `met` None where nothing was measured; `verdict` then says why.
    """
    ranks = {kind: rank for rank, kind in enumerate(KINDS)}

    def rank(case: Case) -> int:
        return ranks.get(case.name, ranks.get(case.name.split()[0], len(KINDS)))

    for case in sorted(plan(context.settings.set), key=rank):
        result = context.journal.result(case.name)
        state = context.journal.state(case.name)
        absent = {FAILED: "failed", LEFT_OUT: "left out"}.get(state, "not measured")
        for goal in case.goals(context):
            figure = None if result is None else goal.figure(result)
            measured, met = figure or ("", None)
            verdict = absent if met is None else "met" if met else "NOT met"
            yield {
                "what": goal.what, "must_be": goal.must_be, "measured": measured, "met": met,
                "verdict": verdict,
            }  # fmt: skip


def _order(models: ModelSet) -> Iterator[str]:
    """First the shared bundle at the main precision, and what is measured on it alone.

    Then, precision by precision, parity and torch, the chain, and the timing caches.
    """
    shared, (first, second) = models.shared.name, models.compared
    yield from ("environment", f"build {shared} {MAIN}", f"compute {first} {MAIN}", "host time")
    yield from (f"torch {shared} {MAIN}", "loops", f"parity {shared} {MAIN}")
    yield from (f"rebuild {shared} {MAIN}", "end to end", "leaks", f"compute {second} {MAIN}")
    for precision in PRECISIONS:
        for bundle in models.split:
            yield f"parity {bundle.name} {precision}"
            if precision in TIMES_FASTER:
                yield f"torch {bundle.name} {precision}"
    for kind, names in (
        ("compute", models.compared),
        ("rebuild", [bundle.name for bundle in models.bundles]),
    ):
        yield from (f"{kind} {name} {precision}" for precision in PRECISIONS for name in names)


def _cases(models: ModelSet) -> Iterator[Case]:
    shared, first = models.shared, models.compared[0]
    needs = (f"build {shared.name} {MAIN}",)
    here = {"bundle": shared, "precision": MAIN}
    yield Case("environment", environment)
    yield Case("host time", partial(host_time, **here), needs, goals=_submit_goals)
    yield Case("end to end", partial(end_to_end, **here), needs)
    yield Case("leaks", partial(leaks, **here), needs, goals=_leak_goals)
    needs = (f"build {unsplit(first).name} {MAIN}",)
    run = partial(loops, model=first, precision=MAIN)
    yield Case("loops", run, needs, goals=_loop_goals)
    for bundle in models.bundles:
        for model in bundle.models:
            makes = partial(Context.export, model=model)
            yield Case(f"export {model}", partial(export, model=model), makes=makes)
        for precision in PRECISIONS:
            yield from _of_bundle(bundle, precision)
    for model in models.compared:
        for precision in PRECISIONS:
            needs = tuple(f"build {one.name} {precision}" for one in (shared, unsplit(model)))
            run = partial(compute, model=model, precision=precision)
            goals = partial(_chain_goals, model=model, precision=precision)
            yield Case(f"compute {model} {precision}", run, needs, goals=goals)


def _of_bundle(bundle: Bundle, precision: str) -> Iterator[Case]:
    here = {"bundle": bundle, "precision": precision}
    suffix = f"{bundle.name} {precision}"
    # Quantized exports are given; the fp32 ones are what they are compared with.
    exports = () if precision == "int8" else tuple(f"export {name}" for name in bundle.models)
    yield Case(
        f"build {suffix}",
        partial(build, **here),
        exports,
        makes=lambda context: context.built(bundle, precision) / MANIFEST,
    )
    for kind, run, goals in (
        ("parity", parity, _parity_goals),
        ("rebuild", rebuild, _rebuild_goals),
        ("torch", against_torch, _torch_goals),
    ):
        yield Case(
            f"{kind} {suffix}",
            partial(run, **here),
            (f"build {suffix}",),
            goals=partial(goals, **here),
        )


def _first_row(figure: Callable[[Any], Figure], **values: Any) -> Callable[[Any], Figure]:
    """The figure of the first row of a result that has these values."""

    def of_result(result: Any) -> Figure:
        rows = (row for row in result["rows"] if values.items() <= row.items())
        row = next(rows, None)
        return None if row is None else figure(row)

    return of_result


def _ratio(met: Callable[[float], bool]) -> Callable[[Any], Figure]:
    """The ratio of the medians in a row, with the spread of the rounds."""
    text = "{of_medians:.3f} ({p10:.3f} to {p90:.3f})"
    return lambda row: (text.format(**row["ratio"]), met(row["ratio"]["of_medians"]))


def _chain_goals(context: Context, model: str, precision: str) -> Iterator[Goal]:
    figure = _ratio(lambda ratio: ratio <= CHAIN_AT_MOST)
    for batch in CHAIN_BATCHES if precision == MAIN else ():
        if batch in context.settings.batches:
            what = f"Device time, chain to unsplit, {model} {MAIN}, batch {batch}"
            # The first row is with CUDA graphs where they can be recorded, which is how a bundle runs.
            yield Goal(what, f"at most {CHAIN_AT_MOST}", _first_row(figure, batch=batch))


def _loop_goals(context: Context) -> Iterator[Goal]:
    figure = _ratio(lambda ratio: ratio >= LOOP_AT_LEAST)
    for batch in context.settings.batches:
        what = f"Throughput, our loop to a bare one, batch {batch}"
        yield Goal(what, f"at least {LOOP_AT_LEAST}", _first_row(figure, batch=batch))


def _submit_goals(context: Context) -> Iterator[Goal]:
    def figure(row: Any) -> Figure:
        submit, pixels = row["submit_median_microseconds"], row["pixels_median_microseconds"]
        return f"{submit:.1f} us ({pixels:.1f} of it pixels)", submit < SUBMIT_MICROSECONDS

    for batch in SUBMIT_BATCHES:
        if batch <= max(context.settings.batches):
            what = f"Host time of a batch, batch {batch}"
            yield Goal(what, f"under {SUBMIT_MICROSECONDS} us", _first_row(figure, batch=batch))


def _torch_goals(context: Context, bundle: Bundle, precision: str) -> Iterator[Goal]:
    least = TIMES_FASTER.get(precision)

    def figure(row: Any) -> Figure:
        times = row["times_faster"]
        return None if times is None else (f"{times:.2f}", times >= least)

    # One line for all that was not measured.
    measured = context.journal.done(f"torch {bundle.name} {precision}")
    for model in bundle.models if bundle.cut and least else ():
        what = f"Times faster than torch eager fp32, {model} {precision}"
        for batch in context.settings.batches if measured else (None,):
            line = f"{what}, batch {batch}" if measured else what
            row = _first_row(figure, model=model, mode=EAGER, batch=batch)
            yield Goal(line, f"at least {least}", row)


def _parity_goals(context: Context, bundle: Bundle, precision: str) -> Iterator[Goal]:
    limits, int8 = LIMITS[precision], precision == "int8"

    def figure(result: Any, tail: str) -> Figure:
        rows = [row for row in result["rows"] if row["tail"] == tail]
        if int8:
            least = min(row["agreement"] for row in rows)
            return f"{least:.1%}", least >= limits.agreement
        errors = [row["relative_error"] for row in rows]
        # An infinite error is null in JSON.
        worst = math.inf if None in errors else max(errors)
        text = f"{worst:.1e}" if math.isfinite(worst) else "not finite"
        return text, worst <= limits.relative_error

    kind, must_be = "relative error", f"at most {limits.relative_error:g}"
    if int8:
        kind, must_be = "equal top-1 classes", f"at least {limits.agreement:.0%}"
    for tail in bundle.models if bundle.cut else ():
        yield Goal(f"Parity, {kind}, {tail} {precision}", must_be, partial(figure, tail=tail))


def _rebuild_goals(context: Context, bundle: Bundle, precision: str) -> Iterator[Goal]:
    # Without quantized exports nothing is expected of int8.
    if precision != "int8" or context.journal.done(f"build {bundle.name} {precision}"):
        yield Goal(
            f"Build time, warm timing cache to cold, {bundle.name} {precision}",
            f"at most {WARM_AT_MOST}",
            lambda result: (f"{result['ratio']:.3f}", result["ratio"] <= WARM_AT_MOST),
        )


def _leak_goals(context: Context) -> Iterator[Goal]:
    few, many = context.settings.scale.binds
    yield Goal(
        f"Device memory lost by bindings made and dropped, from number {few} to {many}",
        f"at most {LOST_MIB} MiB",
        lambda result: (
            f"{result['lost_bytes'] / 2**20:.1f} MiB", result["lost_bytes"] <= LOST_MIB * 2**20
        ),
    )  # fmt: skip
