"""Tuning a footage store: measure the costs, choose an option, apply it, draw the options."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from trtkit.errors import TrtkitError
from trtkit.plotting import new_figure, save_figure
from trtkit.reporting import message
from trtkit.video.footage.database import Database
from trtkit.video.footage.reading import jpeg_of, pictures_of
from trtkit.video.footage.settings import QuerySettings
from trtkit.video.judging import Judge, Verdict
from trtkit.video.tails import ExpensiveTail, VideoTail
from trtkit.video.tuning.objects import (
    StoredObjects,
    apply,
    clustered,
    stored_objects,
    writers_excluded,
)
from trtkit.video.tuning.tune import Goal, QueryCosts, Targets, Tuned, sample_rows, tune

# Objects on which the costs are measured.
MEASURED = 64


@dataclass(frozen=True)
class TuneReport:
    """The options and the chosen one; `applied`: whether the store is queried so from now on.

    `costs`: as measured; `objects`: of the store.
    """

    tuned: Tuned
    targets: Targets
    costs: QueryCosts
    objects: int
    applied: bool


def tune_store(
    database: Database,
    tail: ExpensiveTail,
    targets: Targets,
    goal: Goal,
    *,
    sample: int,
    seed: int,
    dry_run: bool,
) -> TuneReport:
    """Tune by the verdicts of `tail` on `sample` objects; a `dry_run` leaves the store as it is.

    Raises TrtkitError.
    """
    if tail.stage.scoring == "sigmoid":
        raise TrtkitError(
            f"{tail.stage.name} gives independent labels, and tuning proves that objects are found by "
            "their one class; query the store without tuning, or choose another --tail."
        )
    with writers_excluded(database):
        objects = stored_objects(database)
        rows = sample_rows(objects, sample, seed)
        message(f"Showing {len(rows)} of {len(objects)} objects to {tail.stage.name}")
        with closing(Judge(database, tail.stage.id, tail.load)) as judge:

            def ask(rows: Sequence[int]) -> Mapping[int, Verdict]:
                ids = [int(objects.ids[row]) for row in rows]
                verdicts = judge.ask(ids)
                return {row: verdicts[number] for row, number in zip(rows, ids, strict=True)}

            costs = _measure_costs(database, objects, tail, judge)
            cheap_index = {label: place for place, label in enumerate(tail.owner.classes)}
            same = {
                place: cheap_index[label]
                for place, label in enumerate(tail.classes)
                if label in cheap_index
            }
            tuned = tune(objects, rows, ask, same, len(tail.classes), costs, targets, goal)
        applied = tuned.chosen is not None and not dry_run
        if tuned.chosen is not None and applied:
            option = tuned.chosen.choice
            message("Grouping the objects")
            settings = QuerySettings(option.top, option.least, option.distance)
            apply(database, settings, objects, clustered(objects, option.distance))
    return TuneReport(tuned, targets, costs, len(objects), applied)


def draw_tuned(report: TuneReport, path: Path) -> None:
    """Draw to `path`, a PNG, PDF or SVG by its ending, which appears whole.

    Milliseconds per object at ingest against milliseconds per question; filled where the targets are
    met on the first half of the sample, a ring around the chosen one. Readable in black and white.
    Raises TrtkitError when it cannot be written.
    """
    tuned, targets = report.tuned, report.targets
    figure = new_figure(9, 6)
    axes = figure.subplots()
    for meets, label in ((True, "meets the targets on the first half"), (False, "does not")):
        results = [
            result
            for result in tuned.options
            if targets.hold(result.first.recall, result.first.precision) == meets
        ]
        axes.plot(
            [1e3 * result.ingest_seconds for result in results],
            [1e3 * result.query_seconds for result in results],
            linestyle="none", marker="o", markersize=5, color="black",
            markerfacecolor="black" if meets else "none", label=label,
        )  # fmt: skip
    if tuned.chosen is not None:
        axes.plot(
            1e3 * tuned.chosen.ingest_seconds, 1e3 * tuned.chosen.query_seconds, linestyle="none",
            marker="o", markersize=14, markerfacecolor="none", markeredgecolor="black", label="chosen",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("ms per object at ingest")
    axes.set_ylabel("ms per question, nothing remembered")
    axes.legend(fontsize=8)
    figure.suptitle(
        f"recall {targets.recall:g}, precision {targets.precision:g}, confidence "
        f"{targets.confidence:g}, {tuned.sampled} objects"
    )
    save_figure(figure, path)


def _measure_costs(
    database: Database, objects: StoredObjects, tail: ExpensiveTail, judge: Judge
) -> QueryCosts:
    """Seconds per object through prefix and cheap tail, and through the expensive tail."""
    ids = [int(number) for number in objects.ids[:MEASURED]]
    jpegs = [
        jpeg_of(database, picture.object, picture.place)
        for pictures in pictures_of(database, ids).values()
        for picture in pictures
    ]
    crops = [jpeg for jpeg in jpegs if jpeg is not None]
    with closing(VideoTail(tail.folder, tail.owner.tail)) as cheap:
        parts = [crops[start : start + cheap.batch] for start in range(0, len(crops), cheap.batch)]
        cheap.index(parts[0], 1)
        begun = time.perf_counter()
        for part in parts:
            cheap.index(part, 1)
        ingest = (time.perf_counter() - begun) / len(ids)
    # Computed even if remembered: the cost is that of a new object.
    judge.compute(ids[: judge.batch])
    begun = time.perf_counter()
    judge.compute(ids)
    return QueryCosts(ingest, (time.perf_counter() - begun) / len(ids))
