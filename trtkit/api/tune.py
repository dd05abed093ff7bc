"""`trtkit tune`: how a footage store is queried, so that questions find enough and are cheap."""

from __future__ import annotations

from pathlib import Path

from trtkit.video.footage.database import Database
from trtkit.video.ingest import DEFAULT_STORE
from trtkit.video.tails import ExpensiveTail
from trtkit.video.tuning.run import TuneReport, tune_store
from trtkit.video.tuning.tune import Goal, Targets
from trtkit.workspace import Workspace

DEFAULT_SAMPLE = 4000


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
) -> TuneReport:
    """Choose how many best classes count, which objects share a cluster and from which score on.

    The expensive tail classifies `sample` objects. Of the options whose recall and precision against
    that tail are proved to meet `targets`, the cheapest by `goal` (`balance`, cheapest `ingest`, fastest
    `query`) is chosen, and the store's objects are grouped by it unless this is a `dry_run`. Raises
    TrtkitError.

        report = trtkit.tune(store="video-store", goal="query", dry_run=True)
        print(report.tuned.chosen)
    """
    with Database.open(Path(store)) as database:
        expensive = ExpensiveTail.of_store(database, Workspace.at(workspace), bundle, tail)
        return tune_store(
            database, expensive, targets if targets is not None else Targets(), goal, sample=sample,
            seed=seed, dry_run=dry_run,
        )  # fmt: skip
