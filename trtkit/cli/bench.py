"""trtkit bench."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from trtkit.cli.options import JsonOption, WorkspaceOption
from trtkit.cli.output import note, print_json, print_table
from trtkit.cli.progress import phases

if TYPE_CHECKING:
    from trtkit.benchmark.contest import Contest, Figure
    from trtkit.benchmark.statistics import Interval


class MeasureChoice(str, Enum):
    compute = "compute"
    end_to_end = "end-to-end"


class BaselineChoice(str, Enum):
    torch = "torch"
    torch_compile = "torch-compile"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


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
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Measure frames per second of a bundle against the baselines on this machine.

    All competitors take turns, each in a process of its own. Ctrl-C prints what was measured so far.
    """
    from trtkit.api import bench as api

    with phases() as advance:
        report = api.bench(
            paths or (),
            bundles=bundle or (),
            tails=tail or (),
            batches=batch or api.DEFAULT_BATCHES,
            measures=[each.value.replace("-", " ") for each in measure] if measure else None,
            baseline=baseline and baseline.value,
            count=photos,
            quick=quick,
            seconds=seconds,
            width=width,
            workspace=workspace,
            progress=note,
            advance=advance,
        )
    for sentence in report.notes:
        note(sentence)
    note(f"{report.threads} threads each, on {report.machine['processor']}.")
    if json:
        print_json(report.to_json())
    else:
        _print(report.contests)
    if report.interrupted:
        note("Interrupted: these are the rounds that were completed.")
        raise typer.Exit(130)


def _print(contests: tuple[Contest, ...]) -> None:
    print_table(
        [
            "bundle",
            "model",
            "measure",
            "batch",
            "competitor",
            "images/s",
            "ms/image",
            "p90",
            "p99",
            "times the baseline",
            "same top-1",
            "note",
        ],
        [
            [contest.bundle, contest.tail, contest.measure, contest.batch, *_row(contest, figure)]
            for contest in contests
            for figure in contest.figures
        ],
    )


def _row(contest: Contest, figure: Figure) -> list[str]:
    if figure.seconds is None or figure.images_per_second is None:
        return [figure.competitor, "", "", "", "", "", "", figure.problem or ""]
    each = [
        f"{1e3 * value / contest.photos:.2f}"
        for value in (figure.seconds.median, figure.seconds.p90, figure.seconds.p99)
    ]
    wrong = "WRONG: other best classes than the reference. " if figure.wrong else ""
    return [
        figure.competitor,
        f"{figure.images_per_second:.1f}",
        *each,
        "baseline" if figure.competitor == contest.baseline else _interval(figure.ratio),
        "" if figure.agreement is None else f"{figure.agreement:.1%}",
        f"{wrong}{figure.note}",
    ]


def _interval(ratio: Interval | None) -> str:
    return "" if ratio is None else f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
