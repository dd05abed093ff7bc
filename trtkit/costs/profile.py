"""The profile of a model: times of its blocks and of every cut, in seconds per photo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtkit.serialization import from_plain, to_plain
from trtkit.store.cache import CacheOptions
from trtkit.store.costs import StoreCosts, format_name, together

FORMAT = 2
# What `infer` keeps feature maps as by default.
USUAL = format_name(CacheOptions().dtype, CacheOptions().codec)


@dataclass(frozen=True)
class BlockTime:
    """A block, or everything behind the last one, in the unsplit engine."""

    block: str
    seconds: float


@dataclass(frozen=True)
class KindTime:
    """All layers of one type, as the engine names it."""

    kind: str
    layers: int
    seconds: float


@dataclass(frozen=True)
class CutCost:
    """One cut: the times before and behind it, and its feature map in each format of the cache.

    `prefix` and `tail`: the sum of their blocks and the cost of the split. `shape` is per image.
    `stored`: by the format's name; the bytes are this cut's, the times those of the first cut with a
    map of that shape.
    """

    cut: int
    block: str
    tensor: str
    shape: tuple[int, ...]
    flops_share: float | None
    prefix: float
    tail: float
    stored: Mapping[str, StoreCosts]


@dataclass(frozen=True)
class Profile:
    """A model on one machine, one backend, one precision and one batch size.

    `whole`: the engine of the unsplit model; `decode`: from a photo's file to the engine's image;
    `serve`: the overhead of `infer`; `overlaps`: the engines run on a GPU. `rounds`: how often the
    whole was measured.
    """

    model: str
    digest: str
    backend: str
    backend_version: str
    precision: str
    machine: tuple[str, ...]
    created: str
    photos: str
    batch: int
    threads: int
    rounds: int
    whole: float
    decode: float
    serve: float
    overlaps: bool
    blocks: tuple[BlockTime, ...]
    kinds: tuple[KindTime, ...]
    cuts: tuple[CutCost, ...]

    @property
    def computed(self) -> float:
        """A photo without a cache and without a split."""
        return self._together(self.decode, self.whole)

    def warm(self, cut: CutCost, form: str = USUAL, *, cold_disk: bool = False) -> float:
        """A photo whose feature map is cached, in memory or (`cold_disk`) on the disk alone."""
        stored = cut.stored[form]
        read = stored.read
        if cold_disk and stored.read_cold is not None:
            read = stored.read_cold
        return self._together(read, cut.tail)

    def cold(self, cut: CutCost, form: str = USUAL) -> float:
        """A photo whose feature map is computed and put into the cache."""
        return self._together(self.decode + cut.stored[form].write, cut.prefix + cut.tail)

    def saved(self, cut: CutCost, form: str = USUAL) -> float:
        """How much less a hit takes than the unsplit model; negative when it takes more."""
        return self.computed - self.warm(cut, form)

    def break_even(self, cut: CutCost, form: str = USUAL) -> float | None:
        """The share of hits h, 0 to 1, above which the cache is faster; None when it never is.

        There h * warm + (1 - h) * cold equals the time of computing every photo.
        """
        warm, cold = self.warm(cut, form), self.cold(cut, form)
        if warm >= self.computed:
            return None
        return min(1.0, max(0.0, (cold - self.computed) / (cold - warm)))

    def expected(self, cut: CutCost, hit_rate: float) -> float:
        """A photo on average, when that share of the photos is cached."""
        return hit_rate * self.warm(cut) + (1 - hit_rate) * self.cold(cut)

    def to_json(self) -> dict[str, Any]:
        """All fields, and the derived times of every cut and format."""
        value: dict[str, Any] = to_plain(self)
        for cut, described in zip(self.cuts, value["cuts"], strict=True):
            for form, stored in described["stored"].items():
                stored["warm"] = self.warm(cut, form)
                stored["warm_cold_disk"] = self.warm(cut, form, cold_disk=True)
                stored["saved"] = self.saved(cut, form)
                stored["break_even_hit_rate"] = self.break_even(cut, form)
        return {"format": FORMAT, "computed": self.computed, **value}

    @classmethod
    def from_json(cls, value: Any) -> Profile:
        """The profile in a JSON object; derived times are ignored. Raises ValueError for another one."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError(f"not a profile of format {FORMAT}, which this trtkit reads")
        return from_plain(value, cls)

    def _together(self, host: float, engines: float) -> float:
        return together(self.serve + host, engines, overlaps=self.overlaps)
