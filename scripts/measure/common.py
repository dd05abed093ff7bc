"""What the measuring scripts share: options, the machine, timing in turns, targets, tables, JSON.

Competitors are measured in turns, after a warm-up round that is not counted; each round starts with
the next one (A B C, B C A, ...), so that none is always the first. The figures are medians over the
rounds, ratios those of the medians. Beside a time stand its p10 and p90, beside a ratio the p10, the
median and the p90 of the ratios of the single rounds.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trtkit.cpu import own_process, usable_cores

PACKAGES = (
    "trtkit", "numpy", "onnxruntime", "onnxruntime-gpu", "simplejpeg",
    "opencv-contrib-python-headless", "blake3", "onnx", "torch", "torchvision",
    "nvidia-modelopt", "tensorrt-rtx-cu13-bindings",
)  # fmt: skip

BY_ROUND = "by round: p10, median, p90"

Samples = dict[str, list[float]]
Competitors = Mapping[str, Callable[[], float]]


@dataclass(frozen=True)
class Target:
    """A figure and what it should be. `met` is None where there is only something to compare with."""

    what: str
    target: str
    measured: str
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return "reported" if self.met is None else "met" if self.met else "NOT met"


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass
class Outcome:
    """What a script measured: `data` goes into the JSON as it is, beside the tables and targets."""

    data: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def add_timing(self, title: str, samples: Samples, base: str) -> dict[str, float]:
        """Add a table of seconds and of ratios to `base`; the ratios of the medians are returned."""
        medians = {name: statistics.median(taken) for name, taken in samples.items()}
        ratios = {name: value / medians[base] for name, value in medians.items()}
        rows = []
        for name, taken in samples.items():
            turns = [a / b for a, b in zip(taken, samples[base], strict=True)]
            cells = [milliseconds(value) for value in (medians[name], *spread(taken))]
            rows.append((name, *cells, f"{ratios[name]:.3f}", by_round(turns)))
        columns = ("", "median ms", "p10", "p90", f"times {base}", BY_ROUND)
        self.tables.append(Table(title, columns, tuple(rows)))
        self.data.setdefault("results", {})[title] = {
            "unit": "seconds, medians",
            "rounds": len(samples[base]),
            "medians": medians,
            "p10_p90": {name: spread(taken) for name, taken in samples.items()},
            "base": base,
            "ratios": ratios,
            "samples": samples,
        }
        return ratios


def at_most(what: str, limit: float, measured: float, unit: str = "times") -> Target:
    return Target(what, f"at most {limit:g} {unit}", f"{measured:.3f} {unit}", measured <= limit)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}"


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The 10th and the 90th percentile."""
    if len(values) < 2:
        return values[0], values[0]
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return tenths[0], tenths[-1]


def by_round(ratios: Sequence[float]) -> str:
    """The cell of the column BY_ROUND."""
    low, high = spread(ratios)
    return " ".join(f"{value:.3f}" for value in (low, statistics.median(ratios), high))


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call. Garbage that others left is collected before, not meanwhile."""
    gc.collect()
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turns(competitors: Competitors, rounds: int, *, title: str, warmups: int = 1) -> Samples:
    """What each competitor measures (seconds, bytes), `rounds` times, after `warmups` more rounds."""
    samples: Samples = {name: [] for name in competitors}
    names = list(competitors)
    for turn in range(-warmups, rounds):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            value = competitors[name]()
            if turn >= 0:
                samples[name].append(value)
        progress(f"{title}: " + (f"round {turn + 1} of {rounds}" if turn >= 0 else "warm-up"))
    return samples


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def argument_parser(description: str | None, *, rounds: int | None) -> argparse.ArgumentParser:
    """A parser with the options of every script; `rounds` is that option's default, if it has it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if rounds is not None:
        parser.add_argument("--rounds", type=positive, default=rounds, help=f"default {rounds}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument(
        "--workspace",
        type=Path,
        metavar="DIR",
        help="folder for photos, exports and bundles, which the next run finds there again "
        "(remove it when trtkit changed); default: a temporary one",
    )
    return parser


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def run(
    parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace, Path], Outcome]
) -> None:
    """Parse, measure in the workspace, print the tables and targets, write the JSON.

    A missed target is a result: the exit status is 0 all the same.
    """
    own_process()
    options = parser.parse_args()
    header = machine()
    with _workspace(options.workspace) as root:
        outcome = measure(options, root)
    for target in outcome.targets:
        progress(f"{target.what}: {target.verdict}")
    print_outcome(header, outcome)
    if options.json is not None:
        result = {
            **header,
            **outcome.data,
            "tables": [asdict(table) for table in outcome.tables],
            "targets": [asdict(target) for target in outcome.targets],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(_markdown(parser.description or "", header, outcome))


def _markdown(description: str, header: Mapping[str, Any], outcome: Outcome) -> str:
    """The outcome as a page, under what the script says of itself."""
    title, _, about = description.partition("\n")
    lines = [f"# {title.rstrip('.:')}", "", about.strip(), ""]
    lines += [f"    {header['command']}", "", header["date"], "", describe(header), ""]
    for table in outcome.tables:
        lines += [table.title, "", *markdown_table(table.columns, table.rows), ""]
    rows = [
        (target.what, target.target, target.measured, verdict(target.met))
        for target in outcome.targets
    ]
    return "\n".join([*lines, *markdown_table(("what", "target", "measured", ""), rows)]) + "\n"


@contextmanager
def _workspace(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="trtkit-measure-") as temporary:
        yield Path(temporary).resolve()


def machine() -> dict[str, Any]:
    """Where and when this runs. `load_average`: that of the last minute, before measuring."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *_without_workspace(sys.argv)]),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
    }


def _without_workspace(arguments: Sequence[str]) -> list[str]:
    """A command line without the folder of one machine."""
    kept = list(arguments)
    if "--workspace" in kept:
        place = kept.index("--workspace")
        del kept[place : place + 2]
    return kept


def describe(header: Mapping[str, Any]) -> str:
    """The machine in a few lines of text."""
    packages = ", ".join(f"{name} {number}" for name, number in header["packages"].items())
    load = header.get("load_average")
    memory = f", {header['memory_gib']} GiB" if header.get("memory_gib") else ""
    busy = "" if load is None else f", load average before {load:.2f}"
    return (
        f"{header['cpu']}, {header['cores']} cores{memory}, {header['system']}{busy}\n"
        f"Python {header['python']}, {packages}"
    )


def print_outcome(header: Mapping[str, Any], outcome: Outcome) -> None:
    print(f"{header['date']}  {header['command']}")
    print(describe(header))
    for table in outcome.tables:
        print()
        print_table(table)
    print()
    for target in outcome.targets:
        print(f"{target.what}")
        print(f"    target: {target.target}  measured: {target.measured}  {target.verdict}")


def print_table(table: Table) -> None:
    lines = [table.columns, *table.rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
    print(table.title)
    for line in lines:
        cells = [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())


def verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "**NOT met**"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines: list[Sequence[str]] = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # Of some only one variant is installed, others are optional.
            continue
    return found
