"""trtkit tune."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtkit.cli.ingest import StoreOption
from trtkit.cli.options import JsonOption, WorkspaceOption
from trtkit.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from trtkit.video.tuning.tune import Option


# Choices that are shown when none meets the targets.
NEAREST = 5


class GoalChoice(str, Enum):
    balance = "balance"
    ingest = "ingest"
    query = "query"


def tune(
    store: StoreOption = Path("video-store"),
    recall: Annotated[float, typer.Option(help="Share of objects to be found.")] = 0.99,
    precision: Annotated[float, typer.Option(help="Share of what is found to be right.")] = 0.99,
    confidence: Annotated[float, typer.Option(help="With which both are to hold.")] = 0.95,
    goal: Annotated[
        GoalChoice, typer.Option(help="Cheapest ingest, fastest query, or both in balance.")
    ] = GoalChoice.balance,
    sample: Annotated[
        int, typer.Option(min=2, help="Objects that the expensive model is shown.")
    ] = 4000,
    seed: Annotated[int, typer.Option(help="Of drawing them.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Leave the store as it is.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw ingest cost against query cost.")
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Default: the bundle of the store.")] = None,
    tail: Annotated[
        str | None, typer.Option(help="The expensive model. Default: the bundle's other one.")
    ] = None,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Choose how a store is asked, so that questions find enough and are cheap.

    Objects are shown to the expensive model; how many best classes count, which objects are alike and
    from which score on is then chosen, so that recall and precision against that model are proved. Exits
    with 1 when no choice could be proved; the store is then as it was.
    """
    from trtkit.api.tune import draw
    from trtkit.api.tune import tune as run
    from trtkit.video.tuning.tune import Targets

    report = run(
        store=store, bundle=bundle, tail=tail, targets=Targets(recall, precision, confidence),
        goal=goal.value, sample=sample, seed=seed, dry_run=dry_run, workspace=workspace, progress=note,
    )  # fmt: skip
    if plot is not None:
        draw(report, plot)
    tuned = report.tuned
    if json:
        print_json(asdict(report))
    else:
        shown = [
            each
            for each in tuned.options
            if each.recall is not None
            or (each.first.recall >= recall and each.first.precision >= precision)
        ]
        # What came nearest, where nothing was good enough.
        shown = (
            shown
            or sorted(
                tuned.options, key=lambda each: -min(each.first.recall, each.first.precision)
            )[:NEAREST]
        )
        print_table(
            ["classes", "least score", "clusters", "recall", "proved", "precision", "proved",
             "asked", "question ms", "ingest ms", ""],
            [_row(each, each is tuned.chosen or each == tuned.chosen) for each in shown],
        )  # fmt: skip
    if tuned.chosen is None:
        note(
            f"None of {len(tuned.options)} choices was proved to have a recall of {recall:g} and a "
            f"precision of {precision:g} ({tuned.tried} were looked at); index more classes of an object "
            "(--top), take a larger --sample, or ask for less."
        )
        raise typer.Exit(1)
    if report.applied:
        note("The store is asked so from now on.")


def _row(option: Option, chosen: bool) -> list[object]:
    choice = option.choice
    return [
        choice.top,
        f"{choice.least:g}",
        "off" if choice.distance is None else f"{choice.distance:g}",
        f"{option.first.recall:.2%}",
        "" if option.recall is None else f"{option.recall:.2%}",
        f"{option.first.precision:.2%}",
        "" if option.precision is None else f"{option.precision:.2%}",
        f"{option.asked:.1f}",
        f"{1e3 * option.query_seconds:.1f}",
        f"{1e3 * option.ingest_seconds:.3f}",
        "chosen" if chosen else "",
    ]
