"""From image files to predictions: decoding ahead, the cache in front of the prefix, one tail run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.bundle import Manifest, Stage, read_manifest
from trtkit.engines.base import Backend
from trtkit.errors import ImageError, TrtkitError
from trtkit.photos.files import FoundImage, find_images
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.runtime.chain import Lease, Pending, Runner, softmax
from trtkit.runtime.loading import backend_of, load_chain
from trtkit.serialization import from_plain
from trtkit.store.cache import CacheMode, CacheOptions, PrefixCache, cache_folder, fits_memory
from trtkit.store.costs import CacheCosts, CacheDecision, format_name, machine_of, weigh
from trtkit.tensors import Array


@dataclass(frozen=True)
class Prediction:
    """One class: its index, its label, its softmax score (0 to 1)."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Result:
    """What became of one file: `predictions`, best first, or `error`. `cached`: the prefix did not run."""

    path: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None
    cached: bool = False


@dataclass
class InferenceStats:
    """Counts and seconds of all that a pipeline inferred.

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
class ReadPhoto:
    """A file that was read: its pixels on a miss, its feature map on a hit, neither when it failed."""

    path: str
    key: bytes | None = None
    image: Array | None = None
    feature: Array | Lease | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Batch:
    """Photos that were given to the engines together.

    `places`: the row of the outcome for each photo that did not fail; `computed`: the photos whose
    feature maps come out of the prefix, in order. `pending` is None when all of them failed.
    """

    photos: Sequence[ReadPhoto]
    places: list[int]
    computed: list[ReadPhoto]
    pending: Pending | None


class Pipeline:
    """A bundle's tail, loaded and ready to classify files.

    Not for several threads at once. `close()` it, or use it as a context manager, so that what is
    still on its way to the cache is written. `cache_decision`: whether the cache on disk is used and why,
    where the cache mode left it open.
    """

    def __init__(
        self,
        manifest: Manifest,
        tail: Stage,
        chain: Runner,
        cache: PrefixCache | None = None,
        cache_decision: CacheDecision | None = None,
    ) -> None:
        self.manifest = manifest
        self.tail = tail
        self.chain = chain
        self.cache = cache if chain.split else None
        self.cache_decision = cache_decision
        self.stats = InferenceStats()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        try:
            self.chain.close()
        finally:
            # Whatever became of the device, what was computed is kept.
            if self.cache is not None:
                self.cache.store.close()
                stored = self.cache.store.stats
                self.stats.evicted, self.stats.dropped = stored.evicted, stored.dropped

    @property
    def meaningless(self) -> bool:
        """Whether the model was exported with random weights, so that its labels mean nothing."""
        return self.manifest.weights.get(self.tail.name, "").startswith("random")

    def stats_json(self, mode: CacheMode) -> dict[str, Any]:
        """The object of `infer --stats`; `mode` is the cache mode of the request.

        `why` in its `cache` is the sentence of the decision, null where the mode left nothing open.
        """
        stats = self.stats
        return {
            "images": stats.images,
            "failed": stats.failed,
            "seconds": round(stats.seconds, 6),
            "cache": {
                "mode": mode if self.cache is not None else "off",
                "hits": stats.hits,
                "misses": stats.misses,
                "evicted": stats.evicted,
                "dropped": stats.dropped,
                "gpu_hits": stats.gpu_hits,
                "why": self.cache_decision.why if self.cache_decision is not None else None,
            },
            "backend": self.manifest.backend,
            "bundle": self.manifest.name,
            "tail": self.tail.name,
        }

    def logits(self, images: Array) -> Array:
        """Logits, float32 N x classes, of prepared images, uint8 N x H x W x 3 RGB. No cache."""
        return self.chain.logits(images)

    def logits_and_features(self, images: Array) -> tuple[Array, Array | None]:
        """Logits, float32 N x classes, and the feature maps at the cut, N x ..., of one run. No cache.

        `images`: uint8 N x H x W x 3 RGB, 1 to the bundle's largest batch. The maps are in the dtype
        that the prefix gives and valid until the next run; None where nothing is split.
        """
        outcome = self.chain.submit(list(images), (), keep=True).result()
        return outcome.logits, outcome.features if self.chain.split else None

    def features(self, images: Array) -> Array | None:
        """A copy of the feature maps alone; for the rest see `logits_and_features`."""
        features = self.logits_and_features(images)[1]
        return None if features is None else features.copy()

    def logits_on_device(self, images: Any) -> Any:
        """Logits of prepared images that lie on the GPU, left there: float32 N x classes. No cache.

        `images`: uint8 N x H x W x 3 RGB, contiguous, an object with `__dlpack__` or
        `__cuda_array_interface__`, such as a torch or CuPy tensor or a pycuda GPUArray, which is read
        where it lies. So may the result be. Raises TrtkitError for a bundle that runs on the CPU.
        """
        if not self.chain.on_gpu:
            raise TrtkitError(
                f"Bundle {self.manifest.name} runs on {self.manifest.backend} on the CPU and has no logits "
                "on the GPU; use logits(), or build with --backend tensorrt."
            )
        return self.chain.on_device(images)

    def infer(
        self,
        paths: Iterable[str | Path],
        *,
        top: int = 5,
        batch: int | None = None,
        workers: int | None = None,
    ) -> Iterator[Result]:
        """The predictions for every image that `paths` name, in that order, as they are computed.

        `paths` are files, folders and globs; `top` classes per image; `batch` images per engine run
        (the bundle's optimum by default); `workers` decoding threads (the usable cores by default).
        Memory does not grow with the number of images. Raises TrtkitError when `paths` name nothing.
        """
        batch = self.manifest.batch[1] if batch is None else batch
        self._check_batch(batch)
        if top < 1:
            raise TrtkitError(f"The number of best classes must be 1 or more, not {top}.")
        started = time.perf_counter() - self.stats.seconds
        workers = workers or default_workers()
        ahead = 2 * batch + workers
        # Hits are held by photos that are read ahead and by batches under way.
        self.chain.reserve(batch, ahead + self.chain.depth * batch if self.cache else 0)
        # Closed, so that no thread goes on decoding for a caller who has stopped listening.
        with closing(
            ordered_map(self._read, find_images(paths), workers=workers, ahead=ahead)
        ) as photos:
            under_way: deque[_Batch] = deque()
            while (photos_of_batch := list(islice(photos, batch))) or under_way:
                if photos_of_batch:
                    under_way.append(self._start(photos_of_batch))
                if not photos_of_batch or len(under_way) == self.chain.depth:
                    results = self._finish(under_way.popleft(), top)
                    self.stats.seconds = time.perf_counter() - started
                    yield from results

    def _check_batch(self, batch: int) -> None:
        low, _, high = self.manifest.batch
        if not 1 <= batch <= high:
            raise TrtkitError(
                f"Bundle {self.manifest.name} takes batches of {low} to {high}, not {batch}; choose one of "
                "those or build with --batch."
            )

    def _read(self, file: FoundImage) -> ReadPhoto:
        """Runs in the decoding threads: a hit is neither decoded nor resized."""
        path = str(file.path)
        if file.error is not None:
            return ReadPhoto(path, error=file.error)
        try:
            data = read_file(file.path)
            key = self.cache.key(data) if self.cache else None
            if self.cache is not None and key is not None:
                cache, sought = self.cache, key
                feature = self.chain.lease(key) or self.chain.read_hit(
                    lambda into: cache.get(sought, into)
                )
                if feature is not None:
                    return ReadPhoto(path, key, feature=feature)
            return ReadPhoto(path, key, image=load_image(data, self.manifest.preprocessing))
        except ImageError as error:
            return ReadPhoto(path, error=str(error))

    def _start(self, photos: Sequence[ReadPhoto]) -> _Batch:
        """Give a batch to the engines: the distinct misses, and the feature maps that are known."""
        good = [photo for photo in photos if photo.error is None]
        hits = [photo for photo in good if photo.feature is not None]
        misses = [photo for photo in good if photo.feature is None]
        self.stats.images += len(photos)
        self.stats.failed += len(photos) - len(good)
        if self.cache is not None:
            self.stats.hits += len(hits)
            self.stats.gpu_hits += sum(not isinstance(hit.feature, np.ndarray) for hit in hits)
            self.stats.misses += len(misses)
        first, rows = _distinct(misses)
        pending = None
        if good:
            pending = self.chain.submit(
                [photo.image for photo in first if photo.image is not None],
                [photo.feature for photo in hits if photo.feature is not None],
                keys=[photo.key for photo in (*first, *hits)],
                keep=self.cache is not None and self.cache.store.writable,
            )
        # A miss has its image's row; the hits have those behind.
        behind = count(len(first))
        computed = iter(rows)
        places = [next(computed if photo.feature is None else behind) for photo in good]
        return _Batch(photos, places, first, pending)

    def _finish(self, batch: _Batch, top: int) -> list[Result]:
        """Wait for a batch, keep its feature maps, and say what each photo shows."""
        if batch.pending is None:
            return [Result(photo.path, error=photo.error) for photo in batch.photos]
        outcome = batch.pending.result()
        if self.cache is not None and outcome.features is not None:
            for photo, feature in zip(batch.computed, outcome.features, strict=True):
                if photo.key is not None:
                    self.cache.put(photo.key, feature)
        rows = iter(softmax(outcome.logits[batch.places]))
        return [
            Result(photo.path, error=photo.error)
            if photo.error is not None
            else Result(
                photo.path,
                self._best(next(rows), top),
                cached=photo.feature is not None,
            )
            for photo in batch.photos
        ]

    def _best(self, scores: Array, top: int) -> tuple[Prediction, ...]:
        classes = self.tail.classes or ()
        # A stable sort, so that equal scores keep the order of their classes everywhere.
        order = np.argsort(-scores, kind="stable")[:top]
        return tuple(
            Prediction(int(index), classes[index], float(scores[index])) for index in order
        )


def load(
    folder: str | Path,
    *,
    tail: str | None = None,
    cache: CacheOptions | None = None,
    gpu_cache: int = 0,
) -> Pipeline:
    """The pipeline of the bundle in `folder`, for one tail (the first one by default).

    `cache` None or mode `off` means without one. `gpu_cache`: bytes of device memory for feature maps
    that stay on the card, in front of the cache on disk; 0 for none. Raises TrtkitError when the
    bundle is missing, damaged, or made for a backend that is not here.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    chosen = manifest.tail(tail)
    used = cache is not None and cache.mode != "off"
    if gpu_cache and not (used and manifest.path_to(chosen)[0] is not chosen):
        why = (
            f"bundle {manifest.name} is not split"
            if used
            else "the cache behind it is switched off"
        )
        raise TrtkitError(f"A GPU cache has no use: {why}; leave --gpu-cache out.")
    backend = backend_of(manifest)
    chain = load_chain(folder, manifest, chosen, backend, gpu_cache=gpu_cache)
    decision, prefix_cache = None, None
    if cache is not None and used:
        cache.check_dtype(manifest.path_to(chosen)[0].outputs[0].dtype, manifest.name)
    if chain.split and cache is not None and used:
        if cache.mode == "auto":
            name = "Cache on disk" if gpu_cache else "Cache"
            decision = _weigh(manifest, chosen, backend, cache, name)
        idle = decision is not None and not decision.use
        # Asked for by its size, the one on the card is used all the same; it needs the keys.
        if gpu_cache or not idle:
            prefix = manifest.path_to(chosen)[0]
            prefix_cache = PrefixCache.open(cache, manifest.preprocessing, prefix.id, idle=idle)
    return Pipeline(manifest, chosen, chain, prefix_cache, decision)


def _weigh(
    manifest: Manifest, tail: Stage, backend: Backend, cache: CacheOptions, name: str
) -> CacheDecision:
    """Whether the cache on disk, called `name`, is worth it by what the build measured."""
    try:
        costs = from_plain(manifest.costs, CacheCosts) if manifest.costs is not None else None
    except ValueError:
        # Of a trtkit that measured otherwise; the engines are as good as their digests say.
        costs = None
    return weigh(
        costs,
        machine_of(backend),
        tail.name,
        format_name(cache.floats, cache.codec),
        resident=fits_memory(cache_folder(cache.folder)),
        name=name,
    )


def _distinct(misses: Sequence[ReadPhoto]) -> tuple[list[ReadPhoto], list[int]]:
    """The photos to compute, and for each miss its row: the same photo twice is computed once."""
    row_of: dict[bytes | int, int] = {}
    first: list[ReadPhoto] = []
    rows = []
    for position, photo in enumerate(misses):
        name = photo.key if photo.key is not None else position
        if name not in row_of:
            row_of[name] = len(first)
            first.append(photo)
        rows.append(row_of[name])
    return first, rows
