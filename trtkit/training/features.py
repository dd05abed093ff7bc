"""What frozen blocks make of the photos, computed once and read from the feature store ever after."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.identity import bytes_digest, feature_key
from trtkit.store import FeatureStore
from trtkit.store.codec import as_stored
from trtkit.tensors import Array
from trtkit.training.batches import Indices, PhotoBatches, grouped, in_order
from trtkit.training.network import Network

# Rounding to fp16 (relative error 2^-11) halves what is read in every epoch.
DTYPE: Final = "fp16"
# Photos go through the front in these groups whatever the batch, so that a map that has to be computed
# again has the same bits: kernels may add up in another order for another number of images.
GROUP = 32
# Committed at least this often, which also keeps the writer from dropping what it has no room for.
_FLUSH_BYTES = 32 * 1024**2
# Up to so many bytes are read once and held: behind most blocks that is faster than the back computes.
HELD_BYTES = 1024**3

Advance = Callable[[str, float], None]
Missing = tuple[int, Indices]


@dataclass(frozen=True)
class Filled:
    """What filling the store took: maps computed, maps that were there, and seconds."""

    computed: int
    found: int
    seconds: float


class FeatureBatches:
    """Batches of feature maps of a network's front, fp16 N x C x H x W, from the store.

    `prefix` is the content's digest (hex) of what computes them. With `views` above 0 epoch after epoch
    takes the next of so many augmented views of each photo, else always the plain photo.
    """

    def __init__(
        self,
        photos: PhotoBatches,
        network: Network,
        store: FeatureStore,
        prefix: str,
        views: int = 0,
    ) -> None:
        self.photos = photos
        self.network = network
        self.store = store
        self.prefix = prefix
        self.views = views
        self._groups = in_order(len(photos), GROUP)
        self._group_of = {index: group for group in self._groups for index in group}
        self._computing = threading.Lock()
        self._held: list[Array] = []
        self._uncommitted = 0
        self._labels = np.array([photo.label for photo in photos.photos], dtype=np.int64)

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

    def fill(self, missing: Sequence[Missing], advance: Advance) -> Filled:
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
            found = self.store.get(self._key(index, view))
            return self._again(index, view) if found is None else found

        yield from grouped(order, read, self.photos.photos, self.photos.workers)

    def _again(self, index: int, view: int) -> Array:
        """A map that was damaged or evicted, computed with the group that it was computed in."""
        group = self._group_of[index]
        with self._computing:
            found = self.store.get(self._key(index, view))
            if found is not None:
                return found
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
        how = self.photos.augmentation
        if how is not None:
            drawn = json.dumps([asdict(how), self.photos.seed, view], sort_keys=True)
            digest = bytes_digest(digest + drawn.encode())
        return feature_key(digest, self.photos.image.digest, self.prefix)
