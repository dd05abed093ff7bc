"""`trtkit tune`: how a video store is asked, so that questions find enough and are cheap."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from trtkit.api.ingest import DEFAULT_STORE
from trtkit.bundle import read_manifest
from trtkit.errors import TrtkitError
from trtkit.video.judging import Judge
from trtkit.video.store.database import Database
from trtkit.video.store.identity import Identity, check_readable, identity
from trtkit.video.store.reading import crop_of
from trtkit.video.store.verdicts import Verdict
from trtkit.video.tails import VideoTail, expensive_tail
from trtkit.video.tuning.apply import apply, nobody_writes
from trtkit.video.tuning.objects import StoredObjects, clustered, stored_objects
from trtkit.video.tuning.tune import Costs, Goal, Targets, Tuned, sample_rows
from trtkit.video.tuning.tune import tune as choose
from trtkit.workspace import Workspace

DEFAULT_SAMPLE = 4000
# Objects on which the cost of one at ingest is measured.
MEASURED = 64


@dataclass(frozen=True)
class TuneReport:
    """What was found; `applied`: whether the store is asked so from now on. `costs`: what was measured."""

    tuned: Tuned
    targets: Targets
    costs: Costs
    objects: int
    applied: bool


def tune(
    *,
    store: str | Path = DEFAULT_STORE,
    bundle: str | Path | None = None,
    tail: str | None = None,
    targets: Targets | None = None,
    goal: Goal = "balance",
    sample: int = DEFAULT_SAMPLE,
    seed: int = 0,
    dry_run: bool = False,
    workspace: str | Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> TuneReport:
    """Choose how many best classes count, which objects are alike and from which score on.

    `sample` objects are shown to the expensive tail. The cheapest choice by `goal` (`balance`, cheapest
    `ingest`, fastest `query`) is taken whose recall and precision against that tail are proved to be
    `targets`, and the store's objects are grouped by it unless it is a `dry_run`. Raises TrtkitError.
    """
    wanted = targets if targets is not None else Targets()
    with Database.open(Path(store)) as database:
        known = identity(database)
        folder = Workspace.at(workspace).find_bundle(bundle if bundle is not None else known.bundle)
        manifest = read_manifest(folder)
        stage = manifest.tail(expensive_tail(manifest, known.tail, tail))
        check_readable(known, manifest, stage, folder)
        with nobody_writes(database):
            objects = stored_objects(database)
            rows = sample_rows(objects, sample, seed)
            progress(f"Showing {len(rows)} of {len(objects)} objects to {stage.name}")
            judge = Judge(database, stage.id, lambda: VideoTail.load(folder, stage.name))
            with closing(judge):
                costs = _costs(database, objects, folder, known, judge)
                classes = stage.classes or ()
                tuned = choose(
                    objects, rows, _by_row(objects, judge), _same(known, classes), len(classes), costs,
                    wanted, goal,
                )  # fmt: skip
            applied = tuned.chosen is not None and not dry_run
            if tuned.chosen is not None and applied:
                choice = tuned.chosen.choice
                progress("Grouping the objects")
                apply(database, choice, objects, clustered(objects, choice.distance))
    return TuneReport(tuned, wanted, costs, len(objects), applied)


def draw(report: TuneReport, path: Path) -> None:
    """Draw what was found, a PNG, PDF or SVG. Raises TrtkitError."""
    from trtkit.video.tuning.plot import draw_tuned

    draw_tuned(report.tuned, report.targets, path)


def _same(known: Identity, classes: Sequence[str]) -> dict[int, int]:
    """For each class of the expensive tail its index in the cheap one's, where that knows it."""
    index = {label: place for place, label in enumerate(known.classes)}
    return {place: index[label] for place, label in enumerate(classes) if label in index}


def _by_row(
    objects: StoredObjects, judge: Judge
) -> Callable[[Sequence[int]], Mapping[int, Verdict]]:
    def ask(rows: Sequence[int]) -> dict[int, Verdict]:
        ids = [int(objects.ids[row]) for row in rows]
        said = judge.ask(ids)
        return {row: said[number] for row, number in zip(rows, ids, strict=True)}

    return ask


def _costs(
    database: Database, objects: StoredObjects, folder: Path, known: Identity, judge: Judge
) -> Costs:
    """Seconds of an object through prefix and cheap tail, and of one through the expensive tail."""
    ids = [int(number) for number in objects.ids[:MEASURED]]
    crops = [crop for crop in (crop_of(database, number) for number in ids) if crop is not None]
    if not crops:
        raise TrtkitError(
            f"The store in {database.folder} has no pictures of its objects; `trtkit store verify` lists "
            "what is missing."
        )
    with closing(VideoTail.load(folder, known.tail)) as cheap:
        parts = [crops[start : start + cheap.batch] for start in range(0, len(crops), cheap.batch)]
        cheap.index(parts[0], 1)
        begun = time.perf_counter()
        for part in parts:
            cheap.index(part, 1)
        ingest = (time.perf_counter() - begun) / len(crops)
    # Whatever is remembered: this is what an object costs that is not.
    judge.compute(ids[: judge.batch])
    begun = time.perf_counter()
    judge.compute(ids)
    return Costs(ingest, (time.perf_counter() - begun) / len(ids))
