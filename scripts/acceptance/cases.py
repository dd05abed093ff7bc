"""The cases in their order, what each needs, and the targets that their results have to meet."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from acceptance.context import MAIN, PRECISIONS, Case, Context, ModelSet, unsplit
from acceptance.device import SUBMIT_BATCHES, compute, environment, host_time, leaks, loops
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
    facts = {"models": case.bundle.models, "precision": case.precision}
    return {**({} if case.kind in UNBUILT else facts), **KINDS[case.kind](context, case)}


def targets(context: Context) -> Iterator[dict[str, Any]]:
    """What was measured against what it must be, by the kind of the case.

    `measured` is empty and `met` None where nothing was measured; `verdict` then says why.
    """
    journal, order = context.journal, [*KINDS]
    for case in sorted(plan(context.settings.set), key=lambda case: order.index(case.kind)):
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


def goals(context: Context, case: Case) -> Iterator[Goal]:
    """What the result of a case must be."""
    kind, precision, batches = case.kind, case.precision, context.settings.batches
    if kind == "compute" and precision == MAIN:
        for batch in (batch for batch in CHAIN_BATCHES if batch in batches):
            what = f"Device time, chain to unsplit, {case.model} {MAIN}, batch {batch}"
            # The first row is with CUDA graphs where they can be recorded, which is how a bundle runs.
            yield Goal(what, "at most", CHAIN_AT_MOST, "ratio", {"batch": batch})
    elif kind == "host time":
        limit = f"{1e3 * SUBMIT_SECONDS:g} ms"
        for batch in (batch for batch in SUBMIT_BATCHES if batch <= max(batches)):
            what = f"Host time of a batch, batch {batch}"
            yield Goal(what, "under", SUBMIT_SECONDS, "submit", {"batch": batch}, limit)
    elif kind == "loops":
        for batch in batches:
            what = f"Throughput, our loop to a bare one, batch {batch}"
            yield Goal(what, "at least", LOOP_AT_LEAST, "ratio", {"batch": batch})
    elif kind == "torch" and case.bundle.cut and precision in TIMES_FASTER:
        # A single line if nothing was measured.
        measured, least = context.journal.done(case.name), TIMES_FASTER[precision]
        for model, batch in product(case.bundle.models, batches if measured else (None,)):
            what = f"Times faster than torch eager fp32, {model} {precision}"
            what += f", batch {batch}" if measured else ""
            row = {"model": model, "mode": EAGER, "batch": batch, "error": None}
            yield Goal(what, "at least", least, "times_faster", row)
    elif kind == "parity" and case.bundle.cut:
        limits = LIMITS[precision]
        compared = ("equal top-1 classes", "at least", limits.agreement, "agreement")
        if precision != "int8":
            compared = ("relative error", "at most", limits.relative_error, "relative_error")
        for tail in case.bundle.models:
            what = f"Parity, {compared[0]}, {tail} {precision}"
            yield Goal(what, *compared[1:], {"tail": tail, "by": WORST})
    elif kind == "rebuild":
        # Without quantized exports nothing is expected of int8.
        if precision != "int8" or context.journal.done(replace(case, kind="build").name):
            what = f"Build time, warm timing cache to cold, {case.bundle.name} {precision}"
            yield Goal(what, "at most", WARM_AT_MOST, "ratio")
    elif kind == "leaks":
        few, many = context.settings.scale.binds
        what = f"Device memory lost by bindings made and dropped, from number {few} to {many}"
        yield Goal(what, "at most", LOST_MIB, "lost_mib", form="{:g} MiB")


# How each kind is measured. Targets are listed in this order.
KINDS: dict[str, Callable[[Context, Case], Any]] = {
    "compute": compute, "host time": host_time, "loops": loops, "torch": against_torch,
    "parity": parity, "rebuild": rebuild, "leaks": leaks, "end to end": end_to_end,
    "build": build, "export": export, "environment": environment,
}  # fmt: skip
