"""The rows of a bench report, and the report as one page of HTML that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from trtkit.atomic import whole_file
from trtkit.benchmark.plots import bench_svg, panels
from trtkit.benchmark.results import BenchReport, Contest, Figure
from trtkit.errors import TrtkitError, listed
from trtkit.extras import Package

ENDINGS: Final = (".html", ".htm")
TEMPLATE: Final = Path(__file__).with_name("report.html")

COLUMNS: Final = (
    "competitor", "images/s", "ms/image", "p90", "p99", "times the baseline", "same top-1", "note",
)  # fmt: skip


def check_report(path: Path) -> None:
    """Raise TrtkitError unless the file's name is that of a page of HTML."""
    if path.suffix.lower() not in ENDINGS:
        raise TrtkitError(
            f"A page cannot be written to {path}; give a name that ends in {listed(ENDINGS)}."
        )


def cells(contest: Contest, figure: Figure) -> tuple[str, ...]:
    """A figure's row, as text, for `COLUMNS`."""
    seconds, ratio = figure.seconds, figure.ratio
    if seconds is None or figure.images_per_second is None:
        return (figure.competitor, *[""] * 6, figure.problem or "")
    times = (seconds.median, seconds.p90, seconds.p99)
    compared = ""
    if figure.competitor == contest.baseline:
        compared = "baseline"
    elif ratio is not None:
        compared = f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
    warning = "WRONG: other best classes than the reference. " if figure.wrong else ""
    return (
        figure.competitor,
        f"{figure.images_per_second:.1f}",
        *(f"{1e3 * time / contest.photos:.2f}" for time in times),
        compared,
        "" if figure.agreement is None else f"{figure.agreement:.1%}",
        f"{warning}{figure.note}",
    )


def write_report(report: BenchReport, path: Path) -> None:
    """Write a report to `path` as one HTML file.

    It has the machine, the command that repeats it, notes, and for each model and measure a picture and
    a table for each batch. It loads nothing and runs no script; everything in it that came from the
    report is escaped. Without matplotlib it says so in the place of the pictures. The file appears
    whole.

    Raises TrtkitError when the file cannot be written.
    """
    check_report(path)
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cells"] = lambda figure, contest: cells(contest, figure)
    environment.filters["bad"] = lambda figure: not figure.measured or figure.wrong
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    names = dict.fromkeys(name for c in report.contests for name in (c.bundle, *c.bundles))
    notes = list(report.notes)
    if report.interrupted:
        notes.append("The measuring was interrupted: these are the rounds that were completed.")
    page = template.render(
        title=f"trtkit bench: {listed(names)}",
        report=report,
        notes=notes,
        drawable=Package("matplotlib").installed,
        panels=panels(report.contests),
        picture=bench_svg,
        columns=COLUMNS,
        machine=list(_machine(report)),
        settings=[(name.replace("_", " "), value) for name, value in report.settings.items()],
    )
    with whole_file(path) as temporary:
        # What came from JSON may hold halves of characters, which no file can.
        temporary.write_text(page + "\n", encoding="utf-8", errors="replace")


def _machine(report: BenchReport) -> Iterator[tuple[str, str]]:
    """What the report tells of the machine, by name; other keys of later versions if they are plain."""
    machine = report.machine
    for name, value in machine.items():
        if name == "memory_bytes" and value:
            yield "memory", f"{value / 2**30:.1f} GiB"
        elif isinstance(value, str | int | float):
            yield name.replace("_", " "), str(value)
    yield "GPUs", listed(map(_gpu, machine.get("gpus", ())))
    yield "threads of each competitor", str(report.threads or "unknown")
    backends = [b for b in machine.get("backends", ()) if b.get("version")]
    yield "backends", listed(f"{b.get('name')} {b['version']}" for b in backends)
    packages: dict[str, str] = {}
    for feature in machine.get("features", ()):
        packages.update(feature.get("packages") or {})
    yield "packages", listed((f"{n} {v}" for n, v in packages.items()), limit=100)


def _gpu(gpu: dict[str, Any]) -> str:
    facts = {
        "": gpu.get("name", "a GPU"),
        "compute capability ": gpu.get("compute_capability"),
        "driver ": gpu.get("driver"),
        "MiB of memory: ": gpu.get("memory_mib"),
    }
    return "; ".join(f"{what}{value}" for what, value in facts.items() if value)
