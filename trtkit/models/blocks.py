"""A classifier seen as stem, blocks and head: the units that a cut may fall between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from trtkit.errors import TrtkitError, first_line
from trtkit.preprocessing import Preprocessing


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
    running the network. Input: float32 N x 3 x H x W, normalised. Output: logits, N x classes.
    """

    architecture: str
    network: nn.Module
    stem: nn.Module
    stem_parameters: tuple[str, ...]
    blocks: tuple[Block, ...]
    head: nn.Module

    @property
    def classes(self) -> int:
        """The number of classes: the width of the last linear layer."""
        linears = [module for module in self.head.modules() if isinstance(module, nn.Linear)]
        return linears[-1].out_features

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


def _structure(module: nn.Module) -> tuple[str, ...]:
    return tuple(_describe(module))


def _describe(module: nn.Module) -> Iterator[str]:
    # A leaf prints all its hyper-parameters; a container only counts by its class and children.
    children = list(module.named_children())
    yield type(module).__name__ if children else repr(module)
    for name, child in children:
        yield name
        yield from _describe(child)
