"""One contest: a model's competitors, measured in turns on the same photos and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from trtkit.benchmark.competitors import CACHES, COMPUTE, MEASURES, Spec, missing
from trtkit.benchmark.protocol import ContestantFailed, Settings, Turns, take_turns
from trtkit.benchmark.statistics import Interval, Summary, ratio_interval
from trtkit.benchmark.worker import WorkerContestant
from trtkit.bundle import Manifest

__all__ = ["BASELINES", "MEASURES", "Contest", "Figure", "competitors_of", "hold"]

# In the order of the table; the first that can run here is what the others are compared with.
BASELINES = ("torch", "torch-compile", "onnxruntime", "openvino")
# The unsplit fp32 model as exported: what every competitor's best classes are checked against.
REFERENCE = "onnxruntime"
# With fewer equal best classes a competitor is wrong, and its speed says nothing.
LEAST_AGREEMENT = 0.99

Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class Figure:
    """What one competitor did in a contest.

    `seconds` of its rounds, each over all photos; `images_per_second` of the median round; `ratio`:
    its images per second to the baseline's, round by round, with the interval of the median, None for
    the baseline; `agreement`: the share of photos, 0 to 1, with the reference's best class, None where
    there is no reference. `problem` is why it was not measured; then all of these are None.
    """

    competitor: str
    images_per_second: float | None = None
    seconds: Summary | None = None
    ratio: Interval | None = None
    agreement: float | None = None
    note: str = ""
    problem: str | None = None

    @property
    def wrong(self) -> bool:
        return self.agreement is not None and self.agreement < LEAST_AGREEMENT


@dataclass(frozen=True)
class Contest:
    """Competitors measured in turns on the same photos: one model, one batch size, one kind of figure.

    `stopped` says what ended it.
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


def competitors_of(
    folder: Path,
    manifest: Manifest,
    tail: str,
    photos: tuple[str, ...],
    *,
    measure: str,
    batch: int,
    threads: int,
    scratch: Path,
) -> dict[str, Spec]:
    """The competitors of a contest by name: the baselines, and trtkit with each use of its cache.

    `scratch`: a folder for their caches.
    """
    common = Spec(
        kind="", measure=measure, bundle=str(folder), tail=tail, photos=photos, batch=batch,
        threads=threads,
    )  # fmt: skip
    specs = {kind: replace(common, kind=kind) for kind in BASELINES}
    own = f"trtkit {manifest.precision} on {manifest.backend}"
    split = len(manifest.path_to(manifest.tail(tail))) > 1
    if measure == COMPUTE or not split:
        return {**specs, own: replace(common, kind="trtkit")}
    for cache in CACHES:
        place = scratch / f"{manifest.name}-{tail}-{batch}-{cache}"
        place.mkdir(parents=True, exist_ok=True)
        specs[f"{own}, cache {cache}"] = replace(
            common, kind="trtkit", cache=cache, cache_dir=str(place)
        )
    return specs


def hold(
    manifest: Manifest,
    specs: Mapping[str, Spec],
    baseline: str | None,
    settings: Settings,
    advance: Advance,
) -> Contest:
    """Load all competitors that can run here, each in a process of its own, and measure them in turns."""
    problems = {name: why for name, spec in specs.items() if (why := missing(spec.kind))}
    labels: dict[str, list[int]] = {}
    with ExitStack() as stack:
        contestants: list[WorkerContestant] = []
        for name, spec in specs.items():
            if name in problems:
                continue
            advance(f"Loading {name}", len(contestants) / len(specs))
            try:
                worker = stack.enter_context(closing(WorkerContestant(name, spec.to_json())))
                labels[name] = worker.labels()
            except ContestantFailed as error:
                problems[name] = str(error)
                continue
            contestants.append(worker)
        chosen = _baseline(baseline, labels)
        turns = take_turns(contestants, chosen, settings, advance)
        notes = {worker.name: worker.note for worker in contestants}
    spec = next(iter(specs.values()))
    problems.update(turns.failures)
    return Contest(
        bundle=manifest.name,
        tail=spec.tail,
        measure=spec.measure,
        batch=spec.batch,
        photos=len(spec.photos),
        baseline=chosen,
        rounds=turns.rounds,
        stopped=turns.stopped,
        figures=tuple(
            _figure(name, len(spec.photos), turns, labels, problems.get(name), notes.get(name, ""))
            for name in specs
        ),
    )


def _baseline(asked: str | None, loaded: Mapping[str, object]) -> str:
    """The one asked for if it could be loaded, else the first that could."""
    order = (*([asked] if asked else []), *BASELINES, *loaded)
    return next((name for name in order if name in loaded), order[0])


def _figure(
    name: str,
    photos: int,
    turns: Turns,
    labels: Mapping[str, Sequence[int]],
    problem: str | None,
    note: str,
) -> Figure:
    seconds = turns.samples.get(name, [])
    if problem is not None or not seconds:
        return Figure(name, note=note, problem=problem or "no round of it was completed")
    ratio = None
    if name != turns.baseline and turns.samples.get(turns.baseline):
        # Images per second go the other way than seconds.
        ratio = ratio_interval(turns.samples[turns.baseline], seconds)
    reference = labels.get(REFERENCE)
    agreement = None
    if reference is not None:
        same = sum(a == b for a, b in zip(labels[name], reference, strict=True))
        agreement = same / len(reference)
    summary = Summary.of(seconds)
    return Figure(name, photos / summary.median, summary, ratio, agreement, note)
