"""The picture of a bench report: images per second of every competitor, contest by contest."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trtkit.benchmark.saved import SavedReport, measured, spread, wrong
from trtkit.errors import TrtkitError, listed
from trtkit.plotting import check_picture, drawable, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From this greatest over the least on, bars from zero would hide the short ones.
LOG_FROM: Final = 20.0

# Hatches on light tones, so that both are seen; together they tell 18 competitors apart in grey. Dots
# would take 400 KB of an SVG.
_LOOKS: Final = tuple(
    product(("", "////", "++++", "xxxx", "----", "\\\\\\\\"), ("0.9", "0.7", "0.5"))
)
_WRONG: Final = ("", "1.0")

# Inches.
_WIDTH, _EACH_BAR, _EACH_PANEL = 9.0, 0.27, 1.05
_DPI: Final = 150
# Agg draws no picture with more pixels on a side than fit into 16 bits.
_MOST_PIXELS: Final = 60_000
_LABEL_LENGTH: Final = 48


@dataclass(frozen=True)
class Panel:
    """Contests of one model and one kind of figure, which differ in their batches."""

    bundle: str
    tail: str
    measure: str
    contests: tuple[dict[str, Any], ...]

    @property
    def title(self) -> str:
        return f"{self.bundle}, {self.tail}: {self.measure}"

    @property
    def bars(self) -> int:
        return sum(measured(figure) for c in self.contests for figure in c["figures"])


def panels(report: SavedReport) -> tuple[Panel, ...]:
    """The contests of a report by bundle, tail and measure, in the report's order."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for contest in report["contests"]:
        key = (contest["bundle"], contest["tail"], contest["measure"])
        groups.setdefault(key, []).append(contest)
    return tuple(Panel(*key, tuple(contests)) for key, contests in groups.items())


def draw_bench(report: SavedReport, path: Path) -> None:
    """Draw all contests of a report, in its JSON form, to `path`.

    A panel for each bundle, tail and measure, in it the batches, in each the competitors: a bar of
    images/s (the median round) with a line from p10 to p90 of the rounds and the ratio to the baseline.
    The scale is logarithmic where the greatest is more than 20 times the least. A competitor with other
    best classes than the reference has a dashed white bar and the word WRONG; one that was not measured
    is named below. The file is a PNG, PDF or SVG by its ending and appears whole.

    Raises TrtkitError when nothing was measured, matplotlib is missing or the file cannot be written.
    """
    save_figure(_drawn(report), path)


def bench_svg(report: SavedReport) -> str:
    """The picture of `draw_bench` as an `<svg>` element to put into a page of HTML.

    Its text is text, in the reader's own sans-serif. It refers to nothing outside. Raises TrtkitError
    when nothing was measured or matplotlib is missing.
    """
    check_picture(Path("bench.svg"))
    from matplotlib import rc_context

    # The names of its parts are hashed with the salt: two pictures of a page must not share them, and
    # one that is drawn again has to be the same.
    salt = "|".join(panel.title for panel in panels(report))
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": salt}
    settings["font.sans-serif"] = ["DejaVu Sans"]
    buffer = io.StringIO()
    with warnings.catch_warnings(), rc_context(settings):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        _drawn(report).savefig(buffer, format="svg")
    drawn = buffer.getvalue()
    element = drawn[drawn.index("<svg") :]
    # HTML knows what an svg is; its namespaces and its origin would be the page's only addresses. The
    # names of its groups, to which nothing refers, are the same in every picture.
    element = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", element, flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    element = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", element)
    # A hundredth of a point is not seen; what stands between tags is text.
    element = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), element)
    return re.sub(r"\s+", " ", element).strip()


def _drawn(report: SavedReport) -> Figure:
    shown = [panel for panel in panels(report) if panel.bars]
    if not shown:
        raise TrtkitError(
            "Nothing can be drawn: none of the report's competitors was measured; their problems are in "
            "the report."
        )
    heights = [_EACH_PANEL + _EACH_BAR * _rows(panel) for panel in shown]
    figure = new_figure(_WIDTH, sum(heights), dpi=min(_DPI, _MOST_PIXELS / sum(heights)))
    looks = _looks(shown)
    grid = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], shown, strict=True):
        _draw_panel(axes, panel, looks)
    return figure


