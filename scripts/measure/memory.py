"""Measure the peak memory of `trtkit infer` over many photos against that over fewer.

Each run is a process of its own that writes its predictions to a file; its peak is the largest
resident set the system saw (ru_maxrss). To keep 10,000 photos quick, the model takes 64 x 64
pixels and the files are small photos, a few hundred of them over and over; each file has a number
in a JPEG comment, so that no two are the same to the cache. Cache off, cold (empty before) and
warm (filled by the cold run), few and many in turns. POSIX only.

Where `setarch` can, the processes run without address space randomisation. With it the heap that
loading the engines leaves behind differs by up to a tenth from process to process, however many
photos follow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import (
    BY_ROUND,
    Outcome,
    Table,
    argument_parser,
    at_most,
    by_round,
    positive,
    progress,
    run,
)
from subjects import bundle, photos

LIMIT = 1.05
IMAGE_SIZE = 64
PHOTO_SIZE = "200x150"
DIFFERENT_PHOTOS = 200
MODES = ("off", "cold", "warm")
# Linux counts in KiB, macOS in bytes.
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def numbered_photos(root: Path, count: int) -> Path:
    """A folder of `count` JPEG files of which no two have the same bytes."""
    folder = root / "photos" / f"{count}-numbered-{PHOTO_SIZE}"
    if len(list(folder.glob("*.jpg"))) == count:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [
        path.read_bytes() for path in sorted(photos(root, DIFFERENT_PHOTOS, PHOTO_SIZE).iterdir())
    ]
    for number in range(count):
        data = pictures[number % len(pictures)]
        comment = b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big")
        (folder / f"{number:06d}.jpg").write_bytes(data[:2] + comment + data[2:])
    return folder


def peak(
    folder: Path, built: Path, cache: Path | None, scratch: Path
) -> tuple[int, dict[str, Any]]:
    """Peak resident bytes of classifying the folder, and the statistics of the run."""
    output, stats, messages = (scratch / name for name in ("out.jsonl", "stats", "messages"))
    command: list[str | Path] = [*fixed_addresses(), sys.executable, "-m", "trtkit", "infer"]
    command += [folder, "--bundle", built]
    command += ["--output", output, "--stats", stats]
    command += ["--no-cache"] if cache is None else ["--cache-dir", cache]
    with messages.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed: {messages.read_text()}")
    return usage.ru_maxrss * MAXRSS_UNIT, json.loads(stats.read_text())


def fixed_addresses() -> list[str]:
    """The command in front of another that gives it the same addresses each time, if there is one."""
    setarch = shutil.which("setarch")
    if setarch is None:
        return []
    prefix = [setarch, "-R"]
    # A container may have it and forbid what it does.
    tried = subprocess.run(
        [*prefix, sys.executable, "-c", "pass"], capture_output=True, check=False
    )
    return prefix if tried.returncode == 0 else []


def check(stats: dict[str, Any], mode: str, count: int) -> None:
    hits = count if mode == "warm" else 0
    if (stats["images"], stats["failed"], stats["cache"]["hits"]) != (count, 0, hits):
        raise RuntimeError(
            f"A run over {count} photos, cache {mode}, was not what it should: {stats}"
        )


def one_round(
    root: Path, built: Path, folders: dict[int, Path], peaks: dict[str, dict[int, list[int]]]
) -> None:
    with tempfile.TemporaryDirectory(dir=root, prefix="memory-") as scratch:
        for mode in MODES:
            for count, folder in folders.items():
                cache = None if mode == "off" else Path(scratch) / f"cache-{count}"
                used, stats = peak(folder, built, cache, Path(scratch))
                check(stats, mode, count)
                peaks[mode][count].append(used)


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    few, many = sorted((options.few, options.many))
    folders = {count: numbered_photos(root, count) for count in (few, many)}
    built = bundle(root, options.model, options.cut, "fp16", IMAGE_SIZE)
    peaks: dict[str, dict[int, list[int]]] = {mode: {few: [], many: []} for mode in MODES}
    for turn in range(options.rounds):
        one_round(root, built, folders, peaks)
        progress(f"memory: round {turn + 1} of {options.rounds}")
    title = f"{options.model} at {IMAGE_SIZE} x {IMAGE_SIZE}, cut {options.cut}, fp16"
    rows, medians = [], {}
    for mode, taken in peaks.items():
        small, large = (statistics.median(taken[count]) for count in (few, many))
        medians[mode] = {str(few): small, str(many): large, "ratio": large / small}
        turns = [b / a for a, b in zip(taken[few], taken[many], strict=True)]
        cells = [f"{value / 2**20:,.1f}" for value in (small, large)]
        rows.append((mode, *cells, f"{large / small:.3f}", by_round(turns)))
        what = f"Peak memory, {many:,} photos against {few:,}, cache {mode}, {title}"
        outcome.targets.append(at_most(what, LIMIT, large / small))
    columns = ("cache", f"{few:,} photos, MiB", f"{many:,} photos, MiB", "ratio", BY_ROUND)
    outcome.tables.append(Table(f"Peak resident memory, {title}, medians", columns, tuple(rows)))
    outcome.data["fixed_addresses"] = bool(fixed_addresses())
    outcome.data.update(
        unit="bytes, medians", rounds=options.rounds, medians=medians, samples=peaks
    )
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=3)
    parser.add_argument("--model", default="resnet18", help="architecture, default resnet18")
    parser.add_argument("--cut", type=positive, default=2, help="default 2")
    parser.add_argument("--few", type=positive, default=1000, help="photos, default 1000")
    parser.add_argument("--many", type=positive, default=10000, help="photos, default 10000")
    run(parser, measure)


if __name__ == "__main__":
    main()
