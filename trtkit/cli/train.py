"""trtkit train."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trtkit.cli.options import JsonOption, WorkersOption, WorkspaceOption
from trtkit.cli.output import note, print_json, print_rows
from trtkit.cli.progress import terminal_reporter

if TYPE_CHECKING:
    from trtkit.training.session import TrainReport


def train(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="A folder of class folders, or of train/ and val/ with those."
        ),
    ],
    arch: Annotated[
        str | None, typer.Option(help="The architecture: resnet50, vgg16_bn, ...")
    ] = None,
    mode: Annotated[
        Literal["finetune", "freeze", "bottleneck"] | None,
        typer.Option(
            help="Train everything, the head alone, or fit a logistic regression on the penultimate "
            "features. Default: finetune."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the training. Default: the architecture's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training of that name.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|random|FILE", help="Weights to begin with. Default: imagenet."
        ),
    ] = None,
    prefix_from: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT", help="Take blocks 1 to --cut from it, and leave them as they are."
        ),
    ] = None,
    cut: Annotated[int | None, typer.Option(metavar="N", help="The last block taken.")] = None,
    augment: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Augmented views to keep of each photo, behind frozen blocks. Default: 0.",
        ),
    ] = None,
    no_feature_store: Annotated[
        bool,
        typer.Option(
            "--no-feature-store",
            help="Run the frozen blocks in every epoch; augment anew each time.",
        ),
    ] = False,
    image_size: Annotated[
        int | None, typer.Option(help="Pixels of the square input. Default: the weights', or 224.")
    ] = None,
    resampling: Annotated[
        Literal["bilinear", "bicubic", "fast"] | None,
        typer.Option(help="How photos are resized. Default: the weights', or bilinear."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: 20.")] = None,
    batch: Annotated[int | None, typer.Option(help="Photos a step. Default: 32.")] = None,
    optimizer: Annotated[Literal["sgd", "adamw"] | None, typer.Option(help="Default: sgd.")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate. Default: 0.01, adamw 0.0003.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Default: 0.0001.")] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Epochs in which the learning rate rises. Default: 1.")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="0 to below 1. Default: 0.")] = None,
    class_weights: Annotated[
        Literal["none", "balanced"] | None,
        typer.Option(help="Balanced: rare classes count more in the loss. Default: none."),
    ] = None,
    augmentation: Annotated[
        Literal["none", "light", "standard", "strong"] | None,
        typer.Option(help="How photos are varied. Default: standard."),
    ] = None,
    no_flip: Annotated[
        bool, typer.Option("--no-flip", help="Never mirror: for digits, text, left and right.")
    ] = False,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better top-1.")
    ] = None,
    regularization: Annotated[
        float | None, typer.Option(help="C of the logistic regression. Default: 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random. Default: 0.")] = None,
    split_seed: Annotated[int | None, typer.Option(help="Of the 4:1 split. Default: 0.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    no_amp: Annotated[bool, typer.Option("--no-amp", help="No mixed precision on a GPU.")] = False,
    workers: WorkersOption = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where outputs of frozen blocks are kept. Default: the user's cache.",
        ),
    ] = None,
    cache_size: Annotated[str, typer.Option(help="Disk space for them.")] = "20G",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Train a classifier on a folder of class folders, into checkpoints/NAME.

    Ctrl-C saves and says how to go on. Exits with 1 when some photos could not be read.
    """
    from trtkit.api import train as api
    from trtkit.sizes import parse_size
    from trtkit.training.options import TrainOptions

    # Parameters called like fields of TrainOptions are options of the training.
    names = {field.name for field in fields(TrainOptions)}
    options = {
        name: value for name, value in context.params.items() if name in names and value is not None
    }
    switches = {"feature_store": no_feature_store, "flip": no_flip, "amp": no_amp}
    options |= {name: False for name, off in switches.items() if off}
    try:
        with terminal_reporter():
            report = api.train(
                data,
                name=name,
                resume=resume,
                device=device,
                workers=workers,
                cache_dir=cache_dir,
                cache_size=parse_size(cache_size),
                workspace=workspace,
                **options,
            )
    except KeyboardInterrupt as error:
        if not str(error):
            raise
        note(str(error))
        raise typer.Exit(130) from error
    if report.up_to_date:
        note(f"The training {report.name} has ended already: nothing was done.")
    if json:
        print_json(report.to_json())
    else:
        _print(report)
        note(f"Next: trtkit export {report.checkpoint}")
    raise typer.Exit(1 if report.metrics["dataset"]["skipped"] else 0)


def _print(report: TrainReport) -> None:
    metrics = report.metrics
    row = {
        "training": report.name,
        "architecture": metrics["options"]["arch"],
        "mode": metrics["options"]["mode"],
        "classes": len(metrics["classes"]),
        "top-1": f"{metrics['top1']:.1%}",
        "top-5": f"{metrics['top5']:.1%}",
        "best epoch": metrics["best_epoch"] or "",
        "checkpoint": report.checkpoint,
    }
    print_rows([row])
