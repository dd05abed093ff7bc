"""From image files to predictions: decoding ahead, the cache in front of the prefix, one tail run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.bundle import Manifest, Stage, read_manifest
from trtkit.cpu import usable_cores
from trtkit.errors import ImageError, TrtkitError
from trtkit.runtime.cache import CacheMode, CacheOptions, PrefixCache
from trtkit.runtime.chain import Chain, backend_of, softmax
from trtkit.runtime.files import FoundImage, find_images
from trtkit.runtime.images import load_image, read_file
from trtkit.runtime.prefetch import ordered_map
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
    not kept, because the cache was too small or its disk too slow.
    """

    images: int = 0
    failed: int = 0
    seconds: float = 0.0
    hits: int = 0
    misses: int = 0
    evicted: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class _Photo:
    """A file that was read: its pixels on a miss, its feature map on a hit, neither when it failed."""

    path: str
    key: bytes | None = None
    image: Array | None = None
    feature: Array | None = None
    error: str | None = None


class Pipeline:
    """A bundle's tail, loaded and ready to classify files.

    Not for several threads at once. `close()` it, or use it as a context manager, so that what is
    still on its way to the cache is written.
    """

    def __init__(
        self, manifest: Manifest, tail: Stage, chain: Chain, cache: PrefixCache | None = None
    ) -> None:
        self.manifest = manifest
        self.tail = tail
        self.chain = chain
        self.cache = cache if chain.split else None
        self.stats = InferenceStats()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self.cache is not None:
            self.cache.store.close()
            kept = self.cache.store.stats
            self.stats.evicted, self.stats.dropped = kept.evicted, kept.dropped

    @property
    def meaningless(self) -> bool:
        """Whether the model was exported with random weights, so that its labels mean nothing."""
        return self.manifest.weights.get(self.tail.name, "").startswith("random")

    def stats_json(self, mode: CacheMode) -> dict[str, Any]:
        """The object of `infer --stats`; `mode` is the cache mode that was asked for."""
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
            },
            "backend": self.manifest.backend,
            "bundle": self.manifest.name,
            "tail": self.tail.name,
        }

    def logits(self, images: Array) -> Array:
        """Logits, float32 N x classes, of prepared images, uint8 N x H x W x 3 RGB. No cache."""
        return self.chain.logits(images)

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
            raise TrtkitError(f"The {top} best classes were asked for; ask for 1 or more.")
        started = time.perf_counter() - self.stats.seconds
        workers = workers or default_workers()
        ahead = 2 * batch + workers
        # Closed, so that no thread goes on decoding for a caller who has stopped listening.
        with closing(
            ordered_map(self._read, find_images(paths), workers=workers, ahead=ahead)
        ) as photos:
            while photos_of_batch := list(islice(photos, batch)):
                results = self._classify(photos_of_batch, top)
                self.stats.seconds = time.perf_counter() - started
                yield from results

    def _check_batch(self, batch: int) -> None:
        low, _, high = self.manifest.batch
        if not 1 <= batch <= high:
            raise TrtkitError(
                f"A batch of {batch} was asked of the bundle {self.manifest.name}, which was built "
                f"for {low} to {high} images; choose one of those or build with --batch."
            )

    def _read(self, found: FoundImage) -> _Photo:
        """Runs in the decoding threads: a hit is neither decoded nor resized."""
        path = str(found.path)
        if found.error is not None:
            return _Photo(path, error=found.error)
        try:
            data = read_file(found.path)
            key = self.cache.key(data) if self.cache else None
            if self.cache is not None and key is not None:
                feature = self.cache.get(key)
                if feature is not None:
                    return _Photo(path, key, feature=feature)
            return _Photo(path, key, image=load_image(data, self.manifest.preprocessing))
        except ImageError as error:
            return _Photo(path, error=str(error))

    def _classify(self, photos: Sequence[_Photo], top: int) -> list[Result]:
        good = [photo for photo in photos if photo.error is None]
        hits = sum(photo.feature is not None for photo in good)
        self.stats.images += len(photos)
        self.stats.failed += len(photos) - len(good)
        if self.cache is not None:
            self.stats.hits += hits
            self.stats.misses += len(good) - hits
        rows = iter(softmax(self._logits(good))) if good else iter(())
        return [
            Result(photo.path, error=photo.error)
            if photo.error is not None
            else Result(
                photo.path,
                self._best(next(rows), top),
                cached=photo.feature is not None,
            )
            for photo in photos
        ]

    def _logits(self, photos: Sequence[_Photo]) -> Array:
        if all(photo.feature is None for photo in photos):
            return self._logits_of_misses(photos)
        return self.chain.from_features(self._gather(photos))

    def _logits_of_misses(self, photos: Sequence[_Photo]) -> Array:
        """The whole batch through the prefix, whose output goes to the tail where it lies."""
        images, rows = self._distinct_images(photos)
        features = self.chain.features(images)
        if self.cache is not None:
            self._keep(photos, features.numpy(), rows)
        logits = self.chain.from_features(features)
        return logits if len(images) == len(photos) else logits[rows]

    def _gather(self, photos: Sequence[_Photo]) -> Array:
        """One array of all feature maps, in the order of `photos`: hits as read, misses computed."""
        misses = [photo for photo in photos if photo.feature is None]
        computed: Array | None = None
        rows: list[int] = []
        if misses:
            images, rows = self._distinct_images(misses)
            computed = self.chain.features(images).numpy()
            self._keep(misses, computed, rows)
        shape = next(photo.feature.shape for photo in photos if photo.feature is not None)
        gathered = np.empty((len(photos), *shape), dtype=self.chain.feature_dtype)
        next_row = iter(rows)
        for position, photo in enumerate(photos):
            if photo.feature is not None:
                gathered[position] = photo.feature
            elif computed is not None:
                gathered[position] = computed[next(next_row)]
        return gathered

    def _distinct_images(self, photos: Sequence[_Photo]) -> tuple[Array, list[int]]:
        """The images to compute, and for each photo its row: the same photo twice is computed once."""
        row_of: dict[bytes | int, int] = {}
        images: list[Array | None] = []
        rows = []
        for position, photo in enumerate(photos):
            name = photo.key if photo.key is not None else position
            if name not in row_of:
                row_of[name] = len(images)
                images.append(photo.image)
            rows.append(row_of[name])
        return np.stack([image for image in images if image is not None]), rows

    def _keep(self, photos: Sequence[_Photo], features: Array, rows: Sequence[int]) -> None:
        for row, photo in dict(zip(rows, photos, strict=True)).items():
            if self.cache is not None and photo.key is not None:
                self.cache.put(photo.key, features[row])

    def _best(self, scores: Array, top: int) -> tuple[Prediction, ...]:
        classes = self.tail.classes or ()
        # A stable sort, so that equal scores keep the order of their classes everywhere.
        order = np.argsort(-scores, kind="stable")[:top]
        return tuple(
            Prediction(int(index), classes[index], float(scores[index])) for index in order
        )


def load(
    folder: str | Path, *, tail: str | None = None, cache: CacheOptions | None = None
) -> Pipeline:
    """The pipeline of the bundle in `folder`, for one tail (the first one by default).

    `cache` None or mode `off` means without one. Raises TrtkitError when the bundle is missing,
    damaged, or made for a backend that is not here.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    chosen = manifest.tail(tail)
    chain = Chain.load(folder, manifest, chosen, backend_of(manifest))
    prefix_cache = None
    if chain.split and cache is not None and cache.mode != "off":
        prefix = manifest.path_to(chosen)[0]
        prefix_cache = PrefixCache.open(cache, manifest.preprocessing, prefix.id)
    return Pipeline(manifest, chosen, chain, prefix_cache)


def default_workers() -> int:
    """Decoding threads: one per usable core, at most 16."""
    return min(16, usable_cores())
