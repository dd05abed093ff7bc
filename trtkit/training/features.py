"""Outputs of frozen blocks: computed once, kept in the feature store, and read in every epoch."""

from __future__ import annotations

import json
import logging
import math
import shutil
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
from blake3 import blake3

from trtkit.errors import TrtkitError
from trtkit.identity import bytes_digest, feature_key
from trtkit.models.blocks import prefix_digest
from trtkit.reporting import advance, message
from trtkit.serialization import to_plain
from trtkit.sizes import human_bytes
from trtkit.store.codec import as_stored
from trtkit.store.store import FeatureStore
from trtkit.tensors import Array, TensorSpec
from trtkit.training.batches import Indices, PhotoBatches, grouped, in_order
from trtkit.training.network import TrainedNetwork

log = logging.getLogger("trtkit.training")

# Rounding to fp16 (relative error 2^-11) halves what is read in every epoch.
DTYPE: Final = "fp16"
# Photos go through the front in these groups whatever the batch, so that a map that has to be computed
# again has the same bits: kernels may add up in another order for another number of images.
GROUP = 32
# Committed at least this often, which also keeps the writer from dropping what it has no room for.
_FLUSH_BYTES = 32 * 1024**2
# Up to so many bytes are read once and held: behind most blocks that is faster than the back computes.
HELD_BYTES = 1024**3
# Photos that are run through the frozen blocks to measure how long that takes.
_PROBED_GROUPS = 3

Missing = tuple[int, Indices]


@dataclass(frozen=True)
class Filled:
    """What filling the store took: maps computed, maps that it already held, and seconds."""

    computed: int
    reused: int
    seconds: float


