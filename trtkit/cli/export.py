"""trtkit export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trtkit.cli.options import JsonOption, WorkspaceOption
from trtkit.cli.output import note, print_json, print_rows
from trtkit.errors import TrtkitError
from trtkit.sizes import human_bytes


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An architecture (resnet50, vgg16_bn, ...), a checkpoint (.safetensors, .pth, .ckpt, ...) "
            "or any classifier as .onnx.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the export. Default: the model's.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|random|FILE", help="Weights of an architecture. Default: imagenet."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    classes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file with one label a line, in output order."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels of the square input. Default: 224, or the .onnx file's."),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="What is subtracted from photos, in 0 to 1.")
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="What photos are divided by then, in 0 to 1."),
    ] = None,
    scores: Annotated[
        Literal["softmax", "sigmoid", "none"] | None,
        typer.Option(
            help="How outputs become scores: one class of several, independent labels, or as they are. "
            "Default: by the end of the graph, else softmax."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The output of a .onnx file with the scores, if it has several."
        ),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW|none",
            help="Photos: their shorter side to N pixels, squashed to HxW, or as they are. Default: the "
            "checkpoint's, or 256/224 of the input.",
        ),
    ] = None,
    crop: Annotated[
        Literal["center", "none"] | None,
        typer.Option(help="Take their centre, or all. Default: center."),
    ] = None,
    channels: Annotated[
        Literal["rgb", "bgr", "gray"] | None,
        typer.Option(help="The order of their channels. Default: rgb."),
    ] = None,
    resampling: Annotated[
        Literal["bilinear", "bicubic", "fast"] | None,
        typer.Option(
            help="bilinear, bicubic: as torchvision and Pillow; fast: close to bilinear. Default: the "
            "checkpoint's, or bilinear."
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Write export/NAME.onnx, after comparing it with the model it came from.

    The file takes uint8 photos, normalises them itself, and knows its blocks, classes and how
    photos are resized.
    """
    from trtkit.api import export as api

    report = api.export(
        model,
        name=name,
        weights=weights,
        seed=seed,
        classes=classes,
        image_size=image_size,
        mean=_channels("--mean", mean),
        std=_channels("--std", std),
        scores=scores,
        output=output,
        resize=resize,
        crop=crop,
        channels=channels,
        resampling=resampling,
        workspace=workspace,
    )
    if report.weights.startswith("random"):
        note("The weights are random: the predictions of this model mean nothing.")
    note(
        f"Photos: {report.photos}; --resize, --crop, --channels and --resampling change that, if the model "
        "was trained on others."
    )
    for sentence in report.notes:
        note(sentence)
    if json:
        print_json(report)
        return
    row = {
        "export": report.path,
        "weights": report.weights,
        "classes": report.classes,
        "blocks": report.blocks or "any",
        "image": report.image,
        "opset": report.opset,
        "size": human_bytes(report.bytes),
        "error": f"{report.verified.relative_error:.1e}",
        "compared on": report.images,
    }
    print_rows([row])


def _channels(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise TrtkitError(
            f"{option} {text} is not one number for each channel; write three with commas, such as "
            "0.485,0.456,0.406, or one for grey images."
        )
    return values
