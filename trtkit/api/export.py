"""`trtkit export`: a checkpoint, an architecture or a foreign ONNX file becomes export/NAME.onnx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtkit.building.exporting import ExportReport, ExportSettings, export_model
from trtkit.preprocessing import Channels, Crop, PhotoOptions, Resampling
from trtkit.scores import Scoring
from trtkit.workspace import Workspace


def export(
    model: str | Path,
    *,
    name: str | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    classes: str | Path | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scores: Scoring | None = None,
    output: str | None = None,
    resize: int | str | tuple[int, int] | None = None,
    crop: Crop | None = None,
    channels: Channels | None = None,
    resampling: Resampling | None = None,
    workspace: str | Path | None = None,
) -> ExportReport:
    """Export `model` to `export/NAME.onnx`, compare the file with its origin, keep it if they agree.

    `model`: an architecture's name (with `weights` `imagenet`, the default, `random` and its `seed`,
    or a file), a checkpoint or the folder of a training, or any `.onnx` classifier, NCHW or NHWC, of
    floats, which `mean` and `std` (in 0 to 1, ImageNet's by default) describe, or of pixels. `output`: the
    one with the scores, of a `.onnx` file with several. `classes`: a text file with a label a line.
    `scores`: how outputs become scores, `softmax`, `sigmoid` (independent labels) or `none` (they are
    scores already); by default what the graph ends in says it, else `softmax`.
    `image_size`: pixels of the square input; 224 by default for an architecture, the graph's own for
    a foreign file.

    How photos become that input, as the model's author did it: `resize` their shorter side to N pixels,
    squash them to `(height, width)` or `"HxW"`, or `"none"`; `crop` the `"center"` (the default) or
    `"none"`; `channels` `"rgb"`, `"bgr"` or `"gray"`; `resampling` `"bilinear"` or `"bicubic"`, as
    torchvision and Pillow, or `"fast"`. By default as the checkpoint says, else 256/224 of the input's
    size and its centre, bilinear, in RGB. `report.photos` says what was chosen. Raises TrtkitError.

        report = trtkit.export("resnet50", weights="random", image_size=64, resize=(64, 64))
        report.path  # export/resnet50.onnx
        report.photos  # squashed to 64 x 64, RGB, bilinear
    """
    photos = PhotoOptions(resize, crop, channels, resampling)
    settings = ExportSettings(
        name, weights, seed, classes, image_size, mean, std, scores, output, photos
    )
    return export_model(Workspace.at(workspace), model, settings)
