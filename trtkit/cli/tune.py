"""trtkit tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trtkit.cli.options import (
    ExpensiveOption,
    JsonOption,
    StoreBundleOption,
    StoreOption,
    WorkspaceOption,
)
from trtkit.cli.output import note, print_json, print_table
from trtkit.cli.progress import terminal_reporter

if TYPE_CHECKING:
    from trtkit.video.tuning.tune import OptionResult

# Options that are shown when none meets the targets.
NEAREST = 5


def tune(
    store: StoreOption = Path("video-store"),
    recall: Annotated[float, typer.Option(help="Share of objects to be found.")] = 0.99,
    precision: Annotated[float, typer.Option(help="Share of the answers to be right.")] = 0.99,
    confidence: Annotated[float, typer.Option(help="Of both, 0 to 1.")] = 0.95,
    goal: Annotated[
        Literal["balance", "ingest", "query"],
        typer.Option(help="Cheapest ingest, fastest query, or both in balance."),
    ] = "balance",
    sample: Annotated[
        int, typer.Option(min=2, help="Objects that the expensive model classifies.")
    ] = 4000,
    seed: Annotated[int, typer.Option(help="Of drawing the sample.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Leave the store as it is.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw ingest cost against query cost.")
    ] = None,
    bundle: StoreBundleOption = None,
    tail: ExpensiveOption = None,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Choose how a store is queried, so that questions find enough and are cheap.

    The expensive model classifies a sample of objects. From that follows how many best classes count,
    which objects share a cluster and from which score on, so that recall and precision against that model
    are proved. Exits with 1 when no option could be proved; the store is then as it was.
    """
    from trtkit.api.tune import tune as run
    from trtkit.video.tuning.run import draw_tuned
    from trtkit.video.tuning.tune import Targets

    with terminal_reporter():
        report = run(
            store=store, bundle=bundle, tail=tail, targets=Targets(recall, precision, confidence),
            goal=goal, sample=sample, seed=seed, dry_run=dry_run, workspace=workspace,
        )  # fmt: skip
    if plot is not None:
        draw_tuned(report, plot)
    tuned = report.tuned
    if json:
        print_json(report)
    else:
        results = [
            result
            for result in tuned.options
            if result.recall is not None
            or report.targets.hold(result.first.recall, result.first.precision)
        ] or sorted(
            tuned.options, key=lambda result: -min(result.first.recall, result.first.precision)
        )[:NEAREST]
        print_table(
            ["classes", "least score", "clusters", "recall", "proved", "precision", "proved",
             "asked", "question ms", "ingest ms", ""],
            [_row(result, result == tuned.chosen) for result in results],
        )  # fmt: skip
    if tuned.chosen is None:
        note(
            f"None of {len(tuned.options)} options is proved to have a recall of {recall:g} and a "
            f"precision of {precision:g} ({tuned.tried} were tried); index more classes of an "
            "object (--top), take a larger --sample, or lower the targets."
        )
        raise typer.Exit(1)
    if report.applied:
        note("The store is queried so from now on.")


def _row(result: OptionResult, chosen: bool) -> list[object]:
    option = result.choice
    return [
        option.top,
        f"{option.least:g}",
        "off" if option.distance is None else f"{option.distance:g}",
        f"{result.first.recall:.2%}",
        "" if result.recall is None else f"{result.recall:.2%}",
        f"{result.first.precision:.2%}",
        "" if result.precision is None else f"{result.precision:.2%}",
        f"{result.asked:.1f}",
        f"{1e3 * result.query_seconds:.1f}",
        f"{1e3 * result.ingest_seconds:.3f}",
        "chosen" if chosen else "",
    ]
