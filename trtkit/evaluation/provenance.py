"""Whether photos that a model is evaluated on were trained on, by what its checkpoint says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trtkit.errors import TrtkitError
from trtkit.evaluation.dataset import (
    ALL,
    FOLDERS,
    Dataset,
    Part,
    read_dataset,
    split_photos,
)
from trtkit.evaluation.folders import TRAIN, VAL


def may_be_of(part: Part, trained_on: Mapping[str, Any]) -> bool:
    """Whether a checkpoint may have been trained on photos of `part`, as far as their number says.

    `trained_on` is what the checkpoint's metadata say under `dataset`: the data's `fingerprint`, the
    `split`, the `seed`, and the number of photos in `train` and `val`.
    """
    if not isinstance(trained_on.get("fingerprint"), str):
        return False
    if (trained_on.get("split") == FOLDERS) != part.folders:
        return False
    if part.folders and part.part == VAL:
        return False
    counted = (TRAIN,) if part.folders and part.part == TRAIN else (TRAIN, VAL)
    numbers = [trained_on.get(name) for name in counted]
    there = len(part.photos)
    if part.dataset is not None:
        there = len(part.dataset.train) + len(part.dataset.val)
    # Photos that training could not read are there too.
    return sum(number for number in numbers if isinstance(number, int)) <= there


def photos_trained_on(
    part: Part,
    digests: Mapping[Path, bytes],
    trained_on: Mapping[str, Any],
    *,
    workers: int | None = None,
) -> int:
    """The number of evaluated photos that were trained on; 0 when the training used other data.

    `digests`: the 32-byte BLAKE3 of each photo of `part` that could be read. Data are the same when
    their fingerprint is, which covers every byte of them.
    """
    try:
        dataset = _as_trained(part, digests, trained_on, workers)
    except TrtkitError:
        # Data that cannot be split were never trained on.
        return 0
    if dataset.fingerprint != trained_on["fingerprint"]:
        return 0
    trained = {photo.digest for photo in dataset.train}
    return sum(digest in trained for digest in digests.values())


def _as_trained(
    part: Part,
    digests: Mapping[Path, bytes],
    trained_on: Mapping[str, Any],
    workers: int | None,
) -> Dataset:
    """All photos of the data that `part` belongs to, split as the checkpoint's metadata say."""
    if part.folders and part.part != ALL:
        # The other folder was not read yet.
        return read_dataset(part.root, workers=workers)
    if part.dataset is not None:
        photos = part.dataset.train + part.dataset.val
    else:
        photos = tuple(replace(p, digest=digests[p.path]) for p in part.photos if p.path in digests)
    if part.folders:
        train, val = (
            tuple(p for p in photos if p.path.relative_to(part.root).parts[0] == side)
            for side in (TRAIN, VAL)
        )
    else:
        seed = trained_on.get("seed", 0)
        train, val = split_photos(photos, part.classes, seed if isinstance(seed, int) else 0)
    return Dataset(part.root, part.classes, train, val, (), str(trained_on.get("split")))
