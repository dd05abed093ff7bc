"""One contest: a model's competitors, measured in turns on the same photos and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from trtkit.benchmark import clocks
from trtkit.benchmark.clocks import Clocks
from trtkit.benchmark.kinds import BASELINES, COMPUTE_ALONE, PER_PRECISION, missing
from trtkit.benchmark.protocol import (
    INTERRUPTED,
    ContestantFailed,
    ProtocolSettings,
    Turns,
    take_turns,
)
from trtkit.benchmark.spec import CACHES, COMPUTE, MEASURES, Spec
from trtkit.benchmark.statistics import Interval, Summary, ratio_interval
from trtkit.benchmark.worker import WorkerContestant
from trtkit.bundle import Manifest
from trtkit.cpu import usable_cores
from trtkit.reporting import advance

__all__ = ["BASELINES", "MEASURES", "Contest", "Figure", "Subject", "competitors_of", "hold"]

# The unsplit fp32 model as exported: what every competitor's best classes are checked against.
REFERENCE = "onnxruntime"
# With fewer equal best classes a competitor is wrong, and its speed says nothing.
LEAST_AGREEMENT = 0.99
NOTHING_LOADED = "nothing could be loaded"
# Seconds that an answer may take; of those that build an engine of the whole model first.
TIMEOUT, BUILD_TIMEOUT = 600.0, 3600.0

# A bundle's folder and its manifest.
Subject = tuple[Path, Manifest]


@dataclass(frozen=True)
class Figure:
    """What one competitor did in a contest.

    `seconds` of its rounds, each over all photos; `images_per_second` of the median round; `ratio`:
    its images per second to the baseline's, round by round, with the interval of the median, None for
    the baseline; `agreement`: the share of photos, 0 to 1, with the reference's best class, None where
    there is no reference or it runs on other numbers. `problem` is why it was not measured; then all of
    these are None. `bundle`: the bundle that trtkit ran, empty for a baseline.
    """

    competitor: str
    images_per_second: float | None = None
    seconds: Summary | None = None
    ratio: Interval | None = None
    agreement: float | None = None
    note: str = ""
    problem: str | None = None
    bundle: str = ""

    @property
    def wrong(self) -> bool:
        return self.agreement is not None and self.agreement < LEAST_AGREEMENT


@dataclass(frozen=True)
class Contest:
    """Competitors measured in turns on the same photos: one model, one batch size, one kind of figure.

    `stopped` says what ended it. `bundle` is the first of `bundles`, which are the bundles of that model
    that took part. `clocks`: what the machine did meanwhile, None when nothing was measured.
    """

    bundle: str
    tail: str
    measure: str
    batch: int
    photos: int
    baseline: str
    rounds: int
    stopped: str
    figures: tuple[Figure, ...]
    bundles: tuple[str, ...] = ()
    clocks: Clocks | None = None


def competitors_of(
    subjects: Sequence[Subject],
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

    `subjects`: bundles of the same model with the same preprocessing, in other precisions for example.
    The baselines run what the first one was built from, if it can be one that is not int8, since what an
    int8 bundle keeps is quantized; those that build an engine do so for each
    precision that there is. `scratch`: a folder for caches, of this contest alone; `built`: one for
    engines that the next contests take again.
    """
    common = Spec(
        kind="", measure=measure, bundle=str(source_of(subjects)[0]), tail=tail, photos=photos, batch=batch,
        threads=threads, built_dir=str(built),
    )  # fmt: skip
    specs: dict[str, Spec] = {}
    for kind in baselines:
        if kind in COMPUTE_ALONE and measure != COMPUTE:
            continue
        if kind not in PER_PRECISION:
            specs[kind] = replace(common, kind=kind)
            continue
        for folder, manifest in subjects:
            mine = replace(common, kind=kind, bundle=str(folder))
            specs.setdefault(f"{kind} {manifest.precision}", mine)
    for own, (folder, manifest) in zip(_names(subjects), subjects, strict=True):
        mine = replace(common, kind="trtkit", bundle=str(folder))
        if measure == COMPUTE or len(manifest.path_to(manifest.tail(tail))) == 1:
            specs[own] = mine
            continue
        for cache in CACHES:
            place = scratch / f"{manifest.name}-{cache}"
            place.mkdir(parents=True, exist_ok=True)
            specs[f"{own}, cache {cache}"] = replace(mine, cache=cache, cache_dir=str(place))
    return specs


def source_of(subjects: Sequence[Subject]) -> Subject:
    """The bundle whose ONNX the baselines run: the first that is not int8, else the first."""
    return next((each for each in subjects if each[1].precision != "int8"), subjects[0])


def _names(subjects: Sequence[Subject]) -> list[str]:
    """What trtkit with each bundle is called: its precision and backend, and what else is needed."""
    names = [f"trtkit {manifest.precision} on {manifest.backend}" for _, manifest in subjects]
    return [
        name if names.count(name) == 1 else f"{name} ({folder.name})"
        for name, (folder, _) in zip(names, subjects, strict=True)
    ]


