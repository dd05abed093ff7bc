"""`trtkit export`: a checkpoint, an architecture or a foreign ONNX file becomes export/NAME.onnx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtkit.building.exporting import ExportReport, ExportSettings, export_model
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
    a foreign file. Raises TrtkitError.

        report = trtkit.export("resnet50", weights="random", image_size=64)
        report.path  # export/resnet50.onnx
    """
    settings = ExportSettings(name, weights, seed, classes, image_size, mean, std, scores, output)
    return export_model(Workspace.at(workspace), model, settings)
