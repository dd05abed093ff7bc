"""The results of a training: metrics.json, the learning curves and the confusion matrix."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trtkit.evaluation.metrics import Scores
from trtkit.evaluation.plots import draw_confusion
from trtkit.plotting import new_figure, save_figure
from trtkit.serialization import to_plain, write_json
from trtkit.training.network import TrainedNetwork
from trtkit.training.run import METRICS, Run
from trtkit.training.state import Epoch, best_of

CURVES = "curves.png"
CONFUSION = "confusion.png"


def write_results(
    run: Run,
    network: TrainedNetwork,
    scores: Scores,
    loss: float,
    epochs: Sequence[Epoch],
    **more: Any,
) -> dict[str, Any]:
    """Write the pictures and then metrics.json, with `more` entries; returns its content.

    Without epochs there are no curves. Raises TrtkitError when a file cannot be written.
    """
    classes = run.record["dataset"]["classes"]
    best = best_of(epochs)
    if best is not None:
        draw_curves(epochs, best, run.folder / CURVES, run.name)
    draw_confusion(scores.confusion, classes, run.folder / CONFUSION, f"{run.name}: validation")
    metrics = {
        "finished": True,
        **run.record,
        "machine": describe_machine(network),
        "epochs": to_plain(epochs),
        "stopped_early": bool(epochs) and len(epochs) < run.options.epochs,
        **more,
        "best_epoch": best.epoch if best is not None else None,
        "top1": scores.top1,
        "top5": scores.top5,
        "loss": loss,
        "classes": to_plain(scores.by_class(classes)),
        "confusion": scores.confusion.tolist(),
    }
    write_json(run.folder / METRICS, metrics)
    return metrics


def draw_curves(epochs: Sequence[Epoch], best: Epoch, path: Path, title: str) -> None:
    """Write a PNG with both curves, told apart without colour, `best` marked. Raises TrtkitError."""
    figure = new_figure(9, 3.8, dpi=120)
    from matplotlib.ticker import MaxNLocator

    numbers = [epoch.epoch for epoch in epochs]
    for axes, name, train, val, at_best in (
        (figure.add_subplot(1, 2, 1), "loss", [e.train_loss for e in epochs],
         [e.val_loss for e in epochs], best.val_loss),
        (figure.add_subplot(1, 2, 2), "top-1 (%)", [100 * e.train_top1 for e in epochs],
         [100 * e.val_top1 for e in epochs], 100 * best.val_top1),
    ):  # fmt: skip
        axes.plot(numbers, train, color="0.55", linestyle="--", marker=".", label="train")
        axes.plot(numbers, val, color="black", marker=".", label="validation")
        axes.plot([best.epoch], [at_best], "o", color="black", fillstyle="none", markersize=11,
                  label=f"best: epoch {best.epoch}")  # fmt: skip
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.9")
        axes.legend()
    figure.suptitle(title)
    save_figure(figure, path)


def describe_machine(network: TrainedNetwork) -> dict[str, Any]:
    """The entry `machine` of metrics.json."""
    device = network.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "gpu": gpu,
        "mixed_precision": network.mixed,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
