"""The cases in their order, what each needs, and the targets that their results have to meet."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acceptance.context import MAIN, PRECISIONS, Case, Context, ModelSet, unsplit
from acceptance.device import SUBMIT_BATCHES, compute, host_time, leaks, loops
from acceptance.environment import environment
from acceptance.journal import FAILED, LEFT_OUT, cell
from acceptance.making import build, export, rebuild
from acceptance.pipeline import EAGER, WORST, against_torch, end_to_end, parity
from trtkit.building.verification import LIMITS
from trtkit.bundle import MANIFEST

CHAIN_AT_MOST, CHAIN_BATCHES = 1.02, (1, 8, 32)
LOOP_AT_LEAST = 0.98
SUBMIT_SECONDS = 50e-6
TIMES_FASTER = {"fp16": 4, "int8": 6}
WARM_AT_MOST = 0.25
# The driver allocates memory in pieces of this size; a smaller loss is invisible.
LOST_MIB = 2
# Cases without a bundle.
UNBUILT = ("environment", "export")
COMPARED = {"at most": operator.le, "at least": operator.ge, "under": operator.lt}


@dataclass(frozen=True)
class Goal:
    """A target: what `key` must be in the first row of the case's result that has these `values`.

    Of a timing the median is compared, of a ratio that of the medians. `key` of a result without rows is
    its own. `form`: the format of the limit.
    """

    what: str
    compared: str
    limit: float
    key: str
    values: Mapping[str, Any] = field(default_factory=dict)
    form: str = "{:g}"

    def row(self, result: Any, state: str) -> dict[str, Any]:
        """What it must be and what was measured; a case without a result is in that `state`."""
        rows = [] if result is None else result.get("rows", [result])
        row = next((row for row in rows if self.values.items() <= row.items()), None)
        measured, met = "", None
        verdict = {FAILED: "failed", LEFT_OUT: "left out"}.get(state, "not measured")
        if row is not None:
            value = row[self.key]
            measured = "not finite" if value is None else cell(value)
            if isinstance(value, dict):
                value = value.get("of_medians", value["median"])
            # A number that is not finite is null in JSON.
            met = COMPARED[self.compared](math.inf if value is None else value, self.limit)
            verdict = "met" if met else "NOT met"
        must_be = f"{self.compared} {self.form.format(self.limit)}"
        target = {"what": self.what, "must_be": must_be, "measured": measured}
        return {**target, "met": met, "verdict": verdict}


def plan(models: ModelSet) -> list[Case]:
    """Every case once, behind those that it needs."""
    ordered: dict[Case, None] = {}

    def add(case: Case) -> None:
        for needed in needs(case, models):
            add(needed)
        ordered.setdefault(case)

    for case in _order(models):
        add(case)
    return list(ordered)


def needs(case: Case, models: ModelSet) -> list[Case]:
    """The cases to be done before."""
    if case.kind in UNBUILT:
        return []
    if case.kind == "build":
        # int8 builds take quantized exports from outside.
        names = () if case.precision == "int8" else case.bundle.models
        return [Case("export", unsplit(name)) for name in names]
    bundles = [models.shared, case.bundle] if case.kind == "compute" else [case.bundle]
    return [Case("build", bundle, case.precision) for bundle in bundles]


def made(context: Context, case: Case) -> Path | None:
    """The file that a case leaves behind for others; without it the case is run again."""
    if case.kind == "export":
        return context.export(case.model)
    return context.built(case) / MANIFEST if case.kind == "build" else None


def run(context: Context, case: Case) -> Any:
    """Measure a case: its result, which becomes JSON."""
    measure = MAKERS.get(case.kind) or KINDS[case.kind][0]
    facts = {"models": case.bundle.models, "precision": case.precision}
    return {**({} if case.kind in UNBUILT else facts), **measure(context, case)}


def targets(context: Context) -> Iterator[dict[str, Any]]:
    """What was measured against what it must be, by the kind of the case.

    `measured` is empty and `met` None where nothing was measured; `verdict` then says why.
    """
    cases, journal = plan(context.settings.set), context.journal
    for kind, (_, goals) in KINDS.items():
        for case in (case for case in cases if case.kind == kind):
            for goal in goals(context, case):
                yield goal.row(journal.result(case.name), journal.state(case.name))


def _order(models: ModelSet) -> Iterator[Case]:
    """The most valuable cases first: the shared bundle at the main precision, and what needs it alone.

    Then, precision by precision, parity and torch, the chain, and the timing caches.
    """
    shared, (first, second) = models.shared, map(unsplit, models.compared)
    yield from (Case("environment", shared), Case("build", shared), Case("compute", first))
    yield from (Case("host time", shared), Case("torch", shared), Case("loops", first))
    yield from (Case(kind, shared) for kind in ("parity", "rebuild", "end to end", "leaks"))
    yield Case("compute", second)
    for precision in PRECISIONS:
        for bundle in models.split:
            yield Case("parity", bundle, precision)
            if precision in TIMES_FASTER:
                yield Case("torch", bundle, precision)
    for kind, bundles in (("compute", (first, second)), ("rebuild", models.bundles)):
        yield from (Case(kind, bundle, own) for own in PRECISIONS for bundle in bundles)


def _chain_goals(context: Context, case: Case) -> Iterator[Goal]:
    for batch in CHAIN_BATCHES if case.precision == MAIN else ():
        if batch in context.settings.batches:
            what = f"Device time, chain to unsplit, {case.model} {MAIN}, batch {batch}"
            # The first row is with CUDA graphs where they can be recorded, which is how a bundle runs.
            yield Goal(what, "at most", CHAIN_AT_MOST, "ratio", {"batch": batch})


def _loop_goals(context: Context, case: Case) -> Iterator[Goal]:
    for batch in context.settings.batches:
        what = f"Throughput, our loop to a bare one, batch {batch}"
        yield Goal(what, "at least", LOOP_AT_LEAST, "ratio", {"batch": batch})


def _submit_goals(context: Context, case: Case) -> Iterator[Goal]:
    limit = f"{1e3 * SUBMIT_SECONDS:g} ms"
    for batch in SUBMIT_BATCHES:
        if batch <= max(context.settings.batches):
            what = f"Host time of a batch, batch {batch}"
            yield Goal(what, "under", SUBMIT_SECONDS, "submit", {"batch": batch}, limit)


def _torch_goals(context: Context, case: Case) -> Iterator[Goal]:
    # A single line if nothing was measured.
    measured = context.journal.done(case.name)
    for model in case.bundle.models if case.bundle.cut and case.precision in TIMES_FASTER else ():
        what, least = f"Times faster than torch eager fp32, {model}", TIMES_FASTER[case.precision]
        for batch in context.settings.batches if measured else (None,):
            line = f"{what} {case.precision}" + (f", batch {batch}" if measured else "")
            row = {"model": model, "mode": EAGER, "batch": batch, "error": None}
            yield Goal(line, "at least", least, "times_faster", row)


def _parity_goals(context: Context, case: Case) -> Iterator[Goal]:
    limits = LIMITS[case.precision]
    for tail in case.bundle.models if case.bundle.cut else ():
        what, row = f"{tail} {case.precision}", {"tail": tail, "by": WORST}
        if case.precision == "int8":
            what = f"Parity, equal top-1 classes, {what}"
            yield Goal(what, "at least", limits.agreement, "agreement", row)
        else:
            what = f"Parity, relative error, {what}"
            yield Goal(what, "at most", limits.relative_error, "relative_error", row)


def _rebuild_goals(context: Context, case: Case) -> Iterator[Goal]:
    # Without quantized exports nothing is expected of int8.
    built = Case("build", case.bundle, case.precision)
    if case.precision != "int8" or context.journal.done(built.name):
        what = f"Build time, warm timing cache to cold, {case.bundle.name} {case.precision}"
        yield Goal(what, "at most", WARM_AT_MOST, "ratio")


def _leak_goals(context: Context, case: Case) -> Iterator[Goal]:
    few, many = context.settings.scale.binds
    what = f"Device memory lost by bindings made and dropped, from number {few} to {many}"
    yield Goal(what, "at most", LOST_MIB, "lost_mib", form="{:g} MiB")


# How each kind is measured, and its targets, which are listed in this order.
KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Iterator[Goal]]]] = {
    "compute": (compute, _chain_goals),
    "host time": (host_time, _submit_goals),
    "loops": (loops, _loop_goals),
    "torch": (against_torch, _torch_goals),
    "parity": (parity, _parity_goals),
    "rebuild": (rebuild, _rebuild_goals),
    "leaks": (leaks, _leak_goals),
}
# Those without targets.
MAKERS = {"end to end": end_to_end, "build": build, "export": export, "environment": environment}
