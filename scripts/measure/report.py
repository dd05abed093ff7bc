"""What a measurement reports: figures, the machine they are of, and their JSON file and page.

A JSON file holds the runs of one measurement by label. The page beside it has one table, which is written
from that file; the prose around the table is written by hand and stays.
"""

import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trtkit.benchmark.statistics import Summary
from trtkit.cpu import processor_name, total_memory, usable_cores

PACKAGES = (
    "trtkit", "numpy", "onnxruntime", "onnxruntime-gpu", "simplejpeg",
    "opencv-contrib-python-headless", "blake3", "lz4", "zstandard", "onnx", "torch", "torchvision",
    "nvidia-modelopt", "tensorrt-rtx-cu13-bindings", "cuda-python", "cuda-bindings",
    "motmetrics",
)  # fmt: skip
COLUMNS = ("figure", "measured", "compared", "target", "")
VERDICTS = {True: "met", False: "**NOT met**", None: ""}
START, END = "<!-- figures -->", "<!-- end of figures -->"

Samples = Mapping[str, Sequence[float]]
Result = dict[str, Any]


def quantity(values: Sequence[float], unit: str) -> str:
    """The median with p10 and p90; `unit` is "seconds" or "bytes", which are scaled, or another one."""
    summary, scale = Summary.of(values), 1.0
    if unit == "seconds":
        scale, unit = (1e6, "us") if summary.median < 1e-3 else (1e3, "ms")
    elif unit == "bytes":
        scale, unit = 2**-20, "MiB"
    middle, low, high = (x * scale for x in (summary.median, summary.p10, summary.p90))
    return f"{middle:,.1f} {unit} ({low:,.1f} to {high:,.1f})"


def now() -> str:
    """The date and time, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def machine(command: Sequence[str] = ()) -> Result:
    """Where and when this runs. `load_average`: that of the last minute, before measuring."""
    packages = {}
    for name in PACKAGES:
        # Of some only one variant is installed, others are optional.
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "date": now(),
        "command": shlex.join(command),
        "cpu": processor_name(),
        "cores": usable_cores(),
        "memory_gib": round((total_memory() or 0) / 2**30, 1),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
    }


def markdown(runs: Mapping[str, Result]) -> str:
    """The command, date and machine of each run, and one table with the figures of all."""
    several = len(runs) > 1
    columns = ("run", *COLUMNS) if several else COLUMNS
    lines, rows = [], []
    for label, run in runs.items():
        packages = ", ".join(f"{name} {number}" for name, number in run["packages"].items())
        load, memory = run["load_average"], run["memory_gib"]
        where = f"{run['cpu']}, {run['cores']} cores{f', {memory} GiB' if memory else ''}"
        busy = "" if load is None else f", load average before {load:.2f}"
        where = f"{run['date']}: {where}, {run['system']}{busy}, Python {run['python']}, {packages}"
        lines += [*([f"{label}:", ""] if several else ()), f"    {run['command']}", "", where, ""]
        for figure in run["figures"]:
            *cells, met = figure.values()
            rows.append([*([label] if several else ()), *cells, VERDICTS[met]])
    return "\n".join([*lines, *table(columns, rows)])


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = (columns, ["---"] * len(columns), *rows)
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def write(file: Path, label: str, title: str, run: Result) -> None:
    """Put a run into a JSON file, in place of the one with its label, and the table into the page."""
    runs: dict[str, Result] = json.loads(file.read_text()) if file.is_file() else {}
    runs[label] = run
    file.write_text(json.dumps(runs, indent=1) + "\n")
    page = file.with_suffix(".md")
    text = page.read_text() if page.is_file() else f"# {title}\n\n{START}\n{END}\n"
    before, after = text.partition(START)[0], text.partition(END)[2]
    page.write_text(f"{before}{START}\n\n{markdown(runs)}\n\n{END}{after}")
