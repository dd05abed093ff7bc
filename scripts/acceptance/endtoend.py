"""From JPEG files to predictions, with the cache in each of its states."""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from acceptance.context import Context
from acceptance.making import photos
from acceptance.settings import Bundle
from acceptance.timing import Timing, in_turns
from trtkit.errors import TrtkitError
from trtkit.photos.files import find_images
from trtkit.photos.prefetch import default_workers
from trtkit.runtime.device.slot import row_bytes
from trtkit.runtime.loading import load_chain
from trtkit.runtime.pipeline import Pipeline
from trtkit.store.cache import CacheOptions, PrefixCache

# A slow disk may not keep all of the first pass.
FILLING_PASSES = 4


@dataclass(frozen=True)
class EndToEndRow:
    """All photos once, in batches of `batch`: `images_per_second` of the median pass.

    `seconds` are of one pass. `hits` and `misses` of the last pass; `resident_hits` those of them that
    were found on the card.
    """

    batch: int
    mode: str
    images_per_second: float
    seconds: Timing
    hits: int
    misses: int
    resident_hits: int


@dataclass(frozen=True)
class EndToEnd:
    """`photos` files from `source`, decoded by `workers` threads."""

    model: str
    precision: str
    photos: int
    source: str
    workers: int
    rows: list[EndToEndRow]


@dataclass
class _Passes:
    """A bundle's pipelines over one folder of photos. `counts`: of each mode's last pass."""

    context: Context
    bundle: Bundle
    precision: str
    photos: Path
    scratch: Path
    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manifest = self.context.manifest(self.bundle, self.precision)
        self.files = sum(1 for _ in find_images([self.photos]))
        plain = self._load(0)
        one = row_bytes(self.manifest.path_to(self.manifest.tail())[1].inputs[0])
        self._chains = {
            "off": plain,
            "cold": plain,
            "host": plain,
            "gpu": self._load(self.files * one),
        }

    def _load(self, gpu_cache: int) -> Any:
        folder, tail = self.context.built(self.bundle, self.precision), self.manifest.tail()
        return load_chain(folder, self.manifest, tail, self.context.backend, gpu_cache=gpu_cache)

    def seconds(self, mode: str, batch: int) -> float:
        """Seconds of one pass in that mode, to the last prediction, and when cold to the last write."""
        chain = self._chains[mode]
        resident = getattr(chain, "resident", None)
        held = resident.hits if resident is not None else 0
        cache = self._cache(mode)
        pipeline = Pipeline(self.manifest, self.manifest.tail(), chain, cache)
        gc.collect()
        started = time.perf_counter()
        try:
            for result in pipeline.infer([self.photos], batch=batch):
                if result.error is not None:
                    raise TrtkitError(f"A photo could not be classified ({result.error}).")
        finally:
            if cache is not None:
                cache.store.close()
        taken = time.perf_counter() - started
        stats = pipeline.stats
        found = resident.hits - held if resident is not None else 0
        self.counts[mode] = stats.hits, stats.misses, found
        return taken

    def fill(self, batch: int) -> None:
        """Pass by pass, until the caches that are measured warm hold every photo."""
        for mode in ("host", "gpu"):
            for _ in range(FILLING_PASSES):
                self.seconds(mode, batch)
                if self.counts[mode][1] == 0:
                    break
            else:
                raise TrtkitError(f"The cache did not keep {self.counts[mode][1]} photos.")

    def close(self) -> None:
        for chain in {id(chain): chain for chain in self._chains.values()}.values():
            chain.close()

    def _cache(self, mode: str) -> PrefixCache | None:
        if mode == "off":
            return None
        folder = self.scratch / mode
        if mode == "cold" and folder.exists():
            shutil.rmtree(folder)
        prefix = self.manifest.path_to(self.manifest.tail())[0]
        options = CacheOptions(mode="always", folder=folder)
        return PrefixCache.open(options, self.manifest.preprocessing, prefix.id)


MODES = {
    "off": "cache off",
    "cold": "cold",
    "host": "warm, host tier",
    "gpu": "warm, GPU tier",
}


def end_to_end(context: Context, bundle: Bundle, precision: str) -> EndToEnd:
    """Images per second from files to classes: cache off, cold, warm on the host, warm on the card."""
    scale = context.settings.set.scale
    folder, source = photos(context, scale.photos)
    rows: list[EndToEndRow] = []
    with tempfile.TemporaryDirectory(prefix="cache-", dir=context.settings.made) as scratch:
        passes = _Passes(context, bundle, precision, folder, Path(scratch))
        # The largest first: the rows to read hits into are made once, for the batch of that time.
        passes.fill(max(context.settings.batches))
        for batch in sorted(context.settings.batches, reverse=True):
            samples = in_turns(
                {mode: partial(passes.seconds, mode, batch) for mode in MODES},
                scale.passes,
            )
            for mode, taken in samples.items():
                timing = Timing.of(taken)
                speed = passes.files / timing.median_seconds
                rows.append(EndToEndRow(batch, MODES[mode], speed, timing, *passes.counts[mode]))
        passes.close()
    rows.sort(key=lambda row: row.batch)
    name = passes.manifest.tail().name
    return EndToEnd(name, precision, passes.files, source, default_workers(), rows)
