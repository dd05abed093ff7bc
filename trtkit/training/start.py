"""Beginning and resuming a training: its run, its photos, and the model that it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trtkit import __version__
from trtkit.errors import TrtkitError
from trtkit.evaluation.dataset import Dataset, read_dataset
from trtkit.models import checkpoint, weights
from trtkit.models.blocks import BlockModel, copy_prefix, feature_size, prefix_digest
from trtkit.models.weights import Weighted, check_finite, with_classes
from trtkit.preprocessing import Preprocessing
from trtkit.reporting import message
from trtkit.serialization import to_plain
from trtkit.training.options import FINETUNE, TrainOptions
from trtkit.training.request import TrainRequest
from trtkit.training.run import Run
from trtkit.workspace import Workspace


@dataclass(frozen=True)
class Start:
    """A model to train, the preprocessing of its photos, and the source of its weights.

    `prefix` names the model that its first blocks come from: `{"from", "cut", "digest"}`, None where
    they are its own.
    """

    model: BlockModel
    image: Preprocessing
    source: str
    prefix: dict[str, Any] | None = None


def begin_run(request: TrainRequest) -> tuple[Run, Dataset, Start]:
    """A new run for the data. Nothing is written unless the request can be carried out."""
    chosen, data, place = request.options, request.data, request.place
    dataset = read_dataset(data, seed=chosen.split_seed)
    start = starting_model(chosen, dataset.classes, place)
    record = {
        "trtkit": __version__,
        "options": to_plain(chosen),
        "data": str(data),
        "dataset": {
            "fingerprint": dataset.fingerprint,
            "split": dataset.split,
            "seed": chosen.split_seed,
            "classes": list(dataset.classes),
            "train": len(dataset.train),
            "val": len(dataset.val),
            "skipped": to_plain(dataset.skipped),
        },
        "start": {
            "source": start.source,
            "prefix": start.prefix,
            "image": to_plain(start.image),
        },
    }
    return Run.create(place, request.name, record), dataset, start


def resumed_dataset(request: TrainRequest, run: Run) -> Dataset:
    """The photos of a run that is resumed. Raises TrtkitError unless they are those it began with."""
    dataset = read_dataset(request.data, seed=request.options.split_seed)
    recorded = run.record["dataset"]
    if dataset.fingerprint != recorded["fingerprint"]:
        raise TrtkitError(
            f"The photos in {request.data} differ from those that training {run.name} began with "
            f"({recorded['train']} and {recorded['val']} then, {len(dataset.train)} and "
            f"{len(dataset.val)} now); restore them, or begin another training with --name."
        )
    return dataset


def report_dataset(dataset: Dataset) -> None:
    """Report the numbers of photos, and what is unusual about them."""
    message(
        f"{len(dataset.train)} photos to train on and {len(dataset.val)} to validate on "
        f"({dataset.split})."
    )
    for skipped in dataset.skipped:
        message(f"Skipped {skipped.path}: {skipped.reason}")
    if dataset.skipped:
        message(f"Photos skipped: {len(dataset.skipped)}.")
    if dataset.repeated:
        message(
            f"{dataset.repeated} photos to validate on are among those to train on as well, byte for "
            "byte: the accuracy will look better than it is."
        )
    if dataset.contradictory:
        message(
            f"{dataset.contradictory} photos are in more than one class, byte for byte: no model can "
            "get them all right."
        )


def starting_model(options: TrainOptions, classes: Sequence[str], place: Workspace) -> Start:
    """The model that `options` describe, for these classes. Raises TrtkitError."""
    weighted = _weights(options, place)
    model = weighted.model
    check_finite(model)
    if weighted.classes != list(classes):
        model = with_classes(model, len(classes), options.seed)
    if options.prefix_from is None:
        image = _image(options, weighted.preprocessing)
        feature_size(model, image)
        return Start(model, image, weighted.source)
    donor = checkpoint.load(checkpoint.read_checkpoint(place.find_checkpoint(options.prefix_from)))
    check_finite(donor.model)
    cut = options.cut or 0
    copy_prefix(donor.model, model, cut)
    # Two tails on one prefix take the same photos.
    model = replace(model, normalisation=donor.model.normalisation)
    prefix = {"from": donor.source, "cut": cut, "digest": prefix_digest(model, cut)}
    image = _image_of_prefix(options, donor.preprocessing)
    feature_size(model, image)
    return Start(model, image, weighted.source, prefix)


def frozen_blocks(options: TrainOptions, model: BlockModel) -> int | None:
    """The number of blocks that are frozen; None when everything learns."""
    if options.mode != FINETUNE:
        return len(model.blocks)
    return options.cut if options.prefix_from is not None else None


def _weights(options: TrainOptions, place: Workspace) -> Weighted:
    if options.weights == "imagenet":
        return weights.imagenet(options.arch)
    if options.weights == "random":
        return weights.random(options.arch, options.seed)
    path = place.find_checkpoint(Path(options.weights))
    return checkpoint.load(checkpoint.read_checkpoint(path), options.arch)


def _image(options: TrainOptions, own: Preprocessing | None) -> Preprocessing:
    image = own or Preprocessing()
    if options.image_size is not None:
        image = image.sized(options.image_size)
    return replace(image, resampling=options.resampling or image.resampling)


def _image_of_prefix(options: TrainOptions, own: Preprocessing | None) -> Preprocessing:
    """The prefix's own preprocessing, as two tails on one prefix take the same photos."""
    if own is None:
        return _image(options, None)
    if options.image_size not in (None, own.height, own.width):
        raise TrtkitError(
            f"--image-size {options.image_size} does not fit the prefix of {options.prefix_from}, which "
            f"takes photos of {own.height} x {own.width}; leave the option out."
        )
    if options.resampling not in (None, own.resampling):
        raise TrtkitError(
            f"--resampling {options.resampling} does not fit the prefix of {options.prefix_from}, whose "
            f"photos are resized by {own.resampling}; leave the option out."
        )
    return own
