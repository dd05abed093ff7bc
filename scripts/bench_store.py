"""Measure the feature store against plain files with fsync, one file per entry, on the same disk.

Every round measures every competitor once, in turns; the figures are medians over the rounds.

write: everything until it is committed (put ... flush; for files, write, fsync, close).
cold read: one thread, random order, after the page cache of all files was dropped. The store
    (opened before the clock starts) verifies every checksum; the plain files are only read into
    an array. "all" reads every entry
    once, "1 in 8" a random eighth, where reading ahead into neighbours does not help.
warm read: the same with everything in the page cache.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import random
import shlex
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.store import FeatureStore, info

SHAPE = (512, 28, 28)
DISTINCT = 16
CODECS = ("none", "lz4", "zstd")


def key_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


def random_maps(rng: np.random.Generator) -> list[np.ndarray]:
    """fp16 maps of random bytes, which no codec shrinks."""
    bits = rng.integers(0, 2**16, (DISTINCT, *SHAPE), dtype=np.uint16)
    return list(bits.view(np.float16))


def relu_maps(rng: np.random.Generator, zeros: float) -> list[np.ndarray]:
    """fp16 maps like a ReLU's output: a share `zeros` of zeros, half-normal otherwise."""
    shift = statistics.NormalDist().inv_cdf(zeros)
    values = rng.standard_normal((DISTINCT, *SHAPE), dtype=np.float32) - np.float32(shift)
    return list(np.maximum(values, 0).astype(np.float16))


class PlainFiles:
    """The baseline: one file per entry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, maps: list[np.ndarray], count: int) -> None:
        for number in range(count):
            fd = os.open(self.folder / f"{number:06d}", os.O_CREAT | os.O_WRONLY, 0o644)
            os.write(fd, maps[number % len(maps)].data)
            os.fsync(fd)
            os.close(fd)

    def read(self, order: list[int]) -> float:
        start = time.perf_counter()
        for number in order:
            array = np.empty(SHAPE, np.float16)
            fd = os.open(self.folder / f"{number:06d}", os.O_RDONLY)
            if os.readv(fd, [array.data]) != array.nbytes:
                raise RuntimeError(f"entry {number} is incomplete")
            os.close(fd)
        return time.perf_counter() - start


class Store:
    """The feature store with one codec."""

    def __init__(self, folder: Path, codec: str) -> None:
        self.folder = folder
        self.codec = codec

    def write(self, maps: list[np.ndarray], count: int) -> None:
        with FeatureStore(self.folder, mode="write", codec=self.codec) as store:
            for number in range(count):
                store.put(key_of(number), maps[number % len(maps)])
            store.flush()
            if store.stats.written != count:
                raise RuntimeError(f"only {store.stats.written} of {count} entries were written")

    def read(self, order: list[int]) -> float:
        with FeatureStore(self.folder, mode="read") as store:
            start = time.perf_counter()
            for number in order:
                if store.get(key_of(number)) is None:
                    raise RuntimeError(f"entry {number} is missing")
            return time.perf_counter() - start


def drop_page_cache(folder: Path) -> None:
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def timed(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(
    competitor: PlainFiles | Store, maps: list[np.ndarray], count: int, seed: int
) -> dict[str, float]:
    """MB/s of array data for each measure."""
    size = maps[0].nbytes / 1e6
    order = random.Random(seed).sample(range(count), count)
    some = order[: max(1, count // 8)]
    folder = competitor.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # What earlier measurements left to be written or discarded must not slow down this one.
    os.sync()
    result = {"write": count * size / timed(lambda: competitor.write(maps, count))}
    drop_page_cache(folder)
    result["cold read, all"] = count * size / competitor.read(order)
    drop_page_cache(folder)
    result["cold read, 1 in 8"] = len(some) * size / competitor.read(some)
    competitor.read(order)
    result["warm read"] = count * size / competitor.read(order)
    return result


def run(folder: Path, entries: int, rounds: int, zeros: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    noise, relu = random_maps(rng), relu_maps(rng, zeros)
    competitors: dict[str, tuple[PlainFiles | Store, list[np.ndarray]]] = {
        "plain files": (PlainFiles(folder / "files"), noise),
        "store": (Store(folder / "store", "none"), noise),
    }
    for codec in CODECS:
        competitors[f"store, {codec}, ReLU"] = (Store(folder / codec, codec), relu)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in competitors}
    for turn in range(rounds):
        for name, (competitor, maps) in competitors.items():
            samples[name].append(measure(competitor, maps, entries, turn))
            print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr)
    medians = {
        name: {m: statistics.median(s[m] for s in taken) for m in taken[0]}
        for name, taken in samples.items()
    }
    base = medians["plain files"]
    raw = entries * noise[0].nbytes
    return {
        "unit": "MB/s of array data, 10^6 bytes, medians",
        "entry_bytes": noise[0].nbytes,
        "entries": entries,
        "rounds": rounds,
        "relu_zeros": float(np.mean([np.mean(m == 0) for m in relu])),
        "medians": medians,
        "ratios_to_plain_files": {
            name: {m: value / base[m] for m, value in row.items()} for name, row in medians.items()
        },
        "times_smaller": {codec: raw / info(folder / codec).bytes for codec in CODECS},
        "samples": samples,
    }


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {n: version(n) for n in ("numpy", "blake3", "lz4", "zstandard")},
    }


def show(result: dict[str, Any]) -> None:
    measures = list(result["medians"]["plain files"])
    print("MB/s (times plain files)".ljust(26) + "".join(m.rjust(22) for m in measures))
    for name, row in result["medians"].items():
        ratios = result["ratios_to_plain_files"][name]
        cells = [f"{row[m]:,.0f} ({ratios[m]:.2f})".rjust(22) for m in measures]
        print(name.ljust(26) + "".join(cells))
    smaller = ", ".join(f"{c} {r:.2f}" for c, r in result["times_smaller"].items())
    print(f"ReLU maps with {result['relu_zeros']:.0%} zeros, times smaller: {smaller}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: temporary")
    parser.add_argument("--entries", type=int, default=256, help="entries of 0.8 MB (default 256)")
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument("--zeros", type=float, default=0.6, help="share of zeros (default 0.6)")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-store-") as folder:
        result = run(Path(folder), options.entries, options.rounds, options.zeros)
    result = {**machine(), **result}
    show(result)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
