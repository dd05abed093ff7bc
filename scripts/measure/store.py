"""The feature store and plain files."""

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
from case import Lab, case

from trtkit.benchmark.protocol import timed
from trtkit.store.maintenance import info
from trtkit.store.store import FeatureStore
from trtkit.tensors import Array

SHAPE = (512, 28, 28)
CODECS = ("none", "lz4", "zstd")
TARGETS = {"write": {"store": 1.5}, "cold read, all": {"store": 1.0}}


class PlainFiles:
    """The baseline: one file per entry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, maps: Sequence[Array], count: int) -> None:
        for number in range(count):
            fd = os.open(self.folder / f"{number:06d}", os.O_CREAT | os.O_WRONLY, 0o644)
            os.write(fd, maps[number % len(maps)].data)
            os.fsync(fd)
            os.close(fd)

    @contextmanager
    def reader(self) -> Iterator[Callable[[int], bool]]:
        def read_file(number: int) -> bool:
            array = np.empty(SHAPE, np.float16)
            fd = os.open(self.folder / f"{number:06d}", os.O_RDONLY)
            whole = os.readv(fd, [array.data]) == array.nbytes
            os.close(fd)
            return whole

        yield read_file


class Store:
    """The feature store with one codec."""

    def __init__(self, folder: Path, codec: str = "none") -> None:
        self.folder, self._codec = folder, codec

    def write(self, maps: Sequence[Array], count: int) -> None:
        with FeatureStore(self.folder, mode="write", codec=self._codec) as store:
            for number in range(count):
                store.put(key_of(number), maps[number % len(maps)])
            store.flush()
            if store.stats.written != count:
                raise RuntimeError(f"Only {store.stats.written} of {count} entries were written")

    @contextmanager
    def reader(self) -> Iterator[Callable[[int], bool]]:
        with FeatureStore(self.folder, mode="read") as store:
            yield lambda number: store.get(key_of(number)) is not None


def key_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


def read(medium: PlainFiles | Store, order: Sequence[int], *, cold: bool = False) -> float:
    """Seconds to read these entries, opened before; `cold`: none of them is in the page cache."""
    for path in medium.folder.iterdir() if cold else ():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def read_all() -> None:
        for number in order:
            if not read_entry(number):
                raise RuntimeError(f"Entry {number} in {medium.folder} is missing or incomplete")

    with medium.reader() as read_entry:
        return timed(read_all)


def speeds(medium: PlainFiles | Store, maps: Sequence[Array], count: int) -> Mapping[str, float]:
    """MB/s of array data."""
    order = random.sample(range(count), count)
    some = order[: max(1, count // 8)]
    shutil.rmtree(medium.folder, ignore_errors=True)
    medium.folder.mkdir(parents=True)
    # Pending writes of earlier measurements must not slow this one down.
    os.sync()
    seconds = {
        "write": timed(partial(medium.write, maps, count)),
        "cold read, all": read(medium, order, cold=True),
        "cold read, 1 in 8": read(medium, some, cold=True),
    }
    read(medium, order)
    seconds["warm read"] = read(medium, order)
    counts, size = {"cold read, 1 in 8": len(some)}, maps[0].nbytes / 1e6
    return {what: counts.get(what, count) * size / own for what, own in seconds.items()}


@case("--entries 16 --rounds 2")
def store(lab: Lab, *, entries=256, zeros=0.6, rounds=9) -> None:
    """Feature store against plain files with fsync, on the disk of `--workspace`."""
    rng = np.random.default_rng(0)
    # Random bytes, which no codec shrinks, and maps like a ReLU's: zeros, half-normal otherwise.
    noise = rng.integers(0, 2**16, (16, *SHAPE), dtype=np.uint16).view(np.float16)
    values = rng.standard_normal(noise.shape, dtype=np.float32) - NormalDist().inv_cdf(zeros)
    relu = np.maximum(values, 0).astype(np.float16)
    with lab.stock.scratch() as scratch:
        folder = Path(scratch)
        competitors = {
            "plain files": partial(speeds, PlainFiles(folder / "files"), noise, entries),
            "store": partial(speeds, Store(folder / "store"), noise, entries),
        }
        for codec in CODECS:
            medium = Store(folder / codec, codec)
            competitors[f"store, {codec}, ReLU"] = partial(speeds, medium, relu, entries)
        for what, samples in lab.rounds("store", competitors, rounds).items():
            least = TARGETS.get(what, {})
            lab.compare(f"{entries} entries, {what}", samples, unit="MB/s", least=least)
        raw = entries * relu[0].nbytes
        smaller = {codec: raw / info(folder / codec).bytes for codec in CODECS}
    share = float(np.mean(relu == 0))
    for codec, times in smaller.items():
        lab.figure(f"ReLU maps with {share:.0%} zeros, {codec}", f"{times:.2f} times smaller")
    lab.data.update(entries=entries, relu_zeros=share, times_smaller=smaller)
