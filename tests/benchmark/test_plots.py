"""The picture of a bench report: its bars, their lengths and looks, and what is not a bar."""

from __future__ import annotations

import errno
import itertools
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.bench_reports import OWN, contest, figure, report, typed, usual
from trtkit import TrtkitError
from trtkit.benchmark import plots


def draw_bench(made: dict[str, Any], path: Path) -> None:
    plots.draw_bench(typed(made).contests, path)


def bench_svg(made: dict[str, Any]) -> str:
    return plots.bench_svg(typed(made).contests)


def drawn(path: Path, made: dict[str, Any]) -> np.ndarray:
    """The picture's pixels, uint8 H x W, in grey."""
    draw_bench(made, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("L"))


def axes_of(made: dict[str, Any]):
    return plots._drawn(typed(made).contests).axes


def bars(axes) -> dict[str, list[float]]:
    """The lengths of the bars by the label beside them, top to bottom."""
    found: dict[str, list[float]] = {}
    by_place = dict(zip(axes.get_yticks(), axes.get_yticklabels(), strict=True))
    for bar in axes.patches:
        label = by_place[round(bar.get_y() + bar.get_height() / 2)].get_text()
        found.setdefault(label, []).append(bar.get_width())
    return found


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_a_panel_for_each_kind_of_figure_and_a_bar_for_each_figure():
    compute, whole = axes_of(usual())
    assert [compute.get_title(), whole.get_title()] == [
        "flowers, resnet50: compute", "flowers, resnet50: end to end",
    ]  # fmt: skip
    assert bars(compute) == {"torch": [201, 208], OWN: [301, 308]}
    assert bars(whole) == {
        "torch": [201, 208], f"{OWN}, cache off": [251, 258], f"{OWN}, cache warm": [9001, 9008],
    }  # fmt: skip
    said = texts(compute)
    assert said == [
        " batch 1", "201 (baseline)", "301 (1.50x)", " batch 8", "208 (baseline)", "308 (1.50x)",
    ]  # fmt: skip


def test_what_was_not_measured_is_no_bar_and_is_named():
    for axes in axes_of(usual()):
        assert "openvino" not in bars(axes)
        assert axes.get_xlabel().endswith("\nnot measured: openvino")
    (axes,) = axes_of(report(contest(figure("torch", 10.0))))
    assert "not measured" not in axes.get_xlabel()
    # One that failed with the larger batch alone.
    (axes,) = axes_of(
        report(contest(figure("torch", 9.0)), contest(figure("torch"), figure(OWN, 9.0), batch=64))
    )
    assert axes.get_xlabel().endswith("\nnot measured: torch (batch 64)")


def test_one_that_is_wrong_is_marked_and_looks_like_no_other():
    _, whole = axes_of(usual())
    wrong, right = [bar for bar in whole.patches if bar.get_width() > 9000]
    assert (wrong.get_linestyle(), wrong.get_hatch() or "") == ("--", "")
    assert wrong.get_facecolor()[:3] == (1, 1, 1) and right.get_linestyle() == "-"
    assert [text for text in texts(whole) if "WRONG" in text] == ["WRONG: 9001 (45.00x)"]


def test_the_scale_is_logarithmic_from_twenty_times_on():
    compute, whole = axes_of(usual())
    assert (compute.get_xscale(), whole.get_xscale()) == ("linear", "log")
    assert "logarithmic" in whole.get_xlabel() and "logarithmic" not in compute.get_xlabel()
    assert "1000" in [label.get_text() for label in whole.get_xticklabels()]
    # Bars have to begin at zero, which a logarithmic scale has not.
    assert compute.get_xlim()[0] == 0 and 0 < whole.get_xlim()[0] < 201
    for greatest, scale in ((200.0, "linear"), (201.0, "log")):
        made = report(contest(figure("torch", 10.0), figure(OWN, greatest, 1.0)))
        assert axes_of(made)[0].get_xscale() == scale


def test_a_line_reaches_from_p10_to_p90():
    torch = figure("torch", 100.0, spread=0.2)
    torch["seconds"]["p90"] = 2 * torch["seconds"]["median"]
    made = report(contest(torch))
    rates = typed(made).contests[0].figures[0].rates
    assert (rates.low, rates.median, rates.high) == pytest.approx((50, 100, 120))
    (axes,) = axes_of(made)
    (ends,) = [c for c in axes.collections if c.get_segments()]
    assert ends.get_segments()[0][:, 0] == pytest.approx([50, 120])


def test_bars_are_told_apart_in_grey():
    """By tone and hatch in pairs, whatever the colours of the screen or printer."""
    made = report(contest(*(figure(f"competitor {n}", 100.0) for n in range(18))))
    (axes,) = axes_of(made)
    looks = [(bar.get_hatch() or "", bar.get_facecolor()) for bar in axes.patches]
    assert len(set(looks)) == 18
    for _, colour in looks:
        assert colour[0] == colour[1] == colour[2]
    tones = sorted({colour[0] for _, colour in looks})
    assert all(b - a > 0.15 for a, b in itertools.pairwise(tones))