def _rows(panel: Panel) -> int:
    """Lines of a panel: its bars, and the name of each batch above them."""
    return panel.bars + len(panel.contests)


def _looks(shown: Sequence[Panel]) -> dict[str, tuple[str, str]]:
    """Hatch and tone of every competitor, the same in all panels."""
    names = dict.fromkeys(
        figure["competitor"]
        for panel in shown
        for contest in panel.contests
        for figure in contest["figures"]
        if measured(figure)
    )
    return {name: _LOOKS[number % len(_LOOKS)] for number, name in enumerate(names)}


def _draw_panel(axes: Axes, panel: Panel, looks: dict[str, tuple[str, str]]) -> None:
    places: list[int] = []
    labels: list[str] = []
    row = 0
    for contest in panel.contests:
        axes.text(
            0, row, f" batch {contest['batch']}", transform=axes.get_yaxis_transform(), va="center",
            fontsize=9, fontweight="bold",
        )  # fmt: skip
        for figure in filter(measured, contest["figures"]):
            row += 1
            places.append(row)
            labels.append(drawable(figure["competitor"], _LABEL_LENGTH))
            _draw_bar(axes, row, contest, figure, looks[figure["competitor"]])
        row += 1
    axes.set_yticks(places, labels=labels, fontsize=9, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(row - 0.4, -0.6)
    axes.set_title(drawable(panel.title, 2 * _LABEL_LENGTH), fontsize=10, parse_math=False)
    _scale(axes, panel)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_bar(
    axes: Axes, row: int, contest: dict[str, Any], figure: dict[str, Any], look: tuple[str, str]
) -> None:
    rate = figure["images_per_second"]
    low, high = spread(figure)
    hatch, tone = _WRONG if wrong(figure) else look
    axes.barh(
        row, rate, height=0.74, color=tone, hatch=hatch, edgecolor="black", linewidth=0.8,
        linestyle="--" if wrong(figure) else "-",
    )  # fmt: skip
    axes.errorbar(
        rate, row, xerr=[[max(0.0, rate - low)], [max(0.0, high - rate)]], color="black", capsize=3,
        linewidth=1.2,
    )  # fmt: skip
    axes.annotate(
        _value(contest, figure), (max(rate, high), row), xytext=(6, 0), textcoords="offset points",
        va="center", fontsize=8,
    )  # fmt: skip


def _value(contest: dict[str, Any], figure: dict[str, Any]) -> str:
    text = f"{figure['images_per_second']:.4g}"
    ratio = figure.get("ratio")
    if figure["competitor"] == contest["baseline"]:
        text += " (baseline)"
    elif ratio is not None:
        text += f" ({ratio['median']:.2f}x)"
    return f"WRONG: {text}" if wrong(figure) else text


def _scale(axes: Axes, panel: Panel) -> None:
    """The axis of images/s, with room for the figures at the bars' ends, and who is not on it."""
    from matplotlib.ticker import StrMethodFormatter

    bars = [figure for c in panel.contests for figure in c["figures"] if measured(figure)]
    rates = [figure["images_per_second"] for figure in bars]
    ends = [max(figure["images_per_second"], spread(figure)[1]) for figure in bars]
    least, greatest = min(rates), max(ends)
    label = "images/s"
    if max(rates) / least > LOG_FROM:
        axes.set_xscale("log")
        # 1000, which is read faster than a power of ten.
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        left = min(spread(figure)[0] for figure in bars) / 2
        axes.set_xlim(left, greatest * (greatest / left) ** 0.35)
        label += ", logarithmic scale"
    else:
        axes.set_xlim(0, greatest * 1.35)
    label += "; lines from p10 to p90 of the rounds"
    absent = _absent(panel)
    if absent:
        label += f"\nnot measured: {drawable(', '.join(absent), 2 * _LABEL_LENGTH)}"
    axes.set_xlabel(label, fontsize=9, parse_math=False)


def _absent(panel: Panel) -> list[str]:
    """Who was not measured, with the batches where it is not so in all of them."""
    batches: dict[str, list[int]] = {}
    for contest in panel.contests:
        for figure in contest["figures"]:
            if not measured(figure):
                batches.setdefault(figure["competitor"], []).append(contest["batch"])
    return [
        name if len(missed) == len(panel.contests) else f"{name} (batch {listed(map(str, missed))})"
        for name, missed in batches.items()
    ]
