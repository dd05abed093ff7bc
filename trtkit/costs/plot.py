"""A picture of a profile: for each cut, time saved against bytes stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.costs.profile import USUAL, Profile
from trtkit.plotting import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With more cuts only the first and the last of each shape are numbered.
_LABELLED = 20
_MARKS = {USUAL: "o", "fp16 lz4": "^", "fp16 zstd": "s"}
_TONES = {USUAL: "black", "fp16 lz4": "0.45", "fp16 zstd": "0.7"}


def draw_profile(profile: Profile, chosen: int, path: Path) -> None:
    """Draw to `path`, a PNG, PDF or SVG by its ending, which appears whole.

    Above, what a hit saves of a photo's time (ms) against what its feature map takes on the disk
    (KiB), in each format of the cache, the cut `chosen` (0 for none) with a ring around it; below,
    what each block takes. Readable in black and white. Raises TrtkitError when it cannot be written.
    """
    figure = new_figure(9, 9)
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    _draw_cuts(above, profile, chosen)
    _draw_blocks(below, profile)
    title = (
        f"{profile.model}, {profile.precision} on {profile.backend}, batch {profile.batch}, "
        f"{profile.threads} threads"
    )
    figure.suptitle(title, parse_math=False)
    save_figure(figure, path)


def _draw_cuts(axes: Axes, profile: Profile, chosen: int) -> None:
    for form, mark in _MARKS.items():
        axes.plot(
            [cut.stored[form].bytes / 1024 for cut in profile.cuts],
            [1e3 * profile.saved(cut, form) for cut in profile.cuts],
            linestyle="none",
            marker=mark,
            markersize=5,
            color=_TONES[form],
            label=form,
        )
    labelled = _labelled(profile)
    for cut in profile.cuts:
        place = (cut.stored[USUAL].bytes / 1024, 1e3 * profile.saved(cut))
        if cut.cut in labelled or cut.cut == chosen:
            axes.annotate(
                str(cut.cut), place, textcoords="offset points", xytext=(7, -3), fontsize=8
            )
        if cut.cut == chosen:
            axes.plot(
                *place,
                linestyle="none",
                marker="o",
                markersize=14,
                markerfacecolor="none",
                markeredgecolor="black",
                label=f"chosen: cut {chosen}",
            )
    axes.axhline(1e3 * profile.computed, color="0.5", linestyle="--", label="all of a photo's time")
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("KiB stored per image")
    axes.set_ylabel("ms saved by a hit")
    axes.legend(fontsize=8)


def _draw_blocks(axes: Axes, profile: Profile) -> None:
    places = range(1, len(profile.blocks) + 1)
    axes.bar(places, [1e3 * block.seconds for block in profile.blocks], color="0.6", edgecolor="0")
    step = -(-len(profile.blocks) // _LABELLED)
    labelled = list(places)[::step]
    axes.set_xticks(
        labelled,
        labels=[profile.blocks[place - 1].block for place in labelled],
        rotation=90,
        fontsize=7,
        parse_math=False,
    )
    axes.set_ylabel("ms per block")


def _labelled(profile: Profile) -> set[int]:
    if len(profile.cuts) <= _LABELLED:
        return {cut.cut for cut in profile.cuts}
    ends: dict[tuple[int, ...], list[int]] = {}
    for cut in profile.cuts:
        ends.setdefault(cut.shape, [cut.cut, cut.cut])[1] = cut.cut
    return {number for pair in ends.values() for number in pair}
