"""One contest: a model's competitors, measured in turns on the same photos and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from trtkit.benchmark import clocks
from trtkit.benchmark.clocks import Clocks
from trtkit.benchmark.kinds import BASELINES, KINDS, missing
from trtkit.benchmark.protocol import (
    INTERRUPTED,
    ContestantFailed,
    ProtocolSettings,
    Turns,
    take_turns,
)
from trtkit.benchmark.results import Contest, Figure
from trtkit.benchmark.spec import CACHES, COMPUTE, SEVERAL, Spec
from trtkit.benchmark.statistics import ratio_interval
from trtkit.benchmark.worker import WorkerContestant
from trtkit.bundle import Manifest
from trtkit.cpu import usable_cores
from trtkit.reporting import advance
from trtkit.serialization import to_plain

# The unsplit fp32 model as exported: what every competitor's best classes are checked against.
REFERENCE = "onnxruntime"
NOTHING_LOADED = "nothing could be loaded"
# Seconds that an answer may take; of those that build an engine of the whole model first.
TIMEOUT, BUILD_TIMEOUT = 600.0, 3600.0

# A bundle's folder and its manifest.
BuiltBundle = tuple[Path, Manifest]


def competitors_of(
    bundles: Sequence[BuiltBundle],
    tail: str,
    photos: tuple[str, ...],
    *,
    baselines: Sequence[str] = BASELINES,
    measure: str,
    batch: int,
    threads: int,
    scratch: Path,
    built: Path,
) -> dict[str, Spec]:
    """The competitors of a contest by name: the baselines, and trtkit with each use of its cache.

    `bundles`: of the same model with the same preprocessing, in other precisions for example. The
    baselines run what `source_of` chooses; those that build an engine do so for each precision that
    there is. `scratch`: a folder for caches, of this contest alone; `built`: one for engines that the
    next contests use again.
    """
    common = Spec(
        kind="", measure=measure, bundle=str(source_of(bundles)[0]), tail=tail, photos=photos, batch=batch,
        threads=threads, built_dir=str(built),
    )  # fmt: skip
    specs: dict[str, Spec] = {}
    for kind in baselines:
        if KINDS[kind].compute_only and measure != COMPUTE:
            continue
        if tail in SEVERAL and KINDS[kind].per_precision:
            # Timed on the device alone, which a pass over several tails is not.
            continue
        if not KINDS[kind].per_precision:
            specs[kind] = replace(common, kind=kind)
            continue
        for folder, manifest in bundles:
            spec = replace(common, kind=kind, bundle=str(folder))
            specs.setdefault(f"{kind} {manifest.precision}", spec)
    for name, (folder, manifest) in zip(_names(bundles), bundles, strict=True):
        spec = replace(common, kind="trtkit", bundle=str(folder))
        if tail in SEVERAL:
            specs[f"{name}, one by one"] = replace(spec, one_by_one=True)
        first = manifest.tails[0] if tail in SEVERAL else manifest.tail(tail)
        if measure == COMPUTE or manifest.cut_of(first) is None:
            specs[name] = spec
            continue
        for cache in CACHES:
            place = scratch / f"{manifest.name}-{cache}"
            place.mkdir(parents=True, exist_ok=True)
            specs[f"{name}, cache {cache}"] = replace(spec, cache=cache, cache_dir=str(place))
    return specs


def source_of(bundles: Sequence[BuiltBundle]) -> BuiltBundle:
    """The bundle whose ONNX the baselines run: the first that is not int8, else the first.

    What an int8 bundle keeps is quantized.
    """
    return next((bundle for bundle in bundles if bundle[1].precision != "int8"), bundles[0])


def _names(bundles: Sequence[BuiltBundle]) -> list[str]:
    """What trtkit with each bundle is called: its precision and backend, and what else is needed."""
    names = [f"trtkit {manifest.precision} on {manifest.backend}" for _, manifest in bundles]
    return [
        name if names.count(name) == 1 else f"{name} ({folder.name})"
        for name, (folder, _) in zip(names, bundles, strict=True)
    ]


def hold(specs: Mapping[str, Spec], baseline: str | None, settings: ProtocolSettings) -> Contest:
    """Load all competitors that can run here, each in a process of its own, and measure them in turns.

    `baseline`: the kind that the others are compared with; by default, or when it does not load, the
    first of `specs` that does. When none loads, the contest has the reasons and no rounds. Ctrl-C
    while they are loaded raises KeyboardInterrupt; later it ends the measuring, and the contest is
    returned. No process is left in any case.
    """
    contest = None
    try:
        with ExitStack() as stack:
            entrants = _load(specs, stack)
            contest = _measure(specs, entrants, baseline, settings)
    except KeyboardInterrupt:
        # While they were closed: all was measured by then.
        if contest is None:
            raise
        contest = replace(contest, stopped=INTERRUPTED)
    return contest


@dataclass
class _Entrants:
    """The workers that are ready, each one's labels of the photos, and why the others are not ready."""

    ready: list[WorkerContestant] = field(default_factory=list)
    labels: dict[str, list[int]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def agreement(self, name: str) -> float | None:
        """The share of photos with the reference's best class; None if there is nothing to compare."""
        labels, reference = self.labels[name], self.labels.get(REFERENCE)
        if not labels or not reference:
            return None
        return sum(a == b for a, b in zip(labels, reference, strict=True)) / len(reference)


def _load(specs: Mapping[str, Spec], stack: ExitStack) -> _Entrants:
    """Start a process for each; `stack` ends them."""
    entrants = _Entrants()
    for number, (name, spec) in enumerate(specs.items()):
        why = missing(spec.kind)
        if why is not None:
            entrants.problems[name] = why
            continue
        advance(f"Loading {name}", number / len(specs))
        timeout = BUILD_TIMEOUT if KINDS[spec.kind].per_precision else TIMEOUT
        worker = WorkerContestant(name, to_plain(spec), timeout=timeout, cores=spec.threads)
        stack.enter_context(closing(worker))
        try:
            entrants.labels[name] = worker.labels()
        except ContestantFailed as error:
            entrants.problems[name] = str(error)
            continue
        entrants.ready.append(worker)
    return entrants


def _measure(
    specs: Mapping[str, Spec],
    entrants: _Entrants,
    baseline: str | None,
    settings: ProtocolSettings,
) -> Contest:
    # The kind that was chosen if it could be loaded, else the first that could.
    names = sorted(specs, key=lambda name: specs[name].kind != baseline)
    first = next((name for name in names if name in entrants.labels), names[0])
    readings = None
    turns = Turns({}, {}, False, first, 0, NOTHING_LOADED)
    if entrants.ready:
        threads = next(iter(specs.values())).threads
        sessions = [worker.pid for worker in entrants.ready if worker.pid is not None]
        # All of them have just worked, so that nothing is asleep yet.
        before = clocks.read(_cores(threads), sessions)
        turns = take_turns(entrants.ready, settings, baseline=first, keep_interrupted=True)
        try:
            readings = Clocks.between(before, clocks.read(_cores(threads), sessions), threads)
        except KeyboardInterrupt:
            turns = replace(turns, stopped=INTERRUPTED)
    return _contest(specs, entrants, turns, readings)


def _contest(
    specs: Mapping[str, Spec], entrants: _Entrants, turns: Turns, readings: Clocks | None
) -> Contest:
    spec = next(iter(specs.values()))
    bundles = {
        name: Path(spec.bundle).resolve().name
        for name, spec in specs.items()
        if spec.kind == "trtkit"
    }
    figures = [_figure(name, len(spec.photos), turns, entrants) for name in specs]
    return Contest(
        bundle=next(iter(bundles.values())),
        tail=spec.tail,
        measure=spec.measure,
        batch=spec.batch,
        photos=len(spec.photos),
        baseline=turns.baseline,
        rounds=turns.rounds,
        stopped=turns.stopped,
        figures=tuple(
            replace(figure, bundle=bundles.get(figure.competitor, "")) for figure in figures
        ),
        bundles=tuple(dict.fromkeys(bundles.values())),
        clocks=readings,
    )


def _cores(threads: int) -> Sequence[int]:
    """The numbers of the cores that workers with so many threads run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))[:threads]
    return range(min(threads, usable_cores()))


def _figure(name: str, photos: int, turns: Turns, entrants: _Entrants) -> Figure:
    """The figure of one competitor; with the reason when it has no round or did not last."""
    note = next((worker.note for worker in entrants.ready if worker.name == name), "")
    seconds = turns.samples.get(name)
    problem = {**entrants.problems, **turns.failures}.get(name)
    if problem is not None or not seconds:
        return Figure(name, note=note, problem=problem or "no round of it was completed")
    ratio = None
    if name != turns.baseline and turns.samples.get(turns.baseline):
        # Images per second go the other way than seconds.
        ratio = ratio_interval(turns.samples[turns.baseline], seconds)
    summary = turns.summary(name)
    rate = photos / summary.median
    return Figure(name, rate, summary, ratio, entrants.agreement(name), note)
