"""What a training leaves for people and programs: metrics.json and the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trtkit.evaluation.metrics import Scores
from trtkit.evaluation.plots import draw_confusion
from trtkit.training.curves import draw_curves
from trtkit.training.progress import Epoch, best_of
from trtkit.training.run import METRICS, Run

CURVES = "curves.png"
CONFUSION = "confusion.png"


def write_results(
    run: Run,
    about: Mapping[str, Any],
    scores: Scores,
    loss: float,
    epochs: Sequence[Epoch],
) -> dict[str, Any]:
    """Write the pictures and then metrics.json, whose content is `about` and the scores; give it.

    There are no curves without epochs. Raises TrtkitError when they cannot be written.
    """
    classes = run.record["dataset"]["classes"]
    best = best_of(epochs)
    if best is not None:
        draw_curves(epochs, best, run.folder / CURVES, run.name)
    draw_confusion(scores.confusion, classes, run.folder / CONFUSION, f"{run.name}: validation")
    metrics = {
        **about,
        "best_epoch": best.epoch if best is not None else None,
        "top1": scores.top1,
        "top5": scores.top5,
        "loss": loss,
        "classes": [asdict(row) for row in scores.by_class(classes)],
        "confusion": scores.confusion.tolist(),
    }
    run.write_json(METRICS, metrics)
    return metrics
