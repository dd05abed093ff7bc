"""The picture of a training: loss and top-1 against epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtkit.plotting import new_figure, save_figure
from trtkit.training.progress import Epoch


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
