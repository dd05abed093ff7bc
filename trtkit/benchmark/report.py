"""The rows of a bench report, and the report as one page of HTML that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from trtkit.atomic import whole_file
from trtkit.benchmark.plots import Panel, bench_svg, panels
from trtkit.benchmark.protocol import INTERRUPTED
from trtkit.benchmark.saved import Report, measured, wrong
from trtkit.errors import TrtkitError, listed
from trtkit.extras import Package

ENDINGS: Final = (".html", ".htm")

COLUMNS: Final = (
    "competitor", "images/s", "ms/image", "p90", "p99", "times the baseline", "same top-1", "note",
)  # fmt: skip

_STYLE: Final = """
:root { color-scheme: light dark; --line: #bbb; --faint: #f2f2f2; --bad: #a40000; }
@media (prefers-color-scheme: dark) { :root { --line: #555; --faint: #262626; --bad: #ff9a8a; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; } h3 { margin: 1.5rem 0 0.3rem; } p, dl { margin: 0.4rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: 0.2rem 0.6rem; text-align: left; }
thead th { background: var(--faint); }
td.number { text-align: right; white-space: nowrap; }
.bad { color: var(--bad); font-weight: bold; }
.wide { overflow-x: auto; }
figure { margin: 1rem 0; padding: 0.5rem; background: #fff; border: 1px solid var(--line); }
figure svg { width: 100%; height: auto; display: block; }
pre { background: var(--faint); padding: 0.6rem; overflow-x: auto; }
dt { font-weight: bold; } dd { margin: 0 0 0.4rem 1.5rem; }
"""

_WORDS: Final = (
    ("compute", "Prepared uint8 images in memory to logits in memory. No decoding, no cache."),
    (
        "end to end",
        "From the photos' files to the five best classes. All read, decode and resize with the same "
        "code, so that what differs is the engine.",
    ),
    (
        "cache off, cold, warm",
        "trtkit's cache of prefix outputs. Off: every photo is computed whole; this is the figure to "
        "quote. Cold: empty before each round, which lasts until everything is written. Warm: every "
        "photo is in it.",
    ),
    ("images/s", "Photos of a round by the seconds of the median round."),
    (
        "ms/image, p90, p99",
        "Milliseconds of a round by its photos: the median round, and those that 90 and 99 of a "
        "hundred rounds stayed below. With fewer than a hundred rounds p99 is next to the slowest.",
    ),
    (
        "times the baseline",
        "Images/s by the baseline's, round by round, above 1 faster: the median and, in brackets, its "
        "95% interval, which assumes no distribution. With fewer than six rounds it is the range of "
        "all, which is less sure. All take turns, so what slows the machine down slows both.",
    ),
    (
        "same top-1",
        "The share of photos with the best class of the unsplit fp32 model on ONNX Runtime. Below 99% "
        "the competitor is WRONG, and its speed means nothing.",
    ),
)


def check_report(path: Path) -> None:
    """Raise TrtkitError unless the file's name is that of a page of HTML."""
    if path.suffix.lower() not in ENDINGS:
        raise TrtkitError(
            f"A report was asked for in {path}, whose ending is none of {listed(ENDINGS)}; choose one "
            "of those."
        )


def cells(contest: dict[str, Any], figure: dict[str, Any]) -> tuple[str, ...]:
    """A figure's row, as text, for `COLUMNS`; both arguments are in their JSON form."""
    if not measured(figure):
        return (figure["competitor"], *[""] * 6, figure.get("problem") or "")
    each = [
        f"{1e3 * figure['seconds'][name] / contest['photos']:.2f}"
        for name in ("median", "p90", "p99")
    ]
    ratio, agreement = figure.get("ratio"), figure.get("agreement")
    compared = ""
    if figure["competitor"] == contest["baseline"]:
        compared = "baseline"
    elif ratio is not None:
        compared = f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
    amiss = "WRONG: other best classes than the reference. " if wrong(figure) else ""
    return (
        figure["competitor"],
        f"{figure['images_per_second']:.1f}",
        *each,
        compared,
        "" if agreement is None else f"{agreement:.1%}",
        f"{amiss}{figure.get('note') or ''}",
    )


def write_report(report: Report, path: Path) -> None:
    """Write a report, in its JSON form, to `path` as one HTML file.

    It has the machine, the command that repeats it, notes, and for each model and kind of figure a
    picture and a table for each batch. It loads nothing and runs no script; everything in it that came
    from the report is escaped. Without matplotlib it says so in the place of the pictures. The file
    appears whole.

    Raises TrtkitError when the file cannot be written.
    """
    check_report(path)
    page = "\n".join(_page(report)) + "\n"
    with whole_file(path) as temporary:
        # What came from JSON may hold halves of characters, which no file can.
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _page(report: Report) -> Iterator[str]:
    names = dict.fromkeys(
        name for c in report["contests"] for name in (c["bundle"], *c.get("bundles", ()))
    )
    title = f"trtkit bench: {listed(names)}"
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{escape(title)}</h1>"
    yield f"<p>Measured {escape(str(report.get('created', 'at an unknown time')))}.</p>"
    yield from _said(report)
    drawable = Package("matplotlib", ("matplotlib",)).installed
    if not drawable:
        yield "<p>There are no pictures, because matplotlib is not installed here "
        yield "(<code>pip install matplotlib</code>).</p>"
    for panel in panels(report):
        yield from _section(panel, report, drawable)
    yield "<h2>What the words mean</h2><dl>"
    for word, meaning in _WORDS:
        yield f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>"
    yield "</dl>"
    yield "<h2>Machine</h2>"
    yield from _table(("", ""), _machine(report))
    yield "<h2>To repeat it</h2>"
    yield f"<pre><code>{escape(str(report.get('command', 'unknown')))}</code></pre>"
    settings = report.get("settings", {})
    yield from _table(
        ("setting", "value"),
        [(name.replace("_", " "), value) for name, value in settings.items()],
    )
    yield "</body></html>"


def _said(report: Report) -> Iterator[str]:
    """Notes and warnings, and that measuring was interrupted if it was."""
    said = [*report.get("notes", ()), *report.get("warnings", ())]
    ended = [contest.get("stopped") for contest in report["contests"]]
    if report.get("interrupted") or INTERRUPTED in ended:
        said.append("The measuring was interrupted: these are the rounds that were completed.")
    if said:
        yield "<ul>" + "".join(f"<li>{escape(str(note))}</li>" for note in said) + "</ul>"


def _section(panel: Panel, report: Report, drawable: bool) -> Iterator[str]:
    yield f"<h2>{escape(panel.title)}</h2>"
    if drawable and panel.bars:
        label = escape(
            f"Images per second of each competitor: {panel.title}. The table has them too."
        )
        yield f'<figure role="img" aria-label="{label}">'
        yield bench_svg({**report, "contests": list(panel.contests)})
        yield "</figure>"
    for contest in panel.contests:
        yield f"<h3>batch {escape(str(contest['batch']))}</h3>"
        stopped = f", {contest['stopped']}" if contest.get("stopped") else ""
        told = (
            f"{contest['photos']} photos a round, {contest.get('rounds', 'unknown')} rounds{stopped}; "
            f"the baseline is {contest['baseline']}."
        )
        yield f"<p>{escape(told)}</p>"
        rows = [cells(contest, figure) for figure in contest["figures"]]
        bad = [not measured(figure) or wrong(figure) for figure in contest["figures"]]
        yield from _table(COLUMNS, rows, bad, numbers=range(1, 7))


def _table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    bad: Sequence[bool] = (),
    numbers: Sequence[int] = (),
) -> Iterator[str]:
    """A table; the last cell of a bad row stands out, cells of the columns `numbers` are figures."""
    yield '<div class="wide"><table>'
    if any(columns):
        heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
        yield f"<thead><tr>{heads}</tr></thead>"
    yield "<tbody>"
    for place, row in enumerate(rows):
        first, *rest = (escape(str(cell)) for cell in row)
        line = [f'<tr><th scope="row">{first}</th>']
        for index, cell in enumerate(rest, start=1):
            last = index == len(rest) and bool(bad) and bad[place]
            kind = ' class="bad"' if last else ' class="number"' if index in numbers else ""
            line.append(f"<td{kind}>{cell}</td>")
        yield "".join([*line, "</tr>"])
    yield "</tbody></table></div>"


def _machine(report: Report) -> Iterator[tuple[str, str]]:
    """What the report tells of the machine, by name; keys of later versions where they are plain."""
    machine = report.get("machine", {})
    for name, value in machine.items():
        if name == "memory_bytes" and value:
            yield "memory", f"{value / 2**30:.1f} GiB"
        elif isinstance(value, str | int | float):
            yield name.replace("_", " "), str(value)
    yield "GPUs", listed(map(_gpu, machine.get("gpus", ())))
    yield "threads of each competitor", str(report.get("threads", "unknown"))
    backends = [b for b in machine.get("backends", ()) if b.get("version")]
    yield "backends", listed(f"{b.get('name')} {b['version']}" for b in backends)
    packages: dict[str, str] = {}
    for feature in machine.get("features", ()):
        packages.update(feature.get("packages") or {})
    yield "packages", listed((f"{n} {v}" for n, v in packages.items()), limit=100)


def _gpu(gpu: dict[str, Any]) -> str:
    told = {
        "": gpu.get("name", "a GPU"),
        "compute capability ": gpu.get("compute_capability"),
        "driver ": gpu.get("driver"),
        "MiB of memory: ": gpu.get("memory_mib"),
    }
    return "; ".join(f"{what}{value}" for what, value in told.items() if value)
