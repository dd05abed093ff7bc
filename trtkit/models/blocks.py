"""A classifier seen as stem, blocks and head, between which a cut may fall, and what it takes.

Its first blocks can be copied to another model, frozen, and known by their content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from blake3 import blake3
from torch import nn

from trtkit.errors import TrtkitError, first_line
from trtkit.preprocessing import IMAGENET_MEAN, IMAGENET_STD, LUMA, Preprocessing

# Mean and standard deviation of red, green and blue.
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET: Normalisation = (IMAGENET_MEAN, IMAGENET_STD)
# What grey is normalised by, and what that leaves of RGB's own normalisation.
GREY_MEAN, GREY_STD = sum(IMAGENET_MEAN) / 3, sum(IMAGENET_STD) / 3
GREY_OFFSET = (
    sum(luma * mean for luma, mean in zip(LUMA, IMAGENET_MEAN, strict=True)) - GREY_MEAN
) / GREY_STD


class Normalise(nn.Module):
    """uint8 N x H x W x 3, RGB, to float32 N x 3 x H x W, normalised as ImageNet is by default.

    `values`: mean and standard deviation of each channel, in 0 to 1.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, values: Normalisation = IMAGENET) -> None:
        super().__init__()
        self.values = values
        # x / 255 then (x - mean) / std, as one subtraction and one multiplication.
        mean = 255.0 * torch.tensor(values[0], dtype=torch.float64).view(1, 3, 1, 1)
        scale = 1.0 / (255.0 * torch.tensor(values[1], dtype=torch.float64)).view(1, 3, 1, 1)
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # Cast comes first: TensorRT's parser refuses a uint8 transpose.
        x = image.to(torch.float32).permute(0, 3, 1, 2)
        return (x - self.mean) * self.scale


class ConcatPool(nn.Module):
    """N x C x H x W to N x 2C x 1 x 1: the largest value of each channel, then its mean, as fastai does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        largest = nn.functional.max_pool2d(x, (height, width))
        return torch.cat([largest, x.mean((2, 3), keepdim=True)], 1)


class GreyConv2d(nn.Conv2d):
    """A convolution over one channel of grey, which takes normalised RGB as all first layers do.

    Grey is weighted as Pillow does and normalised by the mean of ImageNet's means and deviations.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red, green, blue = (
            x[:, channel : channel + 1] * (luma * std / GREY_STD)
            for channel, (luma, std) in enumerate(zip(LUMA, IMAGENET_STD, strict=True))
        )
        return super().forward(red + green + blue + GREY_OFFSET)


