"""Measuring what feature maps cost on this machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.atomic import scratch_folder
from trtkit.costs.timed import Timed
from trtkit.errors import TrtkitError, os_reason
from trtkit.identity import bytes_digest
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.models import LoadedModel
from trtkit.store.cache import CacheOptions, PrefixCache, cache_folder
from trtkit.store.codec import KEY_BYTES, as_stored, encode
from trtkit.store.costs import CacheCosts, StoreCosts, format_name
from trtkit.store.maintenance import info
from trtkit.store.segment import segment_numbers, segment_path
from trtkit.store.writer import COMMIT_BYTES
from trtkit.tensors import Array

PASSES = 5
# More than the fewest only while they take less than this: a GPU's first runs prepare the others.
FEWEST_ROUNDS, MOST_ROUNDS, ROUNDS_SECONDS = 2, 12, 0.1
# The cache asks for the id of a prefix; a cache of its own needs none.
NO_PREFIX = "0" * 64


@dataclass(frozen=True)
class EngineCosts:
    """The costs of one model: seconds of the prefix and of the tail per image, and its feature maps.

    `features`: N x ..., in the dtype of the engines. `overlaps`: the engines run on a GPU.
    """

    prefix: float
    tail: float
    features: Array
    overlaps: bool


def engine_costs(model: LoadedModel, images: Array) -> EngineCosts:
    """Measure a model that is split on a batch of images, uint8 N x H x W x 3.

    The minimum of a few runs, not the median: other load only adds time.
    """
    timed = Timed(model, images)
    if timed.features is None:
        raise ValueError("only a model that is split has feature maps")
    whole: list[float] = []
    tail: list[float] = []
    while len(whole) < FEWEST_ROUNDS or (
        len(whole) < MOST_ROUNDS and sum(whole) + sum(tail) < ROUNDS_SECONDS
    ):
        whole.append(timed.computed())
        tail.append(timed.hit())
    behind = min(tail) / len(images)
    before = max(0.0, min(whole) / len(images) - behind)
    return EngineCosts(before, behind, timed.features, model.runner.on_gpu)


def measure_costs(
    tails: Mapping[str, EngineCosts],
    machine: tuple[str, ...],
    photos: Sequence[Path],
    preprocessing: Preprocessing,
) -> CacheCosts:
    """The costs of a bundle whose tails, by name, were measured: with decoding and the cache.

    `photos`: files to read and decode. Takes the default format of the cache. Raises TrtkitError when
    no cache can be made.
    """
    options = CacheOptions()
    first = next(iter(tails.values()))
    workers = reading_threads(overlaps=first.overlaps)
    stored = store_costs(photos, list(first.features), preprocessing, options, workers)
    return CacheCosts(
        machine=machine,
        batch=len(first.features),
        decode=decode_seconds(photos, preprocessing, workers),
        prefix=statistics.median(costs.prefix for costs in tails.values()),
        tails={name: costs.tail for name, costs in tails.items()},
        store={format_name(options.dtype, options.codec): stored},
        overlaps=first.overlaps,
    )


def reading_threads(*, overlaps: bool) -> int:
    """How many threads reading and decoding are measured with: on a GPU as many as a pipeline has.

    On the CPU one, because the core's time counts: a reader on a core delays the engines' thread there,
    for which all the others wait.
    """
    return default_workers() if overlaps else 1


def decode_seconds(photos: Sequence[Path], preprocessing: Preprocessing, workers: int = 1) -> float:
    """From a photo's file to the image that the engines take, by so many threads."""
    with _threads(workers) as threads:
        return _seconds(threads, lambda path: load_image(read_file(path), preprocessing), photos)


def store_costs(
    photos: Sequence[Path],
    features: Sequence[Array],
    preprocessing: Preprocessing,
    options: CacheOptions,
    workers: int = 1,
) -> StoreCosts:
    """Write and read feature maps (each without a batch dimension) as the maps of `photos`.

    `workers` threads read them. Maps are repeated when there are more photos. The cache is a new one on
    the disk of that of `options`, removed afterwards. Raises TrtkitError when it cannot be made or
    filled.
    """
    with _temporary_folder(cache_folder(options.folder)) as (folder, same_disk):
        own = replace(options, mode="always", folder=folder)
        with PrefixCache.open(own, preprocessing, NO_PREFIX) as cache:
            write = _fill(cache, photos, features)
            stored = info(folder)
            if stored.entries < len(photos):
                raise TrtkitError(
                    f"The disk of {folder} took {stored.entries} of {len(photos)} feature maps to "
                    "measure a cache with; free space there."
                )
            segments = [segment_path(folder, number) for number in segment_numbers(folder)]
            batch = np.empty((len(photos), *features[0].shape), features[0].dtype)

            def read(place: int) -> None:
                feature = cache.get(_key(cache, photos[place], place))
                if feature is not None:
                    batch[place] = feature

            places = range(len(photos))
            cold = None
            with _threads(workers) as threads:
                warm = _seconds(threads, read, places)
                if same_disk and hasattr(os, "posix_fadvise"):
                    cold = _seconds(threads, read, places, before=lambda: _forget(segments))
    return StoreCosts(stored.bytes // len(photos), read=warm, read_cold=cold, write=write)


def _fill(cache: PrefixCache, photos: Sequence[Path], features: Sequence[Array]) -> float:
    """Put a map for each photo, until they are committed; seconds for each."""
    started, waiting = time.perf_counter(), 0
    for number, path in enumerate(photos):
        feature = features[number % len(features)]
        cache.put(_key(cache, path, number), feature)
        waiting += feature.nbytes
        if waiting >= COMMIT_BYTES:
            # It commits here anyway; a disk that is slower must not have it refuse the next ones.
            cache.store.flush()
            waiting = 0
    cache.store.flush()
    return (time.perf_counter() - started) / len(photos)


def entry_bytes(feature: Array, options: CacheOptions) -> int:
    """What a feature map takes on the disk in that format, its header included."""
    stored = as_stored(feature, options.dtype)
    header, packed, _ = encode(bytes(KEY_BYTES), options.dtype, stored, options.codec)
    return len(packed) + header.payload_bytes


def _key(cache: PrefixCache, path: Path, number: int) -> bytes:
    """As a pipeline finds a photo; the same photo twice still has two maps here."""
    return bytes_digest(cache.key(read_file(path)) + number.to_bytes(8, "little"))


def _threads(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="trtkit-costs")


def _seconds(
    threads: ThreadPoolExecutor,
    work: Callable[[Any], object],
    items: Sequence[Any],
    before: Callable[[], None] = lambda: None,
) -> float:
    """Seconds an item: the median pass, so that the one that starts the threads does not count."""
    passes = []
    for _ in range(PASSES):
        before()
        started = time.perf_counter()
        for _ in threads.map(work, items):
            pass
        passes.append((time.perf_counter() - started) / len(items))
    return statistics.median(passes)


def _forget(files: Sequence[Path]) -> None:
    """Have the system drop what it keeps of these files in memory."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[tuple[Path, bool]]:
    """A temporary folder in `folder`, else in the system's own place; and whether it is in `folder`.

    A store knows its files by their names and never looks into folders.
    """
    with ExitStack() as stack:
        for place in (folder, None):
            try:
                if place is not None:
                    place.mkdir(parents=True, exist_ok=True)
                temporary = stack.enter_context(scratch_folder(place))
                break
            except OSError as error:
                if place is None:
                    raise TrtkitError(
                        f"Neither {folder} nor the system's temporary folder can be written "
                        f"({os_reason(error)}); free space there or name another cache folder."
                    ) from error
        yield temporary, place is not None
