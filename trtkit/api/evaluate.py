"""`trtkit evaluate`: scores of checkpoints and bundles on labelled photos, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trtkit.evaluation.dataset import AUTO
from trtkit.evaluation.plots import draw_confusion
from trtkit.evaluation.scoring import EvaluateReport, score_subjects
from trtkit.evaluation.subjects import open_subjects
from trtkit.names import names_of
from trtkit.plotting import check_picture
from trtkit.workspace import Workspace


def evaluate(
    data: str | Path,
    *,
    checkpoints: str | Path | Sequence[str | Path] = (),
    bundles: str | Path | Sequence[str | Path] = (),
    tails: str | Sequence[str] = (),
    part: str = AUTO,
    split_seed: int = 0,
    batch: int | None = None,
    image_size: int | None = None,
    workers: int | None = None,
    plot: str | Path | None = None,
    workspace: str | Path | None = None,
) -> EvaluateReport:
    """Score checkpoints, and then bundles, on the labelled photos of `data`.

    `data` holds class folders, or train/ and val/ with class folders; a folder's name is its class's
    label. `part`: `all`, `train`, `val`, or `auto`, which is `val` when there is such a folder, else
    `all`; without train/ and val/ those parts are the ones of training with that
    `split_seed`.

    `checkpoints`: files. `bundles`: names or folders, with all their tails or those named in `tails`;
    without either the bundle built last. `batch` images a run (32 for a checkpoint, a bundle's
    optimum by default); `image_size`, in pixels, for checkpoints in place of their own; `workers`
    decoding threads, the usable cores by default.

    Every photo is decoded once for all subjects of the same preprocessing, exactly as `infer` does
    it. Photos that cannot be read are left out and listed. `plot`: a file for a picture of the first
    subject's confusion matrix. Raises TrtkitError.

        report = trtkit.evaluate("photos", bundles=["resnet50-cut7-fp16"])
        print(report.subjects[0].top1)
    """
    picture = Path(plot) if plot is not None else None
    if picture is not None:
        check_picture(picture)
    place = Workspace.at(workspace)
    with open_subjects(
        place, names_of(checkpoints), names_of(bundles), names_of(tails), batch=batch,
        image_size=image_size,
    ) as subjects:  # fmt: skip
        report = score_subjects(subjects, Path(data), part, seed=split_seed, workers=workers)
    if picture is not None:
        first = report.subjects[0]
        title = f"{first.name}: {first.top1:.1%} of {first.images} photos"
        labels = [scores.label for scores in first.classes]
        draw_confusion(np.array(first.confusion), labels, picture, title)
    return report
