"""What a feature map costs to read and to compute again, and whether the cache is worth it.

All times are seconds per photo. Engines run in batches; on the CPU one thread reads and decodes, on a GPU
as many threads as a pipeline has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trtkit.cpu import processor_name, usable_cores
from trtkit.engines.base import Backend


@dataclass(frozen=True)
class StoreCosts:
    """The costs of one boundary in one format of the cache.

    `bytes` on the disk for each photo; `read`: finding a photo's map by the hash of its file, in the
    system's page cache; `read_cold`: the same from the disk, None where the page cache cannot be
    emptied; `write`: until it is committed to the disk.
    """

    bytes: int
    read: float
    read_cold: float | None
    write: float

    def __post_init__(self) -> None:
        _check_seconds((self.read, self.read_cold or 0.0, self.write))


@dataclass(frozen=True)
class CacheCosts:
    """What was measured of a bundle on one machine. Raises ValueError for a time that is none.

    `machine`: what must be the same for them to hold (`machine_of`); `decode`: from the file to the image;
    `prefix`: what an image takes longer than a feature map, in batches of `batch`; `tails`: from the
    feature map to the logits, by the tail's name; `store`: by the format's name (`format_name`).
    `overlaps`: the engines run on a GPU while the CPU works, so that the longer of both counts.
    """

    machine: tuple[str, ...]
    batch: int
    decode: float
    prefix: float
    tails: Mapping[str, float]
    store: Mapping[str, StoreCosts]
    overlaps: bool

    def __post_init__(self) -> None:
        _check_seconds((self.decode, self.prefix, *self.tails.values()))

    def computed(self, tail: str) -> float:
        """Seconds a photo, without the cache."""
        return together(self.decode, self.prefix + self.tails[tail], overlaps=self.overlaps)

    def cached(self, tail: str, read: float) -> float:
        """Seconds a photo whose feature map takes `read` seconds to get."""
        return together(read, self.tails[tail], overlaps=self.overlaps)


def _check_seconds(times: Iterable[float]) -> None:
    for seconds in times:
        if not 0 <= seconds < math.inf:
            raise ValueError(f"{seconds} s is no duration")


def together(host: float, engines: float, *, overlaps: bool) -> float:
    """Seconds of both: the longer where they run at the same time, else the sum.

    On the CPU the engines use every core and wait while a reading thread has one.
    """
    return max(host, engines) if overlaps else host + engines


def format_name(dtype: str, codec: str) -> str:
    """What a format of the cache is called in results: `fp16`, `fp16 lz4`."""
    return dtype if codec == "none" else f"{dtype} {codec}"


def machine_of(backend: Backend) -> tuple[str, ...]:
    """What must be the same for measured times to hold."""
    return (processor_name(), f"{usable_cores()} cores", backend.name, *backend.target())


@dataclass(frozen=True)
class CacheDecision:
    """Whether the cache is used, and why, as a sentence."""

    use: bool
    why: str


def weigh(
    costs: CacheCosts | None,
    machine: tuple[str, ...],
    tail: str,
    form: str,
    *,
    resident: bool,
    name: str = "Cache",
) -> CacheDecision:
    """Whether reading the feature maps of `tail` in the format `form` is cheaper than computing them.

    `resident`: what is cached fits into this machine's memory, so that reads seldom go to the disk.
    Where nothing was measured on this `machine` (`machine_of`) the cache is used. `name`: what the
    sentence calls the cache.
    """
    if costs is None or costs.machine != machine or tail not in costs.tails:
        return CacheDecision(True, f"{name} used: what it costs was not measured on this machine.")
    stored = costs.store.get(form)
    if stored is None:
        return CacheDecision(True, f"{name} used: what reading {form} maps costs was not measured.")
    read = stored.read if resident or stored.read_cold is None else stored.read_cold
    tier = "memory" if resident or stored.read_cold is None else "disk"
    cached, computed = costs.cached(tail, read), costs.computed(tail)
    figures = (
        f"with a feature map from {tier} a photo takes {1e3 * cached:.3g} ms, computed anew "
        f"{1e3 * computed:.3g} ms"
    )
    if cached < computed:
        return CacheDecision(True, f"{name} used: {figures}.")
    return CacheDecision(
        False, f"{name} not used: {figures} (--cache always uses it all the same)."
    )
