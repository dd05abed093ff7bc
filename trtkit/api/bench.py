"""`trtkit bench`: frames per second of a bundle against the baselines that exist on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtkit.benchmark.groups import groups_of
from trtkit.benchmark.results import BenchReport
from trtkit.benchmark.session import BenchRequest, BenchSession
from trtkit.benchmark.spec import MEASURES
from trtkit.cpu import usable_cores
from trtkit.names import names_of
from trtkit.workspace import Workspace

DEFAULT_PHOTOS = 32
DEFAULT_BATCHES = (1, 8)


def bench(
    photos: str | Path | Sequence[str | Path] = (),
    *,
    bundles: str | Path | Sequence[str | Path] = (),
    tails: str | Sequence[str] = (),
    batches: Sequence[int] = DEFAULT_BATCHES,
    measures: str | Sequence[str] | None = None,
    baseline: str | None = None,
    count: int = DEFAULT_PHOTOS,
    quick: bool = False,
    seconds: float | None = None,
    width: float | None = None,
    threads: int | None = None,
    workspace: str | Path | None = None,
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
    request = BenchRequest(
        photos=names_of(photos) or (place.calibration,),
        batches=tuple(batches),
        measures=names_of(measures or MEASURES),
        baseline=baseline,
        count=count,
        threads=usable_cores() if threads is None else threads,
        quick=quick,
        seconds=seconds,
        width=width,
    )
    return BenchSession(place, groups_of(place, names_of(bundles), names_of(tails)), request).run()
