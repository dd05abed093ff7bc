"""One model's first blocks in another: copied, frozen, and known by their content."""

from __future__ import annotations

import torch
from blake3 import blake3
from torch import nn

from trtkit.errors import TrtkitError
from trtkit.models.blocks import BlockModel, shared_blocks


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
