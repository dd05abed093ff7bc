"""The model that a training begins with: weights, a head for the classes, another model's prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtkit.errors import TrtkitError
from trtkit.models import checkpoint, weights
from trtkit.models.architectures import check_architecture
from trtkit.models.blocks import BlockModel, feature_size
from trtkit.models.heads import with_classes
from trtkit.models.prefix import copy_prefix, prefix_digest
from trtkit.models.weights import Weighted, check_finite
from trtkit.preprocessing import Preprocessing
from trtkit.training.options import FINETUNE, TrainOptions
from trtkit.workspace import Workspace


@dataclass(frozen=True)
class Start:
    """A model to train, how it wants photos prepared, and where it came from.

    `prefix` says whose blocks it has: `{"from", "cut", "digest"}`, None where they are its own.
    """

    model: BlockModel
    image: Preprocessing
    source: str
    prefix: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "prefix": self.prefix, "image": self.image.to_json()}


def starting_model(options: TrainOptions, classes: Sequence[str], place: Workspace) -> Start:
    """The model that `options` describe, for these classes. Raises TrtkitError."""
    check_architecture(options.arch)
    weighted = _weights(options, place)
    model = weighted.model
    check_finite(model)
    if weighted.classes != list(classes):
        model = with_classes(model, len(classes), options.seed)
    if options.prefix_from is None:
        image = _image(options.image_size, weighted.preprocessing)
        feature_size(model, image)
        return Start(model, image, weighted.source)
    cheap = checkpoint.load(checkpoint.read_checkpoint(place.find_checkpoint(options.prefix_from)))
    check_finite(cheap.model)
    cut = options.cut or 0
    copy_prefix(cheap.model, model, cut)
    prefix = {"from": cheap.source, "cut": cut, "digest": prefix_digest(model, cut)}
    image = _same_image(options, cheap)
    feature_size(model, image)
    return Start(model, image, weighted.source, prefix)


def frozen_blocks(options: TrainOptions, model: BlockModel) -> int | None:
    """After which block the back begins that learns; None when everything learns."""
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


def _image(size: int | None, known: Preprocessing | None) -> Preprocessing:
    if size is not None:
        return Preprocessing.for_image_size(size)
    return known or Preprocessing()


def _same_image(options: TrainOptions, cheap: Weighted) -> Preprocessing:
    """The prefix's own preprocessing: two tails on one prefix see the same photos."""
    image = _image(None, cheap.preprocessing)
    if cheap.preprocessing is None:
        return _image(options.image_size, None)
    if options.image_size is not None and options.image_size not in (image.height, image.width):
        raise TrtkitError(
            f"--image-size {options.image_size} was given, but the prefix of {options.prefix_from} "
            f"takes photos of {image.height} x {image.width}; leave the option out."
        )
    return image
