"""trtkit bench."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtkit.benchmark.kinds import BASELINES
from trtkit.cli.options import JsonOption, WorkspaceOption
from trtkit.cli.output import note, print_json, print_table
from trtkit.cli.progress import terminal_reporter

if TYPE_CHECKING:
    from trtkit.benchmark.compare import Change
    from trtkit.benchmark.results import BenchReport


class MeasureChoice(Enum):
    compute = "compute"
    end_to_end = "end-to-end"


BaselineChoice = Enum("BaselineChoice", {name: name for name in BASELINES})  # type: ignore[misc]


def bench(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH]...", help="Photos, folders, globs. Default: calibration/."),
    ] = None,
    bundle: Annotated[
        list[str] | None,
        typer.Option(help="A bundle to measure. Again for more. Default: the one built last."),
    ] = None,
    tail: Annotated[
        list[str] | None, typer.Option(help="A model of the bundles. Again for more. Default: all.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Photos per run. Again for more. Default: 1 and 8.")
    ] = None,
    measure: Annotated[
        list[MeasureChoice] | None,
        typer.Option(help="Which kind of figure. Again for more. Default: both."),
    ] = None,
    baseline: Annotated[
        BaselineChoice | None,
        typer.Option(help="Whom to compare with. Default: the first that is here."),
    ] = None,
    photos: Annotated[int, typer.Option(min=1, help="Photos in a round.")] = 32,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two minutes for all, however wide the intervals.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(help="Longest time for one contest. Default: 120.")
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(help="Stop once every ratio's interval is so narrow. Default: 0.03."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores for each competitor. Default: all.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the figures there, or as .pdf or .svg."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write a page with all of it there."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="OLD.json", help="Compare with what --json printed earlier."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE.json", help="Measure nothing: take what it says."),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Measure frames per second of a bundle against the baselines on this machine.

    All competitors take turns, each in a process of its own. Ctrl-C prints what was measured so far.
    Exits with 1 when --compare finds that something of trtkit is slower, missing or wrong.
    """
    from trtkit.api import bench as api
    from trtkit.benchmark.outputs import Outputs, saved_report
    from trtkit.serialization import to_plain

    outputs = Outputs.check(plot=plot, report=page, compare_with=compare)
    if source is not None:
        measuring = {
            "photos": paths, "--bundle": bundle, "--tail": tail, "--batch": batch, "--measure": measure,
            "--baseline": baseline, "--quick": quick, "--seconds": seconds, "--width": width,
            "--threads": threads,
        }  # fmt: skip
        saved = saved_report(source, measuring)
        report, plain = saved.report, saved.plain
    else:
        with terminal_reporter():
            report = api.bench(
                paths or (),
                bundles=bundle or (),
                tails=tail or (),
                batches=batch or api.DEFAULT_BATCHES,
                measures=[choice.value.replace("-", " ") for choice in measure]
                if measure
                else None,
                baseline=baseline and baseline.value,
                count=photos,
                quick=quick,
                seconds=seconds,
                width=width,
                threads=threads,
                workspace=workspace,
            )
        plain = to_plain(report)
    comparison = outputs.compared(report)
    for sentence in report.notes:
        note(sentence)
    processor = report.machine.get("processor", "an unknown processor")
    note(f"{report.threads or 'Unknown'} threads each, on {processor}.")
    for sentence in comparison.warnings if comparison else ():
        note(sentence)
    if json:
        print_json({**plain, **({"comparison": to_plain(comparison)} if comparison else {})})
    else:
        _print_figures(report)
        if comparison:
            _print_changes(comparison.changes)
    # After the figures are printed, so that a disk that is full does not cost them.
    for path in outputs.write(report):
        note(f"Wrote {path}.")
    if source is None and report.interrupted:
        note("Interrupted: these are the rounds that were completed.")
        raise typer.Exit(130)
    raise typer.Exit(1 if comparison is not None and comparison.slower else 0)


def _print_figures(report: BenchReport) -> None:
    from trtkit.benchmark.report import COLUMNS, cells

    print_table(
        ["bundle", "model", "measure", "batch", *COLUMNS],
        [
            [contest.bundle, contest.tail, contest.measure, contest.batch, *cells(contest, figure)]
            for contest in report.contests
            for figure in contest.figures
        ],
    )


def _print_changes(changes: tuple[Change, ...]) -> None:
    print_table(
        ["bundle", "model", "measure", "batch", "competitor", "unit", "old", "new", "change",
         "verdict", "why"],
        [
            [change.bundle, change.tail, change.measure, change.batch, change.competitor, change.unit,
             _number(change.old), _number(change.new),
             "" if change.change is None else f"{change.change:+.1%}", change.verdict, change.why]
            for change in changes
        ],
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
