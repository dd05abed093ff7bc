"""`trtkit bench`: frames per second of a bundle against the baselines that exist on this machine."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from trtkit.api.doctor import doctor
from trtkit.benchmark.competitors import missing
from trtkit.benchmark.contest import BASELINES, MEASURES, Contest, competitors_of, hold
from trtkit.benchmark.protocol import Settings
from trtkit.bundle import Manifest, read_manifest
from trtkit.cpu import usable_cores
from trtkit.errors import ImageError, TrtkitError, listed
from trtkit.runtime.files import find_images
from trtkit.runtime.images import load_image, read_file
from trtkit.workspace import Workspace

DEFAULT_PHOTOS = 32
# Of `quick`, for all contests together, without loading and warming up.
QUICK_SECONDS = 120.0
DEFAULT_BATCHES = (1, 8)
INTERRUPTED = "interrupted"

Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class BenchReport:
    """All contests, and where and how they were measured."""

    created: str
    command: str
    machine: dict[str, Any]
    threads: int
    settings: Settings
    notes: tuple[str, ...]
    contests: tuple[Contest, ...]

    @property
    def interrupted(self) -> bool:
        return any(contest.stopped == INTERRUPTED for contest in self.contests)

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
    workspace: str | Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
    advance: Advance = lambda phase, share: None,
) -> BenchReport:
    """Measure every tail of the bundles against the baselines, in turns, each in a process of its own.

    `photos`: files, folders, globs; by default those of `calibration/`. The first `count` that can be
    read make a round. `bundles`: the one built last by default.
    `batches`: images per run. `measures`: `compute` (prepared images in memory to logits), `end to end`
    (files to the five best classes). `baseline`: whom the others are compared with, by default the
    first that is here. Every competitor has a thread for each usable core. A contest ends
    when every ratio's interval is at most `width` wide (0.03 by default, a share of the ratio), or
    after `seconds` (120 by default); `quick` gives all of them together two minutes.

    A competitor that cannot run here, or fails, is in the report with the reason. Ctrl-C ends the
    measuring; what was measured is in the report. Raises TrtkitError.
    """
    place = Workspace.at(workspace)
    measures = measures or MEASURES
    _check(batches, measures, baseline)
    subjects = _subjects(place, bundles, tails)
    settings = _settings(len(subjects) * len(measures) * len(batches), quick, seconds, width)
    threads = usable_cores()
    notes: list[str] = []
    contests: list[Contest] = []
    with tempfile.TemporaryDirectory(prefix="trtkit-bench-") as scratch:
        for folder, manifest, tail in subjects:
            files = _photos(photos or [place.calibration], manifest, count, max(batches), notes)
            for measure, batch in product(measures, batches):
                progress(f"{manifest.name}, {tail}: {measure}, batch {batch}")
                specs = competitors_of(
                    folder, manifest, tail, files, measure=measure, batch=batch, threads=threads,
                    scratch=Path(scratch),
                )  # fmt: skip
                contests.append(hold(manifest, specs, baseline, settings, advance))
                if contests[-1].stopped == INTERRUPTED:
                    return _report(place, threads, settings, notes, contests)
    return _report(place, threads, settings, notes, contests)


def _report(
    place: Workspace,
    threads: int,
    settings: Settings,
    notes: Sequence[str],
    contests: Sequence[Contest],
) -> BenchReport:
    found = doctor(workspace=place.root).to_json()
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
    )


def _settings(contests: int, quick: bool, seconds: float | None, width: float | None) -> Settings:
    """How long each contest may take; `quick` divides two minutes among them."""
    settings = Settings()
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
        raise TrtkitError(f"The baseline {baseline!r} was asked for; choose {listed(BASELINES)}.")
    why = missing(baseline)
    if why is not None:
        raise TrtkitError(f"The baseline {baseline} was asked for, but {why}.")


def _subjects(
    place: Workspace, bundles: Sequence[str | Path], tails: Sequence[str]
) -> list[tuple[Path, Manifest, str]]:
    """Bundle by bundle the tails to measure: those named, else all."""
    found = []
    for name in bundles or (None,):
        folder = place.find_bundle(name)
        manifest = read_manifest(folder)
        chosen = [manifest.tail(tail).name for tail in tails] or [s.name for s in manifest.tails]
        found += [(folder, manifest, tail) for tail in chosen]
    return found


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
