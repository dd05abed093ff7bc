"""Where a model's weights come from: ImageNet, a seed, or a file."""

from __future__ import annotations

import math
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from torch import nn
from torchvision import models

from trtkit.errors import TrtkitError
from trtkit.models.architectures import as_blocks, create
from trtkit.models.blocks import BlockModel, GreyConv2d, last_linear
from trtkit.models.names import check_architecture
from trtkit.preprocessing import Preprocessing

# The last batch norm of each residual branch starts at this gain. At 1 the variance doubles with
# every block and ResNet-152 leaves the range of fp16; at 0.25 it grows 20-fold over its 50 blocks.
RESIDUAL_GAIN = 0.25


@dataclass(frozen=True)
class Weighted:
    """A model with its weights, and what came with them.

    `source` says where they are from (`imagenet IMAGENET1K_V2`, `random seed 0`); `classes` and
    `preprocessing` are None where the source does not say, and `trained_on`, which identifies the
    photos of a training, is empty.
    """

    model: BlockModel
    source: str
    classes: list[str] | None = None
    preprocessing: Preprocessing | None = None
    trained_on: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def imagenet(architecture: str) -> Weighted:
    """torchvision's best ImageNet weights, downloaded or from torch's cache folder.

    Raises TrtkitError when they are neither in the cache nor to be had from the network.
    """
    check_architecture(architecture)
    weights = models.get_model_weights(architecture)["DEFAULT"]
    try:
        network = models.get_model(architecture, weights=weights)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise TrtkitError(
            f"The ImageNet weights of {architecture} could not be downloaded from {weights.url} "
            f"({reason}); connect to the network, put the file in {torch.hub.get_dir()}/checkpoints, "
            "or use --weights random or --weights FILE."
        ) from error
    preset = weights.transforms()
    return Weighted(
        model=as_blocks(architecture, network.eval()),
        source=f"imagenet {weights.name}",
        classes=list(weights.meta["categories"]),
        preprocessing=Preprocessing(
            height=preset.crop_size[0], width=preset.crop_size[0], resize=preset.resize_size[0]
        ),
    )


def random(architecture: str, seed: int = 0, classes: int = 1000) -> Weighted:
    """Random weights that depend on nothing but the seed and each tensor's name and shape.

    Two architectures with one seed so get the same weights in the blocks that they share. Normal,
    with the fan-out variance of He et al. 2015 (arXiv:1502.01852, equation 14) for convolutions.
    """
    model = create(architecture, classes)
    with torch.no_grad():
        for name, module in model.network.named_modules():
            initialise(name, module, seed)
            if hasattr(module, "downsample"):
                last = module.bn3 if hasattr(module, "bn3") else module.bn2
                last.weight.fill_(RESIDUAL_GAIN)
    return Weighted(model=model, source=f"random seed {seed}")


def with_classes(model: BlockModel, classes: int, seed: int) -> BlockModel:
    """`model` with a new last layer for `classes` classes, initialised from `seed`.

    The network is changed in place and seen as blocks anew. Raises TrtkitError below two classes.
    """
    if classes < 2:
        raise TrtkitError(f"A classifier needs two classes or more, not {classes}.")
    name, old = last_linear(model)
    holder, _, leaf = name.rpartition(".")
    layer = nn.Linear(old.in_features, classes)
    with torch.no_grad():
        initialise(name, layer, seed)
    setattr(model.network.get_submodule(holder), leaf, layer)
    return _renewed(model)


def two_classes(model: BlockModel) -> BlockModel:
    """A model of one output x with the outputs 0 and x of two classes, whose softmax is 1 - p and p.

    The network is changed in place and seen as blocks anew.
    """
    name, old = last_linear(model)
    holder, _, leaf = name.rpartition(".")
    layer = nn.Linear(old.in_features, 2, bias=old.bias is not None)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[1:] = old.weight
        if old.bias is not None:
            layer.bias.zero_()
            layer.bias[1:] = old.bias
    setattr(model.network.get_submodule(holder), leaf, layer)
    return _renewed(model)


def normalised_by(
    model: BlockModel, mean: Sequence[float] | None, std: Sequence[float] | None
) -> BlockModel:
    """`model` for photos that were normalised by another mean or standard deviation, in 0 to 1.

    Raises TrtkitError unless there are three of each, and for a network of one channel.
    """
    if mean is None and std is None:
        return model
    own = model.normalisation
    values = tuple(mean or own[0]), tuple(std or own[1])
    if [len(channels) for channels in values] != [3, 3]:
        raise TrtkitError(
            "The weights take three channels; give --mean and --std three numbers with commas, such as "
            "0.5,0.5,0.5."
        )
    if values != own and any(isinstance(part, GreyConv2d) for part in model.network.modules()):
        raise TrtkitError(
            f"The {model.architecture} takes one channel, whose normalisation is fixed; leave --mean and "
            "--std out."
        )
    return replace(model, normalisation=values)


def _renewed(model: BlockModel) -> BlockModel:
    """A model whose network was changed in place."""
    blocks = as_blocks(model.architecture, model.network)
    return replace(blocks, normalisation=model.normalisation)


def check_finite(model: BlockModel) -> None:
    """Raise TrtkitError naming the first tensor that holds a NaN or an infinity."""
    for name, value in model.network.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TrtkitError(
                f"The weight {name} of {model.architecture} holds NaN or infinite values; use a "
                "checkpoint from before the training diverged."
            )


def initialise(name: str, module: nn.Module, seed: int) -> None:
    """Fill a convolution or linear layer from the seed and its name; others stay as they are."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
        scale = math.sqrt(2.0 / fan_out)
    elif isinstance(module, nn.Linear):
        scale = math.sqrt(1.0 / module.in_features)
    else:
        return
    digest = blake3(f"{seed}/{name}.weight".encode()).digest(length=8)
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    values = generator.standard_normal(tuple(module.weight.shape), dtype=np.float32)
    module.weight.copy_(torch.from_numpy(values * np.float32(scale)))
    if module.bias is not None:
        module.bias.zero_()