def hold(
    specs: Mapping[str, Spec],
    baseline: str | None,
    settings: ProtocolSettings,
) -> Contest:
    """Load all competitors that can run here, each in a process of its own, and measure them in turns.

    `baseline`: the kind that the others are compared with; by default, or when it does not load, the
    first of `specs` that does. When none loads, the contest has the reasons and no rounds. Ctrl-C
    while they are loaded raises KeyboardInterrupt; later it ends the measuring, and the contest is
    returned. No process is left in any case.
    """
    held = None
    try:
        with ExitStack() as stack:
            entered = _load(specs, stack)
            held = _measure(specs, entered, baseline, settings)
    except KeyboardInterrupt:
        # While they were closed: all was measured by then.
        if held is None:
            raise
        held = replace(held, stopped=INTERRUPTED)
    return held


@dataclass
class _Entered:
    """Who takes part: those that are ready, what each found in the photos, why the others are not."""

    ready: list[WorkerContestant] = field(default_factory=list)
    labels: dict[str, list[int]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def _load(specs: Mapping[str, Spec], stack: ExitStack) -> _Entered:
    """Start a process for each; `stack` ends them."""
    found = _Entered()
    for number, (name, spec) in enumerate(specs.items()):
        why = missing(spec.kind)
        if why is not None:
            found.problems[name] = why
            continue
        advance(f"Loading {name}", number / len(specs))
        timeout = BUILD_TIMEOUT if spec.kind in PER_PRECISION else TIMEOUT
        worker = WorkerContestant(name, spec.to_json(), timeout=timeout, cores=spec.threads)
        stack.enter_context(closing(worker))
        try:
            labels = worker.labels()
        except ContestantFailed as error:
            found.problems[name] = str(error)
            continue
        found.labels[name] = labels
        found.ready.append(worker)
    return found


def _measure(
    specs: Mapping[str, Spec],
    entered: _Entered,
    baseline: str | None,
    settings: ProtocolSettings,
) -> Contest:
    chosen = _baseline(baseline, specs, entered.labels)
    watched = None
    turns = Turns({}, {}, False, chosen, 0, NOTHING_LOADED)
    if entered.ready:
        threads = next(iter(specs.values())).threads
        sessions = [worker.pid for worker in entered.ready if worker.pid is not None]
        # All of them have just worked, so that nothing is asleep yet.
        before = clocks.read(_cores(threads), sessions)
        turns = take_turns(entered.ready, settings, baseline=chosen, keep_interrupted=True)
        try:
            watched = Clocks.between(before, clocks.read(_cores(threads), sessions), threads)
        except KeyboardInterrupt:
            turns = replace(turns, stopped=INTERRUPTED)
    return _contest(specs, entered, turns, watched)


def _contest(
    specs: Mapping[str, Spec], entered: _Entered, turns: Turns, watched: Clocks | None
) -> Contest:
    spec = next(iter(specs.values()))
    bundles = [_bundle(each) for each in specs.values() if each.kind == "trtkit"]
    notes = {worker.name: worker.note for worker in entered.ready}
    problems = {**entered.problems, **turns.failures}
    return Contest(
        bundle=bundles[0],
        tail=spec.tail,
        measure=spec.measure,
        batch=spec.batch,
        photos=len(spec.photos),
        baseline=turns.baseline,
        rounds=turns.rounds,
        stopped=turns.stopped,
        figures=tuple(
            replace(
                _figure(name, len(each.photos), turns, entered.labels, problems.get(name), notes),
                bundle=_bundle(each) if each.kind == "trtkit" else "",
            )
            for name, each in specs.items()
        ),
        bundles=tuple(dict.fromkeys(bundles)),
        clocks=watched,
    )


def _bundle(spec: Spec) -> str:
    return Path(spec.bundle).resolve().name


def _cores(threads: int) -> Sequence[int]:
    """The numbers of the cores that workers with so many threads run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))[:threads]
    return range(min(threads, usable_cores()))


def _baseline(asked: str | None, specs: Mapping[str, Spec], loaded: Mapping[str, object]) -> str:
    """The name of the kind asked for if it could be loaded, else the first that could."""
    order = sorted(specs, key=lambda name: specs[name].kind != asked)
    return next((name for name in order if name in loaded), order[0])


def _figure(
    name: str,
    photos: int,
    turns: Turns,
    labels: Mapping[str, Sequence[int]],
    problem: str | None,
    notes: Mapping[str, str],
) -> Figure:
    note = notes.get(name, "")
    seconds = turns.samples.get(name, [])
    if problem is not None or not seconds:
        return Figure(name, note=note, problem=problem or "no round of it was completed")
    ratio = None
    if name != turns.baseline and turns.samples.get(turns.baseline):
        # Images per second go the other way than seconds.
        ratio = ratio_interval(turns.samples[turns.baseline], seconds)
    reference = labels.get(REFERENCE)
    agreement = None
    if reference and labels[name]:
        same = sum(a == b for a, b in zip(labels[name], reference, strict=True))
        agreement = same / len(reference)
    summary = Summary.of(seconds)
    return Figure(name, photos / summary.median, summary, ratio, agreement, note)
