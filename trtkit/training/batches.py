"""Photos in batches: the order of an epoch, and decoding ahead in threads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, dataclass

import numpy as np

from trtkit.errors import ImageError, TrtkitError
from trtkit.evaluation.folders import LabelledPhoto
from trtkit.identity import derived_seed
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import ordered_map
from trtkit.preprocessing import Preprocessing
from trtkit.tensors import Array
from trtkit.training.augment import Augmentation, augmented

# Batches whose photos are decoded while the model computes.
BATCHES_AHEAD = 3

Indices = Sequence[int]


def epoch_order(count: int, batch: int, seed: int, epoch: int) -> list[Indices]:
    """All of `count` photos, shuffled, in groups of nearly one size, `batch` at most.

    It depends on the seed and the epoch alone, so that an epoch can be resumed in its middle. No group
    has one photo only where that can be helped: batch norm cannot learn from one.
    """
    shuffled = np.random.default_rng(derived_seed(seed, "order", epoch)).permutation(count)
    return [group.tolist() for group in np.array_split(shuffled, _groups(count, batch))]


def in_order(count: int, batch: int) -> list[Indices]:
    """All of `count` photos as they come, in groups of nearly one size, `batch` at most."""
    return [group.tolist() for group in np.array_split(np.arange(count), -(-count // batch))]


def _groups(count: int, batch: int) -> int:
    groups = -(-count // batch)
    return max(1, groups - 1) if count // groups < 2 else groups


@dataclass(frozen=True)
class PhotoBatches:
    """Batches decoded from the photos' files, each photo augmented anew in every epoch.

    Without augmentation a photo is exactly what `infer` gives the engine. A view depends on the seed,
    the epoch and the photo's bytes alone. `workers`: decoding threads.
    """

    photos: Sequence[LabelledPhoto]
    image: Preprocessing
    _: KW_ONLY
    workers: int
    augmentation: Augmentation | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.photos)

    def batches(
        self, order: Sequence[Indices], epoch: int
    ) -> Generator[tuple[Array, Array], None, None]:
        """Inputs, uint8 N x H x W x 3, and int64 labels for each group of indices, in that order."""
        yield from grouped(
            order, lambda index: self.prepare(self.photos[index], epoch), self.photos, self.workers
        )

    def prepare(self, photo: LabelledPhoto, view: int) -> Array:
        """View number `view` of a photo, uint8 H x W x 3. Raises TrtkitError once it is unreadable."""
        try:
            data = read_file(photo.path)
            if self.augmentation is None:
                return load_image(data, self.image)
            random = np.random.default_rng(
                derived_seed(self.seed, "augment", view, photo.digest.hex())
            )
            return augmented(data, self.image, self.augmentation, random)
        except ImageError as error:
            raise TrtkitError(
                f"{photo.path} could be read when the training began and cannot any more: {error}"
            ) from error


def grouped(
    order: Sequence[Indices],
    prepare: Callable[[int], Array],
    photos: Sequence[LabelledPhoto],
    workers: int,
) -> Generator[tuple[Array, Array], None, None]:
    """Batches of `prepare(index)`, which threads call ahead."""
    if not order:
        return
    ahead = BATCHES_AHEAD * max(map(len, order))
    indices: Iterable[int] = (index for group in order for index in group)
    with closing(ordered_map(prepare, indices, workers=workers, ahead=ahead)) as prepared:
        for group in order:
            arrays = [next(prepared) for _ in group]
            labels = np.array([photos[index].label for index in group], dtype=np.int64)
            yield np.stack(arrays), labels
