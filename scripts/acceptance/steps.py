"""The steps in the order in which they are done: what is most worth knowing first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from acceptance.against_torch import against_torch
from acceptance.context import Context
from acceptance.device import compute, host_time, leaks
from acceptance.endtoend import end_to_end
from acceptance.environment import environment
from acceptance.loops import loops
from acceptance.making import build, export, rebuild
from acceptance.parity import parity
from acceptance.settings import Bundle, ModelSet
from trtkit.bundle import MANIFEST

# fp16 carries most of the targets; fp32 is there for its parity.
MAIN = "fp16"
PRECISIONS = (MAIN, "int8", "fp32")


@dataclass(frozen=True)
class Step:
    """`run` returns a dataclass with what was found. `needs`: the steps that must be done before.

    `makes`: the file that the step leaves behind and others need; without it the step is done again.
    """

    name: str
    run: Callable[[Context], Any]
    needs: tuple[str, ...] = ()
    makes: Callable[[Context], Path] | None = None


def export_name(model: str) -> str:
    return f"export {model}"


def build_name(bundle: Bundle, precision: str) -> str:
    return f"build {bundle.name} {precision}"


def rebuild_name(bundle: Bundle, precision: str) -> str:
    return f"rebuild {bundle.name} {precision}"


def parity_name(bundle: Bundle, precision: str) -> str:
    return f"parity {bundle.name} {precision}"


def compute_name(model: str, precision: str) -> str:
    return f"compute {model} {precision}"


def torch_name(bundle: Bundle, precision: str) -> str:
    return f"torch {bundle.name} {precision}"


HOST_TIME, LOOPS, END_TO_END, LEAKS = "host time", "loops", "end to end", "leaks"


def plan(models: ModelSet) -> list[Step]:
    """Every step once, in order."""
    steps = {"environment": Step("environment", environment)}
    for step in (*_main(models), *_others(models)):
        steps.setdefault(step.name, step)
    return list(steps.values())


def _main(models: ModelSet) -> Iterator[Step]:
    """The shared bundle at the main precision, and what is measured on it alone."""
    shared, first = models.shared, models.pairs[0].unsplit
    needs = (build_name(shared, MAIN),)
    yield from _built(shared, MAIN)
    yield from _compared(models, 0, MAIN)
    yield Step(HOST_TIME, lambda context: host_time(context, shared, MAIN), needs)
    yield _torch(shared, MAIN)
    yield Step(LOOPS, lambda context: loops(context, first, MAIN), (build_name(first, MAIN),))
    yield _parity(shared, MAIN)
    yield _rebuilt(shared, MAIN)
    yield Step(END_TO_END, lambda context: end_to_end(context, shared, MAIN), needs)
    yield Step(LEAKS, lambda context: leaks(context, shared, MAIN), needs)
    yield from _compared(models, 1, MAIN)


def _others(models: ModelSet) -> Iterator[Step]:
    """Precision by precision: parity and torch, the chain; at last the timing caches."""
    split = [bundle for bundle in models.bundles if bundle.cut]
    for precision in PRECISIONS:
        for bundle in split:
            yield from _built(bundle, precision)
            yield _parity(bundle, precision)
            if precision != "fp32":
                yield _torch(bundle, precision)
    for precision in PRECISIONS:
        for number in range(len(models.pairs)):
            yield from _compared(models, number, precision)
    for precision in PRECISIONS:
        for bundle in models.bundles:
            yield _rebuilt(bundle, precision)


def _built(bundle: Bundle, precision: str) -> Iterator[Step]:
    for model in bundle.models:
        yield Step(
            export_name(model),
            partial(export, model=model),
            makes=partial(Context.export, model=model),
        )
    # Quantized exports are given; the fp32 ones are what they are compared with.
    yield Step(
        build_name(bundle, precision),
        partial(build, bundle=bundle, precision=precision),
        () if precision == "int8" else tuple(map(export_name, bundle.models)),
        lambda context: context.built(bundle, precision) / MANIFEST,
    )


def _compared(models: ModelSet, number: int, precision: str) -> Iterator[Step]:
    pair = models.pairs[number]
    yield from _built(pair.unsplit, precision)
    yield Step(
        compute_name(pair.model, precision),
        partial(compute, pair=pair, precision=precision),
        (build_name(pair.chain, precision), build_name(pair.unsplit, precision)),
    )


def _parity(bundle: Bundle, precision: str) -> Step:
    return Step(
        parity_name(bundle, precision),
        partial(parity, bundle=bundle, precision=precision),
        (build_name(bundle, precision),),
    )


def _torch(bundle: Bundle, precision: str) -> Step:
    return Step(
        torch_name(bundle, precision),
        partial(against_torch, bundle=bundle, precision=precision),
        (build_name(bundle, precision),),
    )


def _rebuilt(bundle: Bundle, precision: str) -> Step:
    built_by = build_name(bundle, precision)
    return Step(
        rebuild_name(bundle, precision),
        partial(rebuild, bundle=bundle, precision=precision, built_by=built_by),
        (built_by,),
    )
