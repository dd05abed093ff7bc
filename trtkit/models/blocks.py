"""A classifier seen as stem, blocks and head: the units that a cut may fall between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from trtkit.errors import TrtkitError
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
                f"Cut {cut} was asked of {self.architecture}, which has blocks 1 to "
                f"{len(self.blocks)}; choose one of those, or 0 for no split."
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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise TrtkitError(
            f"{model.architecture} cannot take images of {image.height} x {image.width} ({reason}); "
            "choose a larger --image-size."
        ) from error
    return int(x.shape[2]), int(x.shape[3])


def shared_blocks(a: BlockModel, b: BlockModel) -> int:
    """How many leading blocks `a` and `b` have in common by structure, whatever their weights.

    Zero when their stems differ. ResNet-50 and ResNet-152 share 7.
    """
    if _structure(a.stem) != _structure(b.stem):
        return 0
    count = 0
    for mine, other in zip(a.blocks, b.blocks, strict=False):
        if _structure(mine.module) != _structure(other.module):
            break
        count += 1
    return count


def first_different_weight(a: BlockModel, b: BlockModel, cut: int) -> str | None:
    """The first tensor in which the prefixes up to `cut` differ, None when they are the same.

    Compared bit for bit: floating point values that print alike but differ in their last bit differ.
    Raises TrtkitError when the two share fewer than `cut` blocks by structure.
    """
    shared = shared_blocks(a, b)
    if cut > shared:
        raise TrtkitError(
            f"Cut {cut} was asked of {a.architecture} and {b.architecture} together, which share "
            f"their first {shared} blocks; choose a cut up to {shared}."
        )
    mine, other = a.prefix_state(cut), b.prefix_state(cut)
    return next((name for name in mine if not _same_bits(mine[name], other[name])), None)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.detach().cpu().numpy().tobytes() == b.detach().cpu().numpy().tobytes()


def _structure(module: nn.Module) -> tuple[str, ...]:
    return tuple(_describe(module))


def _describe(module: nn.Module) -> Iterator[str]:
    # A leaf prints all its hyper-parameters; a container only counts by its class and children.
    children = list(module.named_children())
    yield type(module).__name__ if children else repr(module)
    for name, child in children:
        yield name
        yield from _describe(child)
