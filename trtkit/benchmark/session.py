"""A run of `trtkit bench`: the request, its photos, all contests, the report."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from trtkit.atomic import scratch_folder
from trtkit.benchmark.contest import competitors_of, hold, source_of
from trtkit.benchmark.groups import BundleGroup
from trtkit.benchmark.kinds import BASELINES, GPU_BASELINES, baselines_for, missing, no_gpu
from trtkit.benchmark.protocol import INTERRUPTED, ProtocolSettings
from trtkit.benchmark.results import BenchReport, Contest
from trtkit.benchmark.spec import APART, COMPUTE, MEASURES
from trtkit.bundle import Manifest
from trtkit.cpu import usable_cores
from trtkit.errors import ImageError, TrtkitError, listed
from trtkit.photos.files import find_images
from trtkit.photos.images import load_image, read_file
from trtkit.reporting import message
from trtkit.runtime.diagnosis import diagnose
from trtkit.serialization import to_plain
from trtkit.workspace import Workspace

# Of `quick`, for all contests together, without loading and warming up.
QUICK_SECONDS = 120.0
# What the report tells of a diagnosis of the machine.
MACHINE = (
    "trtkit", "python", "system", "processor", "cores", "memory_bytes", "gpus", "backends", "features",
)  # fmt: skip


@dataclass(frozen=True)
class BenchRequest:
    """How to measure every group of bundles; `trtkit.bench` has the meanings of its options.

    Raises TrtkitError when it cannot be carried out on this machine.
    """

    photos: tuple[str | Path, ...]
    batches: tuple[int, ...]
    measures: tuple[str, ...]
    baseline: str | None
    count: int
    threads: int
    quick: bool = False
    seconds: float | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        _check_threads(self.threads)
        if not self.batches or min(self.batches) < 1:
            raise TrtkitError(
                f"Batches of {listed(map(str, self.batches))} photos cannot be measured; give 1 or more."
            )
        for measure in self.measures:
            if measure not in MEASURES:
                raise TrtkitError(f"Measure `{measure}` not found; available: {listed(MEASURES)}.")
        if self.baseline is None:
            return
        if self.baseline not in BASELINES:
            names = listed(BASELINES, len(BASELINES))
            raise TrtkitError(f"Baseline `{self.baseline}` not found; available: {names}.")
        why = missing(self.baseline)
        if why is not None:
            raise TrtkitError(f"Baseline `{self.baseline}` cannot run here: {why}.")

    def settings(self, groups: int) -> ProtocolSettings:
        """How long each contest may take; `quick` divides two minutes among those of all groups."""
        settings = ProtocolSettings()
        if self.quick:
            contests = groups * len(self.measures) * len(self.batches)
            settings = replace(settings, least_rounds=3, seconds=QUICK_SECONDS / contests)
        if self.seconds is not None:
            settings = replace(settings, seconds=self.seconds)
        return settings if self.width is None else replace(settings, width=self.width)


@dataclass
class BenchSession:
    """All contests of a request, held one after the other. `notes`: what the reader has to know."""

    place: Workspace
    groups: Sequence[BundleGroup]
    request: BenchRequest
    notes: list[str] = field(default_factory=list)
    contests: list[Contest] = field(default_factory=list)

    def run(self) -> BenchReport:
        """Hold the contests; Ctrl-C, while competitors are loaded or later, ends it. Raises TrtkitError."""
        settings = self.request.settings(len(self.groups))
        why = no_gpu()
        if why is not None:
            self.notes.append(f"The GPU baselines ({listed(GPU_BASELINES)}) are left out: {why}.")
        interrupted = False
        try:
            self._hold_all(settings)
        except KeyboardInterrupt:
            interrupted = True
            self.contests = [c for c in self.contests if c.rounds or c.stopped != INTERRUPTED]
        return BenchReport(
            machine=self._machine(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=shlex.join(["trtkit", *sys.argv[1:]]),
            threads=self.request.threads,
            settings=to_plain(settings),
            notes=(*self.notes, *_clock_warnings(self.contests)),
            contests=tuple(self.contests),
            interrupted=interrupted,
        )

    def _hold_all(self, settings: ProtocolSettings) -> None:
        # What workers that crashed have left is removed with it, as far as the system lets it be.
        with scratch_folder() as scratch:
            for group in self.groups:
                for contest in self._contests(group, settings, scratch):
                    self.contests.append(contest)
                    if contest.stopped == INTERRUPTED:
                        raise KeyboardInterrupt

    def _contests(
        self, group: BundleGroup, settings: ProtocolSettings, scratch: Path
    ) -> Iterator[Contest]:
        """One contest for each measure and batch size."""
        request = self.request
        files = self._files(group.manifest)
        baselines = baselines_for(group.manifest.backend)
        source = source_of(group.bundles)[1]
        if source.precision == "int8":
            self.notes.append(
                f"The baselines run the int8 graph of {source.name}; build the same models in fp32 at the "
                "same cut as well to compare with those."
            )
        built = scratch / "built"
        built.mkdir(exist_ok=True)
        for measure, batch in product(request.measures, request.batches):
            if group.tail == APART and measure != COMPUTE:
                continue
            message(f"{group.title}: {measure}, batch {batch}")
            # A folder for each: what a worker could not remove does not fill the disk of the next.
            with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as own:
                specs = competitors_of(
                    group.bundles, group.tail, files, baselines=baselines, measure=measure,
                    batch=batch, threads=request.threads, scratch=Path(own), built=built,
                )  # fmt: skip
                contest = hold(specs, request.baseline, settings)
            yield contest

    def _files(self, manifest: Manifest) -> tuple[str, ...]:
        """The first readable photos of the request; where there are fewer than a batch, repeated.

        A photo that comes twice in a round would be a hit of a cache that is called cold, so no more
        are repeated than a batch needs.
        """
        batch = max(self.request.batches)
        needed = max(self.request.count, batch)
        try:
            readable = (
                str(image.path)
                for image in find_images(self.request.photos)
                if image.error is None and _readable(image.path, manifest)
            )
            files = list(islice(readable, needed))
        except TrtkitError as error:
            raise TrtkitError(
                f"{str(error).rstrip('.')}; give photos to measure on, or put some into calibration/."
            ) from error
        if not files:
            names = listed(map(str, self.request.photos))
            raise TrtkitError(
                f"None of the photos of {names} can be read; give others to measure on."
            )
        if len(files) < needed:
            repeated = ", repeated to fill a batch" if len(files) < batch else ""
            note = f"Only {len(files)} of {needed} photos can be read: they are measured{repeated}."
            if note not in self.notes:
                self.notes.append(note)
        return tuple(islice(cycle(files), max(len(files), batch)))

    def _machine(self) -> dict[str, Any]:
        facts = to_plain(diagnose(self.place))
        return {name: facts[name] for name in MACHINE}


def _readable(path: Path, manifest: Manifest) -> bool:
    try:
        load_image(read_file(path), manifest.preprocessing)
    except ImageError:
        return False
    return True


def _clock_warnings(contests: Sequence[Contest]) -> list[str]:
    """What else the machine did, contest by contest."""
    return [
        f"{contest.bundle}, {contest.tail}, {contest.measure}, batch {contest.batch}: {warning}"
        for contest in contests
        if contest.clocks is not None
        for warning in contest.clocks.warnings
    ]


def _check_threads(threads: int) -> None:
    usable = usable_cores()
    if not 1 <= threads <= usable:
        raise TrtkitError(
            f"This process may use 1 to {usable} cores, not {threads}; give as many threads."
        )
    if threads != usable and not hasattr(os, "sched_setaffinity"):
        raise TrtkitError(
            f"Only Linux can hold competitors to {threads} cores; leave the threads out to measure on "
            f"all {usable}."
        )
