"""Training from the feature store: opening it, room for all maps, filling it, what that brings."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from trtkit.errors import TrtkitError
from trtkit.models.prefix import prefix_digest
from trtkit.sizes import human_bytes
from trtkit.store import FeatureStore
from trtkit.training.batches import PhotoBatches
from trtkit.training.features import DTYPE, GROUP, HELD_BYTES, FeatureBatches, Filled
from trtkit.training.network import Network

# Photos that are run through the frozen blocks to see how long that takes.
_PROBED_GROUPS = 3

Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class Stored:
    """The feature maps of a training, all in the store.

    `bytes` they take; `filled`: what computing them took. `through`: seconds for a photo to be read,
    prepared and run through the frozen blocks, measured when the training began.
    """

    train: FeatureBatches
    val: FeatureBatches
    bytes: int
    filled: Filled
    through: float

    def to_json(self, rate: float) -> dict[str, Any]:
        """`rate`: images per second of the epochs, which read from the store.

        What it would be with every epoch through the frozen blocks is estimated: the time of a step
        from the store and that of the frozen blocks, added.
        """
        return {
            "maps": self.train.maps + self.val.maps,
            "bytes": self.bytes,
            "computed": self.filled.computed,
            "found": self.filled.found,
            "seconds": self.filled.seconds,
            "images_per_second": rate,
            "images_per_second_through_frozen_blocks": 1 / (1 / rate + self.through),
        }


def describe_rates(features: dict[str, Any]) -> str:
    """What the feature store brought, in a sentence."""
    rate = features["images_per_second"]
    through = features["images_per_second_through_frozen_blocks"]
    return (
        f"{rate:.0f} images/s from the feature store; through the frozen blocks every epoch it would "
        f"have been about {through:.0f} images/s ({rate / through:.1f} times)."
    )


@contextmanager
def store_features(
    network: Network,
    train: PhotoBatches,
    val: PhotoBatches,
    *,
    views: int,
    folder: Path,
    size: int,
    progress: Callable[[str], None],
    advance: Advance,
) -> Iterator[Stored]:
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
        lacking = sum(len(group) for each in missing for _, group in each)
        needed = _check_room(store, sources, size, lacking)
        parts = [
            source.fill(groups, advance) for source, groups in zip(sources, missing, strict=True)
        ]
        if needed <= HELD_BYTES:
            for source in sources:
                source.hold()
        filled = Filled(*(sum(values) for values in zip(*map(_values, parts), strict=True)))
        progress(
            f"The outputs of the frozen blocks are in {folder} ({human_bytes(needed)}): "
            f"{filled.computed} computed in {filled.seconds:.1f} s, {filled.found} were there."
        )
        yield Stored(*sources, needed, filled, _through(network, train))


def _values(filled: Filled) -> tuple[int, int, float]:
    return filled.computed, filled.found, filled.seconds


def _identity(network: Network) -> str:
    """BLAKE3 (hex) of what computes the maps: the frozen blocks, and where: kernels round differently."""
    blocks = prefix_digest(network.model, network.frozen or 0)
    place = f"{network.device.type} {'mixed' if network.mixed else 'fp32'}"
    return blake3(f"training {blocks} {place}".encode()).hexdigest()


def _through(network: Network, photos: PhotoBatches) -> float:
    """Seconds a photo takes from its file through the frozen blocks, decoded ahead as in an epoch."""
    count = min(len(photos), _PROBED_GROUPS * GROUP)
    groups = [group.tolist() for group in np.array_split(np.arange(count), -(-count // GROUP))]
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

    `lacking`: how many of them the store has not.
    """
    bytes_per_map = 0
    for source in sources:
        image = source.photos.image
        blank = np.zeros((1, image.height, image.width, 3), np.uint8)
        bytes_per_map = source.network.features(blank).size * 2
    needed = sum(source.maps for source in sources) * bytes_per_map
    # The store evicts whole segments, of at most a quarter of its size.
    if needed > size * 3 // 4:
        raise TrtkitError(
            f"The frozen blocks' outputs take {human_bytes(needed)} ({bytes_per_map:,} bytes for a view of "
            f"a photo), but the feature store is to hold {human_bytes(size)}; give --cache-size "
            f"{needed * 4 // 3 // 2**30 + 1}G, fewer views with --augment, or --no-feature-store."
        )
    free = shutil.disk_usage(store.folder).free
    more = lacking * bytes_per_map
    if more > free:
        raise TrtkitError(
            f"The frozen blocks' outputs take {human_bytes(more)}, but the disk of {store.folder} has "
            f"{human_bytes(free)} free; give a --cache-dir elsewhere, or --no-feature-store."
        )
    return needed