@dataclass(eq=False)
class FeatureBatches:
    """Batches of feature maps of a network's front, fp16 N x C x H x W, from the store.

    `prefix` is the content's digest (hex) of what computes them. With `views` above 0 epoch after epoch
    takes the next of so many augmented views of each photo, else always the plain photo.
    """

    photos: PhotoBatches
    network: TrainedNetwork
    store: FeatureStore
    prefix: str
    views: int = 0

    def __post_init__(self) -> None:
        image = self.photos.image
        blank = np.zeros((1, image.height, image.width, 3), np.uint8)
        _, *sizes = self.network.features(blank).shape
        self._map = TensorSpec("map", "float32", (None, *sizes))
        self.bytes_per_map = 2 * math.prod(sizes)
        self._misfits = count()
        self._groups = in_order(len(self.photos), GROUP)
        self._group_of = {index: group for group in self._groups for index in group}
        self._computing = threading.Lock()
        self._held: list[Array] = []
        self._uncommitted = 0
        self._labels = np.array([photo.label for photo in self.photos.photos], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def maps(self) -> int:
        """How many feature maps there are altogether."""
        return len(self.photos) * max(1, self.views)

    def missing(self) -> list[Missing]:
        """The groups of photos, with the view, of which the store lacks a map."""
        return [
            (view, group)
            for view in range(max(1, self.views))
            for group in self._groups
            if not all(self.store.has(self._key(index, view)) for index in group)
        ]

    def fill(self, missing: Sequence[Missing]) -> Filled:
        """Compute the maps that the store lacks. Raises TrtkitError when it takes no more."""
        started = time.perf_counter()
        done = 0
        for view in sorted({view for view, _ in missing}):
            groups = [group for of, group in missing if of == view]
            with closing(self.photos.batches(groups, view)) as batches:
                for group, (images, _) in zip(groups, batches, strict=True):
                    self._put(group, view, images)
                    done += 1
                    advance("Running photos through the frozen blocks", done / len(missing))
        if missing:
            self._commit()
        computed = sum(len(group) for _, group in missing)
        return Filled(computed, self.maps - computed, time.perf_counter() - started)

    def hold(self) -> None:
        """Keep all maps in memory from now on."""
        order = [range(len(self))]
        self._held = [next(self._from_store(order, view))[0] for view in range(max(1, self.views))]

    def batches(
        self, order: Sequence[Indices], epoch: int
    ) -> Generator[tuple[Array, Array], None, None]:
        view = (epoch - 1) % self.views if self.views else 0
        if not self._held:
            yield from self._from_store(order, view)
            return
        for group in order:
            yield self._held[view][group], self._labels[group]

    def _from_store(
        self, order: Sequence[Indices], view: int
    ) -> Generator[tuple[Array, Array], None, None]:
        def read(index: int) -> Array:
            stored = self._stored(index, view)
            return self._recompute(index, view) if stored is None else stored

        yield from grouped(order, read, self.photos.photos, self.photos.workers)

    def _stored(self, index: int, view: int) -> Array | None:
        """The stored map; None where there is none, or one that the frozen blocks do not give."""
        stored = self.store.get(self._key(index, view))
        if stored is None or self._map.has_row(stored):
            return stored
        if next(self._misfits) == 0:
            log.warning(
                "A stored map is %s %s, which the frozen blocks do not give; such maps are computed again.",
                stored.dtype, " x ".join(map(str, stored.shape)),
            )  # fmt: skip
        return None

    def _recompute(self, index: int, view: int) -> Array:
        """A map that was damaged or evicted, computed with the group that it was computed in."""
        group = self._group_of[index]
        with self._computing:
            stored = self._stored(index, view)
            if stored is not None:
                return stored
            photos = self.photos.photos
            images = np.stack([self.photos.prepare(photos[member], view) for member in group])
            maps = self._put(group, view, images)
        return as_stored(maps[list(group).index(index)], DTYPE)

    def _put(self, group: Indices, view: int, images: Array) -> Array:
        maps = self.network.features(images)
        for index, value in zip(group, maps, strict=True):
            self.store.put(self._key(index, view), value)
            self._uncommitted += value.nbytes
            if self._uncommitted > _FLUSH_BYTES:
                self._commit()
        return maps

    def _commit(self) -> None:
        self._uncommitted = 0
        self.store.flush()
        if not self.store.writable:
            reason = str(self.store.read_only_reason).partition(";")[0]
            raise TrtkitError(
                f"{reason}; free space, give another --cache-dir, or --no-feature-store."
            )

    def _key(self, index: int, view: int) -> bytes:
        digest = self.photos.photos[index].digest
        augmentation = self.photos.augmentation
        if augmentation is not None:
            drawn = json.dumps([to_plain(augmentation), self.photos.seed, view], sort_keys=True)
            digest = bytes_digest(digest + drawn.encode())
        return feature_key(digest, self.photos.image.digest, self.prefix)


@dataclass(frozen=True)
class StoredFeatures:
    """The feature maps of a training, all in the store.

    `bytes`: their size; `filled`: what computing them took. `through`: seconds for a photo to be read,
    prepared and run through the frozen blocks, measured when the training began.
    """

    train: FeatureBatches
    val: FeatureBatches
    bytes: int
    filled: Filled
    through: float

    def describe(self, rate: float) -> dict[str, Any]:
        """The entry `features` of metrics.json. `rate`: images per second of the epochs.

        The rate of epochs through the frozen blocks is estimated: the time of a step from the store
        plus the time of the frozen blocks.
        """
        return {
            "maps": self.train.maps + self.val.maps,
            "bytes": self.bytes,
            "computed": self.filled.computed,
            "found": self.filled.reused,
            "seconds": self.filled.seconds,
            "images_per_second": rate,
            "images_per_second_through_frozen_blocks": 1 / (1 / rate + self.through),
        }


def describe_rates(features: dict[str, Any]) -> str:
    """The gain of the feature store, as a sentence."""
    rate = features["images_per_second"]
    through = features["images_per_second_through_frozen_blocks"]
    return (
        f"{rate:.0f} images/s from the feature store; through the frozen blocks every epoch it would "
        f"have been about {through:.0f} images/s ({rate / through:.1f} times)."
    )


@contextmanager
def store_features(
    network: TrainedNetwork,
    train: PhotoBatches,
    val: PhotoBatches,
    *,
    views: int,
    folder: Path,
    size: int,
) -> Iterator[StoredFeatures]:
    """The outputs of a network's front for these photos, in the store in `folder` of `size` bytes.

    Raises TrtkitError when the store cannot be written to or has no room for all of them.
    """
    prefix = _identity(network)
    with _open(folder, size) as store:
        sources = (
            FeatureBatches(train, network, store, prefix, views),
            FeatureBatches(val, network, store, prefix),
        )
        missing = [source.missing() for source in sources]
        lacking = sum(len(group) for groups in missing for _, group in groups)
        needed = _check_room(store, sources, size, lacking)
        parts = [source.fill(groups) for source, groups in zip(sources, missing, strict=True)]
        if needed <= HELD_BYTES:
            for source in sources:
                source.hold()
        reused = sum(part.reused for part in parts)
        filled = Filled(lacking, reused, sum(part.seconds for part in parts))
        message(
            f"The outputs of the frozen blocks are in {folder} ({human_bytes(needed)}): "
            f"{filled.computed} computed in {filled.seconds:.1f} s, {filled.reused} were there."
        )
        yield StoredFeatures(*sources, needed, filled, _through(network, train))


def _identity(network: TrainedNetwork) -> str:
    """BLAKE3 (hex) of the frozen blocks and of the device, whose kernels round in their own way."""
    blocks = prefix_digest(network.model, network.frozen or 0)
    place = f"{network.device.type} {'mixed' if network.mixed else 'fp32'}"
    return blake3(f"training {blocks} {place}".encode()).hexdigest()


def _through(network: TrainedNetwork, photos: PhotoBatches) -> float:
    """Seconds a photo takes from its file through the frozen blocks, decoded ahead as in an epoch."""
    count = min(len(photos), _PROBED_GROUPS * GROUP)
    groups = in_order(count, GROUP)
    with closing(photos.batches(groups[:1], 0)) as batches:
        network.features(next(batches)[0])
    started = time.perf_counter()
    with closing(photos.batches(groups, 0)) as batches:
        for images, _ in batches:
            network.features(images)
    return (time.perf_counter() - started) / count


def _open(folder: Path, size: int) -> FeatureStore:
    """The feature store of trainings. Raises TrtkitError when it cannot be written to."""
    try:
        return FeatureStore(folder, mode="write", dtype=DTYPE, max_bytes=size)
    except TrtkitError as error:
        raise TrtkitError(
            f"{str(error).rstrip('.')}; for a training give another --cache-dir, or --no-feature-store."
        ) from error


def _check_room(
    store: FeatureStore, sources: Sequence[FeatureBatches], size: int, lacking: int
) -> int:
    """The bytes that the maps of `sources` take. Raises TrtkitError when there is no room for them.

    `lacking`: the number of maps that the store does not hold yet.
    """
    bytes_per_map = sources[0].bytes_per_map
    needed = sum(source.maps for source in sources) * bytes_per_map
    # The store evicts whole segments, of at most a quarter of its size.
    if needed > size * 3 // 4:
        raise TrtkitError(
            f"The frozen blocks' outputs take {human_bytes(needed)} ({bytes_per_map:,} bytes for a view of "
            f"a photo), but the feature store is limited to {human_bytes(size)}; give --cache-size "
            f"{needed * 4 // 3 // 2**30 + 1}G, fewer views with --augment, or --no-feature-store."
        )
    free = shutil.disk_usage(store.folder).free
    more = lacking * bytes_per_map
    if more > free:
        raise TrtkitError(
            f"The frozen blocks' outputs take {human_bytes(more)}, but the disk of {store.folder} has "
            f"{human_bytes(free)} free; give a --cache-dir elsewhere, or --no-feature-store."
        )
    return int(needed)
