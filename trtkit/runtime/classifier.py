"""Items in, outputs of stages out, with a store of feature maps in front of one edge of the tree.

Whoever has pictures and a tree of stages uses this: photos, footage, evaluation, services. Whether a
feature map is found, computed or computed again is decided here and nowhere else.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Protocol

import numpy as np

from trtkit.errors import ImageError
from trtkit.photos.decoded import DecodedPhoto
from trtkit.photos.images import load_image, resize_and_crop
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.runner import Pending, Runner
from trtkit.stages import OutputRef
from trtkit.tensors import Array

log = logging.getLogger("trtkit.classifier")


class MapStore(Protocol):
    """Feature maps by key. `get` and `key` may be called from several threads."""

    @property
    def writable(self) -> bool: ...

    def key(self, data: bytes) -> Any:
        """The key of the picture with these file bytes."""
        ...

    def get(self, key: Any, into: Array | None = None) -> Array | None:
        """The feature map without a batch dimension, None on a miss."""
        ...

    def put(self, key: Any, feature: Array) -> None: ...


@dataclass(frozen=True)
class Item:
    """A picture to classify.

    `read` gives the bytes of its file; or `pixels` are uint8 of any H x W x 3; or `image` is prepared
    already, in the size that the engines take. `key`: of its feature map, by default made from the
    bytes. `error`: why there is no picture.
    """

    name: str
    read: Callable[[], bytes] | None = None
    pixels: Array | None = None
    image: Array | None = None
    key: Any = None
    error: str | None = None


@dataclass(frozen=True)
class PreparedItem:
    """An item that was read: its pixels on a miss, its feature map on a hit, neither when it failed."""

    name: str
    key: Any = None
    image: Array | None = None
    feature: Any = None
    error: str | None = None


@dataclass(frozen=True)
class FinishedBatch:
    """Items that were classified together. `rows`: of each wanted output, for the items without an error.

    They are in the order of the items, and the caller's.
    """

    items: Sequence[PreparedItem]
    rows: Mapping[OutputRef, Array]


@dataclass
class InferenceStats:
    """Counts and seconds of all that was classified.

    `hits`, `misses`, `evicted` and `dropped` are entries of the cache; dropped ones were computed but
    not kept, because the cache was too small or its disk too slow. `gpu_hits` of the hits were found
    on the card.
    """

    images: int = 0
    failed: int = 0
    seconds: float = 0.0
    hits: int = 0
    misses: int = 0
    evicted: int = 0
    dropped: int = 0
    gpu_hits: int = 0


@dataclass(frozen=True)
class StartedBatch:
    """Items that were given to the runner together.

    `places`: the row of the outputs for each item that did not fail; `computed`: the items whose
    feature maps are computed, in order. `pending` is None when there is nothing to compute.
    """

    items: Sequence[PreparedItem]
    places: list[int]
    computed: list[PreparedItem]
    pending: Pending | None


class Classifier:
    """A runner, the outputs `wanted` of it, and a store of the maps of the edge `guarded`.

    With a store all of `wanted` is that edge or computed from it, else TrtkitError. `prepare` and `run` may
    be called from any thread; the runner works on one batch at a time.
    """

    def __init__(
        self,
        runner: Runner,
        preprocessing: Preprocessing,
        wanted: Sequence[OutputRef],
        *,
        store: MapStore | None = None,
        guarded: OutputRef | None = None,
    ) -> None:
        self.runner = runner
        self.wanted = tuple(wanted)
        self.store = store if guarded is not None else None
        self.stats = InferenceStats()
        self._preprocessing = preprocessing
        self._guarded = guarded
        self._misfits = count()
        if self.store is not None and guarded is not None:
            runner.planner.check_guard(self.wanted, guarded)

    def stream(
        self, items: Iterable[Item], *, batch: int, workers: int | None = None
    ) -> Generator[FinishedBatch, None, None]:
        """Batches of up to `batch` items, in the order of `items`, as they are computed.

        `workers` threads read ahead (the usable cores by default). Memory does not grow with the number
        of items.
        """
        started = time.perf_counter() - self.stats.seconds
        workers = workers or default_workers()
        ahead = 2 * batch + workers
        with self.runner.lock:
            # Hits are held by items that are read ahead and by batches under way.
            self.runner.reserve(batch, ahead + self.runner.depth * batch if self.store else 0)
        # Closed, so that no thread goes on decoding for a caller who has stopped listening.
        with closing(
            ordered_map(self.prepare, items, workers=workers, ahead=ahead, group=batch)
        ) as prepared:
            under_way: deque[StartedBatch] = deque()
            while batch_items := list(islice(prepared, batch)):
                under_way.append(self.start(batch_items))
                if len(under_way) == self.runner.depth:
                    yield self._timed(under_way.popleft(), started)
            while under_way:
                yield self._timed(under_way.popleft(), started)

    def _timed(self, batch: StartedBatch, started: float) -> FinishedBatch:
        finished = self.finish(batch)
        self.stats.seconds = time.perf_counter() - started
        return finished

    def run(self, items: Sequence[PreparedItem]) -> FinishedBatch:
        """One batch, while the caller waits."""
        return self.finish(self.start(items))

    def prepare(self, item: Item) -> PreparedItem:
        """Look for the item's feature map; read, decode and resize it only when there is none."""
        if item.error is not None:
            return PreparedItem(item.name, error=item.error)
        try:
            key, data = item.key, None
            if self.store is not None and key is None and item.read is not None:
                data = item.read()
                key = self.store.key(data)
            feature = self._known(key)
            if feature is not None:
                return PreparedItem(item.name, key, feature=feature)
            return PreparedItem(item.name, key, image=self._image(item, data))
        except ImageError as error:
            return PreparedItem(item.name, error=str(error))

    def prepare_all(self, items: Iterable[Item]) -> list[PreparedItem]:
        """Prepare items none of which may fail. Raises ImageError for the first that does."""
        prepared = [self.prepare(item) for item in items]
        for item in prepared:
            if item.error is not None:
                raise ImageError(f"{item.name}: {item.error}")
        return prepared

    def start(self, items: Sequence[PreparedItem]) -> StartedBatch:
        """Give a batch to the runner: the distinct misses, and the feature maps that are known."""
        good = [item for item in items if item.error is None]
        hits = [item for item in good if item.feature is not None]
        misses = [item for item in good if item.feature is None]
        first, rows = _distinct(misses)
        # Where nothing but the maps themselves is wanted, those of the hits have nowhere to go.
        known = {}
        if hits and self._guarded is not None and self.wanted != (self._guarded,):
            known = {self._guarded: [item.feature for item in hits]}
        pending = None
        with self.runner.lock:
            self._count(items, good, hits)
            if first or known:
                pending = self.runner.submit(
                    self._wanted(first),
                    [item.image for item in first if item.image is not None],
                    known,
                    keys=[item.key for item in (*first, *(hits if known else ()))],
                )
        # A miss has its image's row; the hits have those behind.
        behind = count(len(first))
        computed = iter(rows)
        places = [next(computed if item.feature is None else behind) for item in good]
        return StartedBatch(items, places, first, pending)

    def finish(self, batch: StartedBatch) -> FinishedBatch:
        """Wait for a batch, keep its feature maps, and hand out its rows."""
        if not batch.places:
            return FinishedBatch(batch.items, {})
        with self.runner.lock:
            outputs = batch.pending.result() if batch.pending is not None else {}
            self._keep(batch.computed, outputs)
            rows = {ref: self._rows(ref, outputs, batch)[batch.places] for ref in self.wanted}
        return FinishedBatch(batch.items, rows)

    def _rows(
        self, ref: OutputRef, outputs: Mapping[OutputRef, Array], batch: StartedBatch
    ) -> Array:
        """The rows of an output; of the guarded edge with those that were known."""
        if ref != self._guarded:
            return outputs[ref]
        hits = [item.feature for item in batch.items if item.feature is not None]
        return np.stack([*outputs.get(ref, ()), *hits])

    def _image(self, item: Item, data: bytes | None) -> Array:
        """The prepared image of an item, whose bytes are `data` if they were read already."""
        if item.image is not None:
            return item.image
        if item.pixels is not None:
            photo = DecodedPhoto(item.pixels, *item.pixels.shape[:2])
            return resize_and_crop(photo, self._preprocessing)
        if data is None:
            data = item.read() if item.read is not None else b""
        return load_image(data, self._preprocessing)

    def _known(self, key: Any) -> Any:
        if self.store is None or key is None:
            return None
        store = self.store
        # What stays on the card cannot be handed out.
        lease = self.runner.lease(key) if self._guarded not in self.wanted else None
        if lease is not None:
            return lease
        feature = self.runner.read_hit(lambda into: store.get(key, into))
        if feature is None or self._guarded is None:
            return None
        if self.runner.planner.outputs[self._guarded].has_row(feature):
            return feature
        if next(self._misfits) == 0:
            log.warning(
                "A stored map of %s is %s %s, which its stage does not give; such maps are computed again.",
                self._guarded, feature.dtype, " x ".join(map(str, feature.shape)),
            )  # fmt: skip
        return None

    def _wanted(self, computed: Sequence[PreparedItem]) -> Sequence[OutputRef]:
        """With the maps to keep, where there are any."""
        keeps = computed and self.store is not None and self.store.writable
        if not keeps or self._guarded is None or self._guarded in self.wanted:
            return self.wanted
        return (*self.wanted, self._guarded)

    def _keep(self, computed: Sequence[PreparedItem], outputs: Mapping[OutputRef, Array]) -> None:
        if self.store is None or self._guarded is None or not self.store.writable:
            return
        for item, feature in zip(computed, outputs.get(self._guarded, ()), strict=False):
            if item.key is not None:
                self.store.put(item.key, feature)

    def _count(
        self,
        items: Sequence[PreparedItem],
        good: Sequence[PreparedItem],
        hits: Sequence[PreparedItem],
    ) -> None:
        self.stats.images += len(items)
        self.stats.failed += len(items) - len(good)
        if self.store is not None:
            self.stats.hits += len(hits)
            self.stats.gpu_hits += sum(not isinstance(hit.feature, np.ndarray) for hit in hits)
            self.stats.misses += len(good) - len(hits)


def _distinct(misses: Sequence[PreparedItem]) -> tuple[list[PreparedItem], list[int]]:
    """The items to compute, and for each miss its row: the same picture twice is computed once."""
    row_of: dict[Any, int] = {}
    first: list[PreparedItem] = []
    rows = []
    for item in misses:
        name = item.key if item.key is not None else object()
        if name not in row_of:
            row_of[name] = len(first)
            first.append(item)
        rows.append(row_of[name])
    return first, rows