class OpaqueConv2d(nn.Conv2d):
    """A convolution over RGB and opacity, which takes RGB: every photo is opaque, 1 everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat([x, x[:, :1] * 0 + 1], 1))


@dataclass(frozen=True)
class Block:
    """One unit that a cut may fall after.

    `name` is the prefix of its parameters' names in the network's state dict (`layer2.3`,
    `features.0`), `parameters` those names themselves.
    """

    name: str
    module: nn.Module
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class BlockModel:
    """A torchvision network and the view of it as stem, blocks, head.

    The three parts share the network's modules: running stem, then every block, then head is
    running the network. Input: float32 N x 3 x H x W, normalised by `normalisation` (mean and standard
    deviation of each channel, in 0 to 1). Output: logits, N x classes.
    """

    architecture: str
    network: nn.Module
    stem: nn.Module
    stem_parameters: tuple[str, ...]
    blocks: tuple[Block, ...]
    head: nn.Module
    normalisation: Normalisation = IMAGENET

    @property
    def classes(self) -> int:
        """The number of classes: the width of the last linear layer."""
        return last_linear(self)[1].out_features

    def check_cut(self, cut: int) -> None:
        """Raise unless `cut` is 0 (no split) or the number of a block of this model."""
        if not 0 <= cut <= len(self.blocks):
            raise TrtkitError(
                f"{self.architecture} has blocks 1 to {len(self.blocks)} and no cut {cut}; choose one of "
                "those, or 0 for no split."
            )

    def prefix_state(self, cut: int) -> dict[str, torch.Tensor]:
        """The tensors of stem and blocks 1 to `cut`, by their names in the state dict."""
        self.check_cut(cut)
        names = list(self.stem_parameters)
        for block in self.blocks[:cut]:
            names.extend(block.parameters)
        state = self.network.state_dict()
        return {name: state[name] for name in names}


def last_linear(model: BlockModel) -> tuple[str, nn.Linear]:
    """The layer that gives the logits, and its name in the network."""
    name, layer = [
        (name, module)
        for name, module in model.network.named_modules()
        if isinstance(module, nn.Linear)
    ][-1]
    return name, layer


def penultimate(model: BlockModel) -> nn.Module:
    """What stands between the last block and the last linear layer; its output is N x features."""
    layers: list[nn.Module] = []
    for layer in model.head.children():
        layers.extend(layer.children() if isinstance(layer, nn.Sequential) else [layer])
    return nn.Sequential(*layers[:-1])


def feature_size(model: BlockModel, image: Preprocessing) -> tuple[int, int]:
    """Height and width of the last block's output for images prepared so.

    The model has to be in evaluation mode. Raises TrtkitError when it cannot take such images.
    """
    try:
        with torch.inference_mode():
            x = model.stem(torch.zeros(1, 3, image.height, image.width))
            for block in model.blocks:
                x = block.module(x)
    except RuntimeError as error:
        raise TrtkitError(
            f"{model.architecture} cannot take images of {image.height} x {image.width} "
            f"({first_line(error)}); choose a larger --image-size."
        ) from error
    return int(x.shape[2]), int(x.shape[3])


def shared_blocks(a: BlockModel, b: BlockModel) -> int:
    """How many leading blocks `a` and `b` have in common by structure, whatever their weights.

    Zero when their stems differ. ResNet-50 and ResNet-152 share 7.
    """
    if _structure(a.stem) != _structure(b.stem):
        return 0
    count = 0
    for a_block, b_block in zip(a.blocks, b.blocks, strict=False):
        if _structure(a_block.module) != _structure(b_block.module):
            break
        count += 1
    return count


def copy_prefix(source: BlockModel, target: BlockModel, cut: int) -> None:
    """Give `target` the stem and blocks 1 to `cut` of `source`, batch norm statistics included.

    Raises TrtkitError unless both have at least `cut` leading blocks of the same structure.
    """
    shared = shared_blocks(source, target)
    if shared == 0:
        raise TrtkitError(
            f"A {target.architecture} cannot take the prefix of a {source.architecture}, because the two "
            "share no blocks; choose two architectures of one family, such as resnet50 and resnet152."
        )
    if not 1 <= cut <= shared:
        raise TrtkitError(
            f"A {target.architecture} and a {source.architecture} cannot share a prefix up to cut {cut}, "
            f"only their first {shared} blocks; choose a cut from 1 to {shared}."
        )
    with torch.no_grad():
        state = target.network.state_dict()
        for name, value in source.prefix_state(cut).items():
            state[name].copy_(value)


def prefix_digest(model: BlockModel, cut: int) -> str:
    """BLAKE3 (hex) of stem and blocks 1 to `cut`: their structure and every bit of their weights."""
    content = blake3()
    if model.normalisation != IMAGENET:
        content.update(repr(model.normalisation).encode())
    for module in (model.stem, *(block.module for block in model.blocks[:cut])):
        content.update(repr(module).encode())
    for name, value in model.prefix_state(cut).items():
        tensor = value.detach().cpu().contiguous()
        content.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        content.update(tensor.numpy().tobytes())
    return content.hexdigest()


def freeze(module: nn.Module) -> None:
    """Take `module` out of training: no gradients, and batch norm keeps its statistics."""
    module.requires_grad_(False)
    module.eval()


def _structure(module: nn.Module) -> tuple[str, ...]:
    return tuple(_describe(module))


def _describe(module: nn.Module) -> Iterator[str]:
    # A leaf prints all its hyper-parameters; a container only counts by its class and children.
    children = list(module.named_children())
    yield type(module).__name__ if children else repr(module)
    for name, child in children:
        yield name
        yield from _describe(child)
