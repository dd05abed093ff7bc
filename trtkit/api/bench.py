"""`trtkit bench`: frames per second of a bundle against the baselines that exist on this machine."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from trtkit.api.doctor import doctor
from trtkit.benchmark.contest import MEASURES, Contest, Subject, competitors_of, hold, source_of
from trtkit.benchmark.kinds import BASELINES, GPU_BASELINES, baselines_for, missing, no_gpu
from trtkit.benchmark.protocol import INTERRUPTED, ProtocolSettings
from trtkit.bundle import Manifest, read_manifest
from trtkit.cpu import usable_cores
from trtkit.errors import ImageError, TrtkitError, listed
from trtkit.photos.files import find_images
from trtkit.photos.images import load_image, read_file
from trtkit.reporting import message, reporting
from trtkit.serialization import to_plain
from trtkit.workspace import Workspace

DEFAULT_PHOTOS = 32
# Of `quick`, for all contests together, without loading and warming up.
QUICK_SECONDS = 120.0
DEFAULT_BATCHES = (1, 8)

Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class BenchReport:
    """All contests, and where and how they were measured.

    `threads`: cores that each competitor had. `notes`: sentences on what was left out or is doubtful.
    `interrupted`: whether Ctrl-C ended it; the contests are those of which a round was completed.
    """

    created: str
    command: str
    machine: dict[str, Any]
    threads: int
    settings: ProtocolSettings
    notes: tuple[str, ...]
    contests: tuple[Contest, ...]
    interrupted: bool = False

    def __post_init__(self) -> None:
        if any(contest.stopped == INTERRUPTED for contest in self.contests):
            object.__setattr__(self, "interrupted", True)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    photos: Sequence[str | Path] = (),
    *,
    bundles: Sequence[str | Path] = (),
    tails: Sequence[str] = (),
    batches: Sequence[int] = DEFAULT_BATCHES,
    measures: Sequence[str] | None = None,
    baseline: str | None = None,
    count: int = DEFAULT_PHOTOS,
    quick: bool = False,
    seconds: float | None = None,
    width: float | None = None,
    threads: int | None = None,
    workspace: str | Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
    advance: Advance = lambda phase, share: None,
) -> BenchReport:
    """Measure every tail of the bundles against the baselines, in turns, each in a process of its own.

    `photos`: files, folders, globs; by default those of `calibration/`. The first `count` that can be
    read make a round. `bundles`: by default the one built last and the same models at the same cut in
    the other precisions that there are. Bundles of the same models are measured in turns with each
    other.
    `batches`: images per run. `measures`: `compute` (prepared images in memory to logits; on a GPU in
    its memory and its own time), `end to end` (files to the five best classes). `baseline`: whom the
    others are compared with, by default `torch-cuda` for a bundle on a GPU and `torch` for others, or
    the next that runs here. `threads`: cores that every competitor may use, all by default. A contest
    ends when every ratio's interval is at most `width` wide (0.03 by default, a share of the ratio),
    or after `seconds` (120 by default); `quick` gives all of them together two minutes.

    A competitor that cannot run here, or fails, is in the report with the reason; without a GPU those
    that need one are left out, and a note says so. Ctrl-C ends the measuring; what was measured is in
    the report. Raises TrtkitError.
    """
    place = Workspace.at(workspace)
    asked = _Asked(
        tuple(photos) or (place.calibration,), tuple(batches), tuple(measures or MEASURES),
        baseline, count, _cores(threads),
    )  # fmt: skip
    _check(asked.batches, asked.measures, baseline)
    groups = _groups(place, bundles, tails)
    of_each = len(asked.measures) * len(asked.batches)
    settings = _settings(len(groups) * of_each, quick, seconds, width)
    notes = _left_out()
    with reporting(_Callbacks(progress, advance)):
        contests, interrupted = _hold_all(groups, asked, settings, notes)
    notes += _doubts(contests)
    return _report(place, asked.threads, settings, notes, contests, interrupted)


@dataclass(frozen=True)
class _Callbacks:
    """A reporter that calls two functions."""

    message: Callable[[str], None]
    advance: Advance


@dataclass(frozen=True)
class _Asked:
    """What every group of bundles is measured with."""

    photos: tuple[str | Path, ...]
    batches: tuple[int, ...]
    measures: tuple[str, ...]
    baseline: str | None
    count: int
    threads: int


@dataclass(frozen=True)
class _Group:
    """Bundles that are measured in turns with each other, and the model of theirs that is."""

    subjects: tuple[Subject, ...]
    tail: str

    @property
    def manifest(self) -> Manifest:
        """That of the first bundle. Their preprocessing is the same."""
        return self.subjects[0][1]

    @property
    def title(self) -> str:
        return ", ".join((*(manifest.name for _, manifest in self.subjects), self.tail))


def _hold_all(
    groups: Sequence[_Group],
    asked: _Asked,
    settings: ProtocolSettings,
    notes: list[str],
) -> tuple[list[Contest], bool]:
    """The contests that were held, and whether Ctrl-C ended it, while competitors were loaded or later.

    Adds to `notes` what is to be said.
    """
    contests: list[Contest] = []
    # What workers that crashed have left is removed with it, as far as the system lets it be.
    temporary = tempfile.TemporaryDirectory(prefix="trtkit-bench-", ignore_cleanup_errors=True)
    try:
        with temporary as scratch:
            for group in groups:
                for contest in _contests(group, asked, settings, Path(scratch), notes):
                    contests.append(contest)
                    if contest.stopped == INTERRUPTED:
                        raise KeyboardInterrupt
    except KeyboardInterrupt:
        return [one for one in contests if one.rounds or one.stopped != INTERRUPTED], True
    return contests, False


def _contests(
    group: _Group,
    asked: _Asked,
    settings: ProtocolSettings,
    scratch: Path,
    notes: list[str],
) -> Iterator[Contest]:
    """One contest for each kind of figure and batch size. Adds to `notes` what is to be said."""
    files = _photos(asked.photos, group.manifest, asked.count, max(asked.batches), notes)
    baselines = baselines_for(group.manifest.backend)
    source = source_of(group.subjects)[1]
    if source.precision == "int8":
        notes.append(
            f"The baselines run the int8 graph of {source.name}; build the same models in fp32 at the same "
            "cut as well to compare with those."
        )
    built = scratch / "built"
    built.mkdir(exist_ok=True)
    for measure, batch in product(asked.measures, asked.batches):
        message(f"{group.title}: {measure}, batch {batch}")
        # A folder for each: what a worker could not remove does not fill the disk of the next.
        with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as own:
            specs = competitors_of(
                group.subjects, group.tail, files, baselines=baselines, measure=measure, batch=batch,
                threads=asked.threads, scratch=Path(own), built=built,
            )  # fmt: skip
            contest = hold(specs, asked.baseline, settings)
        yield contest


def _left_out() -> list[str]:
    """What is said of baselines that are no part of any table."""
    why = no_gpu()
    if why is None:
        return []
    return [f"The GPU baselines ({listed(GPU_BASELINES)}) are left out: {why}."]


def _doubts(contests: Sequence[Contest]) -> list[str]:
    """What the machine did besides, contest by contest."""
    return [
        f"{contest.bundle}, {contest.tail}, {contest.measure}, batch {contest.batch}: {warning}"
        for contest in contests
        if contest.clocks is not None
        for warning in contest.clocks.warnings
    ]


def _cores(threads: int | None) -> int:
    """How many cores each competitor is to have."""
    usable = usable_cores()
    if threads is None or threads == usable:
        return usable
    if not 1 <= threads < usable:
        raise TrtkitError(
            f"{threads} threads were asked for, but this process may use {usable} cores; give 1 to "
            f"{usable}."
        )
    if not hasattr(os, "sched_setaffinity"):
        raise TrtkitError(
            f"{threads} threads were asked for, but only Linux can hold every competitor to so many "
            f"cores; leave it out to measure on all {usable}."
        )
    return threads


def _report(
    place: Workspace,
    threads: int,
    settings: ProtocolSettings,
    notes: Sequence[str],
    contests: Sequence[Contest],
    interrupted: bool,
) -> BenchReport:
    found = to_plain(doctor(workspace=place.root))
    kept = (
        "trtkit",
        "python",
        "system",
        "processor",
        "cores",
        "memory_bytes",
        "gpus",
        "backends",
        "features",
    )
    return BenchReport(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join(["trtkit", *sys.argv[1:]]),
        machine={name: found[name] for name in kept},
        threads=threads,
        settings=settings,
        notes=tuple(notes),
        contests=tuple(contests),
        interrupted=interrupted,
    )


def _settings(
    contests: int, quick: bool, seconds: float | None, width: float | None
) -> ProtocolSettings:
    """How long each contest may take; `quick` divides two minutes among them."""
    settings = ProtocolSettings()
    if quick:
        settings = replace(settings, least_rounds=3, seconds=QUICK_SECONDS / contests)
    if seconds is not None:
        settings = replace(settings, seconds=seconds)
    return settings if width is None else replace(settings, width=width)


def _check(batches: Sequence[int], measures: Sequence[str], baseline: str | None) -> None:
    if not batches or min(batches) < 1:
        raise TrtkitError(
            f"The batches {listed(map(str, batches))} were asked for; give 1 or more."
        )
    for measure in measures:
        if measure not in MEASURES:
            raise TrtkitError(f"The measure {measure!r} was asked for; choose {listed(MEASURES)}.")
    if baseline is None:
        return
    if baseline not in BASELINES:
        known = listed(BASELINES, len(BASELINES))
        raise TrtkitError(f"The baseline {baseline!r} was asked for; choose {known}.")
    why = missing(baseline)
    if why is not None:
        raise TrtkitError(f"The baseline {baseline} was asked for, but {why}.")


def _groups(place: Workspace, bundles: Sequence[str | Path], tails: Sequence[str]) -> list[_Group]:
    """Every model to measure, those named or all, with the bundles that have it."""
    if bundles:
        found = [place.find_bundle(name) for name in bundles]
        subjects = [(folder, read_manifest(folder)) for folder in dict.fromkeys(found)]
    else:
        subjects = _built_last(place)
    together: dict[object, list[Subject]] = {}
    for folder, manifest in subjects:
        together.setdefault(_measured_alike(folder, manifest), []).append((folder, manifest))
    groups = []
    for alike in together.values():
        first = alike[0][1]
        chosen = [first.tail(tail).name for tail in tails] or [one.name for one in first.tails]
        groups += [_Group(tuple(alike), tail) for tail in chosen]
    return groups


def _measured_alike(folder: Path, manifest: Manifest) -> object:
    """The same for bundles that compute the same: the same exports, from the same pixels."""
    if not manifest.models:
        # Of a trtkit that did not write down what it built.
        return folder
    models = tuple(sorted(manifest.models.items()))
    return models, manifest.preprocessing.digest


def _built_last(place: Workspace) -> list[Subject]:
    """The bundle built last, and the same in its other precisions, of each the one built last."""
    folder = place.find_bundle(None)
    last = read_manifest(folder)
    found = {last.precision: (folder, last)}
    for other in place.bundles():
        try:
            manifest = read_manifest(other)
        except TrtkitError:
            # Nobody asked for it.
            continue
        if (
            (manifest.cut, manifest.backend) == (last.cut, last.backend)
            and _measured_alike(other, manifest) == _measured_alike(folder, last)
        ):  # fmt: skip
            found.setdefault(manifest.precision, (other, manifest))
    return list(found.values())


def _photos(
    asked: Sequence[str | Path], manifest: Manifest, count: int, batch: int, notes: list[str]
) -> tuple[str, ...]:
    """The first `count` readable photos; where there are fewer than a batch the first ones again.

    A photo that comes twice in a round would be a hit of a cache that is called cold.
    """
    wanted = max(count, batch)
    files: list[str] = []
    try:
        for found in find_images(asked):
            if len(files) == wanted:
                break
            if found.error is None and _readable(found.path, manifest):
                files.append(str(found.path))
    except TrtkitError as error:
        raise TrtkitError(
            f"{str(error).rstrip('.')}; give photos to measure on, or put some into calibration/."
        ) from error
    if not files:
        raise TrtkitError(
            f"None of the photos of {listed(map(str, asked))} can be read; give others to measure on."
        )
    if len(files) < wanted:
        again = ", again and again to fill a batch" if len(files) < batch else ""
        note = f"There are {len(files)} photos where {wanted} were asked for: those are measured{again}."
        if note not in notes:
            notes.append(note)
    return tuple(islice(cycle(files), max(len(files), batch)))


def _readable(path: Path, manifest: Manifest) -> bool:
    try:
        load_image(read_file(path), manifest.preprocessing)
    except ImageError:
        return False
    return True
