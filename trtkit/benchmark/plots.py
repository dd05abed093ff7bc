"""The picture of a bench report: images per second of every competitor, contest by contest."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trtkit.benchmark.results import Contest, Figure
from trtkit.benchmark.statistics import Interval
from trtkit.errors import TrtkitError, listed
from trtkit.plotting import check_picture, drawable, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

# From this greatest over the least on, bars from zero would hide the short ones.
LOG_FROM: Final = 20.0

# Hatches on light tones, so that both are visible; together they tell 18 competitors apart in grey. Dots
# would take 400 KB of an SVG.
_LOOKS: Final = tuple(
    product(("", "////", "++++", "xxxx", "----", "\\\\\\\\"), ("0.9", "0.7", "0.5"))
)
_WRONG: Final = ("", "1.0")

# Inches.
_WIDTH, _BAR_HEIGHT, _PANEL_HEIGHT = 9.0, 0.27, 1.05
_DPI: Final = 150
# Agg draws no picture with more pixels on a side than fit into 16 bits.
_MOST_PIXELS: Final = 60_000
_LABEL_LENGTH: Final = 48


@dataclass(frozen=True)
class Panel:
    """Contests of one model and one measure, which differ in their batches."""

    bundle: str
    tail: str
    measure: str
    contests: tuple[Contest, ...]

    @property
    def title(self) -> str:
        return f"{self.bundle}, {self.tail}: {self.measure}"

    @property
    def bars(self) -> list[Figure]:
        """The figures of all competitors that were measured."""
        return [figure for contest in self.contests for figure in contest.measured]

    @property
    def height(self) -> float:
        """In inches: of its bars, the name of each batch above them, and what is around."""
        return _PANEL_HEIGHT + _BAR_HEIGHT * (len(self.bars) + len(self.contests))


def panels(contests: Sequence[Contest]) -> tuple[Panel, ...]:
    """Contests by bundle, tail and measure, in their order."""
    groups: dict[tuple[str, str, str], list[Contest]] = {}
    for contest in contests:
        groups.setdefault((contest.bundle, contest.tail, contest.measure), []).append(contest)
    return tuple(Panel(*key, tuple(group)) for key, group in groups.items())


def draw_bench(contests: Sequence[Contest], path: Path) -> None:
    """Draw all contests of a report to `path`.

    A panel for each bundle, tail and measure, in it the batches, in each the competitors: a bar of
    images/s (the median round) with a line from p10 to p90 of the rounds and the ratio to the baseline.
    The scale is logarithmic where the greatest is more than 20 times the least. A competitor with other
    best classes than the reference has a dashed white bar and the word WRONG; one that was not measured
    is named below. The file is a PNG, PDF or SVG by its ending and appears whole.

    Raises TrtkitError when nothing was measured, matplotlib is missing or the file cannot be written.
    """
    save_figure(_drawn(contests), path)


def bench_svg(contests: Sequence[Contest]) -> str:
    """The picture of `draw_bench` as an `<svg>` element to put into a page of HTML.

    Its text is text, in the reader's own sans-serif. It refers to nothing outside. Raises TrtkitError
    when nothing was measured or matplotlib is missing.
    """
    check_picture(Path("bench.svg"))
    from matplotlib import rc_context

    # The names of its parts are hashed with the salt: two pictures of a page must not share them, and
    # one that is drawn again has to be the same.
    salt = "|".join(panel.title for panel in panels(contests))
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": salt}
    settings["font.sans-serif"] = ["DejaVu Sans"]
    buffer = io.StringIO()
    with warnings.catch_warnings(), rc_context(settings):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        _drawn(contests).savefig(buffer, format="svg")
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


def _drawn(contests: Sequence[Contest]) -> Picture:
    drawable_panels = [panel for panel in panels(contests) if panel.bars]
    if not drawable_panels:
        raise TrtkitError(
            "Nothing can be drawn: none of the report's competitors was measured; their problems are in "
            "the report."
        )
    names = dict.fromkeys(bar.competitor for panel in drawable_panels for bar in panel.bars)
    looks = {name: _LOOKS[number % len(_LOOKS)] for number, name in enumerate(names)}
    heights = [panel.height for panel in drawable_panels]
    picture = new_figure(_WIDTH, sum(heights), dpi=min(_DPI, _MOST_PIXELS / sum(heights)))
    grid = picture.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], drawable_panels, strict=True):
        _draw_panel(axes, panel, looks)
    return picture


def _draw_panel(axes: Axes, panel: Panel, looks: Mapping[str, tuple[str, str]]) -> None:
    """`looks`: hatch and tone of every competitor, the same in all panels."""
    labels: dict[int, str] = {}
    row = 0
    for contest in panel.contests:
        axes.text(
            0, row, f" batch {contest.batch}", transform=axes.get_yaxis_transform(), va="center",
            fontsize=9, fontweight="bold",
        )  # fmt: skip
        for figure in contest.measured:
            row += 1
            labels[row] = drawable(figure.competitor, _LABEL_LENGTH)
            _draw_bar(axes, row, contest, figure, looks[figure.competitor])
        row += 1
    axes.set_yticks([*labels], labels=[*labels.values()], fontsize=9, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(row - 0.4, -0.6)
    axes.set_title(drawable(panel.title, 2 * _LABEL_LENGTH), fontsize=10, parse_math=False)
    scale = _scale(axes, [figure.rates for figure in panel.bars])
    label = f"images/s{scale}; lines from p10 to p90 of the rounds"
    absent = _absent(panel)
    if absent:
        label += f"\nnot measured: {drawable(', '.join(absent), 2 * _LABEL_LENGTH)}"
    axes.set_xlabel(label, fontsize=9, parse_math=False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_bar(
    axes: Axes, row: int, contest: Contest, figure: Figure, look: tuple[str, str]
) -> None:
    rates = figure.rates
    hatch, tone = _WRONG if figure.wrong else look
    axes.barh(
        row, rates.median, height=0.74, color=tone, hatch=hatch, edgecolor="black", linewidth=0.8,
        linestyle="--" if figure.wrong else "-",
    )  # fmt: skip
    axes.errorbar(
        rates.median, row, xerr=[[rates.median - rates.low], [rates.high - rates.median]],
        color="black", capsize=3, linewidth=1.2,
    )  # fmt: skip
    text = f"{rates.median:.4g}"
    if figure.competitor == contest.baseline:
        text += " (baseline)"
    elif figure.ratio is not None:
        text += f" ({figure.ratio.median:.2f}x)"
    axes.annotate(
        f"WRONG: {text}" if figure.wrong else text, (rates.high, row), xytext=(6, 0),
        textcoords="offset points", va="center", fontsize=8,
    )  # fmt: skip


def _scale(axes: Axes, rates: Sequence[Interval]) -> str:
    """Scale the axis of images/s, with room for the figures at the bars' ends; returns its description."""
    from matplotlib.ticker import StrMethodFormatter

    medians = [rate.median for rate in rates]
    greatest = max(rate.high for rate in rates)
    if max(medians) / min(medians) <= LOG_FROM:
        axes.set_xlim(0, greatest * 1.35)
        return ""
    axes.set_xscale("log")
    # 1000, which is read faster than a power of ten.
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left = min(rate.low for rate in rates) / 2
    axes.set_xlim(left, greatest * (greatest / left) ** 0.35)
    return ", logarithmic scale"


def _absent(panel: Panel) -> list[str]:
    """Competitors that were not measured, with the batches unless it was all of them."""
    batches: dict[str, list[int]] = {}
    for contest in panel.contests:
        for figure in contest.figures:
            if not figure.measured:
                batches.setdefault(figure.competitor, []).append(contest.batch)
    return [
        name if len(missed) == len(panel.contests) else f"{name} (batch {listed(map(str, missed))})"
        for name, missed in batches.items()
    ]
