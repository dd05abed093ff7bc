"""trtkit evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trtkit.cli.options import JsonOption, WorkersOption, WorkspaceOption
from trtkit.cli.output import note, print_json, print_rows
from trtkit.cli.progress import terminal_reporter

if TYPE_CHECKING:
    from trtkit.evaluation.scoring import EvaluateReport, SubjectReport


def evaluate(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Class folders, or train/ and val/ with them.")
    ],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A checkpoint to evaluate. May be repeated."),
    ] = None,
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A bundle to evaluate. May be repeated. Default: the one built last.",
        ),
    ] = None,
    tail: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Which models of the bundles. May be repeated. Default: all."
        ),
    ] = None,
    part: Annotated[
        Literal["auto", "all", "train", "val"],
        typer.Option(help="Which photos. auto: those of val/ where there is one, else all."),
    ] = "auto",
    split_seed: Annotated[
        int, typer.Option(help="Of the split into train and val, of DATA that has no val/.")
    ] = 0,
    image_size: Annotated[
        int | None, typer.Option(metavar="N", help="For checkpoints, in place of their own.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Photos per run. Default: 32 for checkpoints, each bundle's own."),
    ] = None,
    workers: WorkersOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the first one's confusion matrix there."),
    ] = None,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Score checkpoints and bundles on labelled photos: accuracy, agreement, errors, size, speed.

    The folder that a photo lies in is its class. Checkpoints come first, then the models of the
    bundles; each is compared with the checkpoint of its name, or else with the first. The speed is
    that of this run, and rough: `trtkit bench` measures it. Exits with 1 when some photos could not
    be read.
    """
    from trtkit.api import evaluate as api

    with terminal_reporter():
        report = api.evaluate(
            data,
            checkpoints=checkpoint or (),
            bundles=bundle or (),
            tails=tail or (),
            part=part,
            split_seed=split_seed,
            image_size=image_size,
            batch=batch,
            workers=workers,
            plot=plot,
            workspace=workspace,
        )
    for skipped in report.skipped:
        note(f"{skipped.path}: {skipped.reason}")
    for sentence in report.notes:
        note(sentence)
    if plot is not None and len(report.subjects) > 1:
        note(f"{plot} shows {report.subjects[0].name} alone.")
    if json:
        print_json(report.subjects)
    else:
        _print(report)
    raise typer.Exit(1 if report.skipped else 0)


def _print(report: EvaluateReport) -> None:
    """A line for each subject, and one for each class when there is a single subject."""
    print_rows([_summary(subject) for subject in report.subjects])
    if len(report.subjects) == 1:
        print_rows(
            [
                {
                    "class": scores.label,
                    "images": scores.images,
                    "precision": _share(scores.precision),
                    "recall": _share(scores.recall),
                }
                for scores in report.subjects[0].classes
            ]
        )


def _summary(subject: SubjectReport) -> dict[str, Any]:
    return {
        "name": subject.name,
        "kind": subject.kind,
        "precision": subject.precision,
        "images": subject.images,
        "top-1": _share(subject.top1),
        "top-5": _share(subject.top5),
        "agreement": _share(subject.agreement),
        "with": subject.agrees_with or "",
        "logits err": _error(subject.logits_error),
        "cut err": _error(subject.boundary_error),
        "MB": f"{subject.bytes / 1e6:.1f}",
        "images/s": _speed(subject.images_per_second),
    }


def _speed(images: float | None) -> str:
    return "-" if images is None else f"{images:.{0 if images >= 100 else 1}f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"
