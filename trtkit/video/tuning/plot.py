"""A picture of what tune found: what a question costs against what ingest costs."""

from __future__ import annotations

from pathlib import Path

from trtkit.plotting import new_figure, save_figure
from trtkit.video.tuning.tune import Targets, Tuned


def draw_tuned(tuned: Tuned, targets: Targets, path: Path) -> None:
    """Draw to `path`, a PNG, PDF or SVG by its ending, which appears whole.

    Milliseconds of an object at ingest against milliseconds of a question; filled what meets the
    targets on the first half of the sample, with a ring what was chosen. Readable in black and white.
    Raises TrtkitError when it cannot be written.
    """
    figure = new_figure(9, 6)
    axes = figure.subplots()
    groups: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for option in tuned.options:
        meets = (
            option.first.recall >= targets.recall and option.first.precision >= targets.precision
        )
        groups[meets].append((1e3 * option.ingest_seconds, 1e3 * option.query_seconds))
    for meets, places in groups.items():
        axes.plot(
            [x for x, _ in places], [y for _, y in places], linestyle="none", marker="o", markersize=5,
            color="black", markerfacecolor="black" if meets else "none",
            label="meets the targets on the first half" if meets else "does not",
        )  # fmt: skip
    if tuned.chosen is not None:
        axes.plot(
            1e3 * tuned.chosen.ingest_seconds, 1e3 * tuned.chosen.query_seconds, linestyle="none",
            marker="o", markersize=14, markerfacecolor="none", markeredgecolor="black", label="chosen",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("ms per object at ingest")
    axes.set_ylabel("ms per question, nothing remembered")
    axes.legend(fontsize=8)
    figure.suptitle(
        f"recall {targets.recall:g}, precision {targets.precision:g}, confidence "
        f"{targets.confidence:g}, {tuned.sampled} objects"
    )
    save_figure(figure, path)