def test_two_bars_of_one_length_differ_in_the_pixels(tmp_path):
    pixels = drawn(
        tmp_path / "bars.png",
        report(contest(*(figure(name, 100.0) for name in ("a", "b", "c", "d", "e", "f")))),
    )
    (axes,) = axes_of(
        report(contest(*(figure(name, 100.0) for name in ("a", "b", "c", "d", "e", "f"))))
    )
    # A column through the bars' left part: the mean tone of each, and how much it varies.
    axes.figure.canvas.draw()
    seen = []
    for bar in axes.patches:
        box = bar.get_window_extent()
        top, bottom = pixels.shape[0] - box.y1 + 4, pixels.shape[0] - box.y0 - 4
        part = pixels[int(top) : int(bottom), int(box.x0) + 60 : int(box.x0) + 260]
        seen.append((float(part.mean()), float(part.std())))
    for (mean, deviation), (other, varied) in itertools.combinations(seen, 2):
        assert abs(mean - other) > 8 or abs(deviation - varied) > 8


def test_a_competitor_looks_the_same_in_all_panels():
    compute, whole = axes_of(usual())
    for axes in (compute, whole):
        first = next(bar for bar in axes.patches if bar.get_width() == 201)
        assert first.get_facecolor()[0] == 0.9


def test_a_picture_is_there_and_grows_with_its_bars(tmp_path):
    few = drawn(tmp_path / "few.png", report(contest(figure("torch", 10.0))))
    many = drawn(tmp_path / "many.png", usual())
    assert few.shape[1] == many.shape[1] == 1350 and many.shape[0] > 3 * few.shape[0]
    for pixels in (few, many):
        assert (pixels == 255).mean() > 0.4 and (pixels < 100).mean() > 0.005


def test_a_hundred_panels_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_MOST_PIXELS", 2000)
    made = report(*(contest(figure("torch", 10.0), tail=f"m{n}") for n in range(12)))
    assert drawn(tmp_path / "many.png", made).shape[0] <= 2000


def test_names_that_are_no_plain_text(tmp_path):
    names = ["$x_$", "a\nb", "\udcff", "猫", "x" * 300]
    made = report(contest(*(figure(n, 9.0) for n in names), figure("$y"), tail="$t^"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(tmp_path / "names.png", made)
        assert "$x_$" in bench_svg(made)


@pytest.mark.parametrize("ending", ["pdf", "svg", "PNG"])
def test_the_ending_says_the_format(tmp_path, ending):
    path = tmp_path / "new" / f"bench.{ending}"
    draw_bench(usual(), path)
    start = {"pdf": b"%PDF", "svg": b"<?xml", "PNG": b"\x89PNG"}[ending]
    assert path.read_bytes().startswith(start)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    with pytest.raises(TrtkitError, match=r"bench\.bmp; give a name that ends in \.png"):
        draw_bench(usual(), tmp_path / "bench.bmp")


def test_an_svg_for_a_page_holds_all_and_refers_to_nothing():
    svg = bench_svg(usual())
    assert svg.startswith("<svg ") and svg.endswith("</svg>")
    assert "http" not in svg and "<script" not in svg and "<!" not in svg
    for text in (OWN, "201 (baseline)", "WRONG: 9001 (45.00x)", "not measured: openvino"):
        assert f">{text}<" in svg
    # Figures keep their digits, and 80 bars take little.
    exact = bench_svg(report(contest(figure("torch", 0.01234, 1.0), figure("x 0.12345", 9.0))))
    assert ">0.01234" in exact and ">x 0.12345<" in exact
    many = [contest(*(figure(f"c{n}", 9.0 + n) for n in range(20)), batch=b) for b in range(1, 5)]
    assert len(bench_svg(report(*many))) < 120_000
    # It is the same when drawn again, and every name it uses is its own.
    assert bench_svg(usual()) == svg
    names = re.findall(r'\sid="([^"]+)"', svg)
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', svg)
    assert set(used) <= set(names) and len(names) == len(set(names))
    other = bench_svg(report(contest(figure("torch", 10.0), tail="other")))
    assert not set(names) & set(re.findall(r'\sid="([^"]+)"', other))


def test_nothing_measured_is_nothing_to_draw(tmp_path):
    for made in (report(), report(contest(figure("torch")))):
        with pytest.raises(TrtkitError, match="none of the report's competitors was measured"):
            draw_bench(made, tmp_path / "bench.png")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_the_old_picture(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = tmp_path / "bench.png"
    path.write_bytes(b"the old one")

    def full(self, target, **options):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(TrtkitError, match=r"bench\.png cannot be written \(No space left"):
        draw_bench(usual(), path)
    assert path.read_bytes() == b"the old one"
    assert [each.name for each in tmp_path.iterdir()] == ["bench.png"]


def test_nothing_of_pyplot_is_kept_or_needed(tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    drawn(tmp_path / "bench.png", usual())
    assert ("matplotlib.pyplot" in sys.modules) == loaded
