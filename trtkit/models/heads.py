"""The head of a model: its last linear layer, and another one for other classes."""

from __future__ import annotations

import torch
from torch import nn

from trtkit.errors import TrtkitError
from trtkit.models.architectures import as_blocks
from trtkit.models.blocks import BlockModel
from trtkit.models.weights import initialise


def last_linear(model: BlockModel) -> tuple[str, nn.Linear]:
    """The layer that gives the logits, and its name in the network."""
    name, layer = [
        (name, module)
        for name, module in model.network.named_modules()
        if isinstance(module, nn.Linear)
    ][-1]
    return name, layer


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
    return as_blocks(model.architecture, model.network)


def penultimate(model: BlockModel) -> nn.Module:
    """What stands between the last block and the last linear layer; its output is N x features."""
    layers: list[nn.Module] = []
    for layer in model.head.children():
        layers.extend(layer.children() if isinstance(layer, nn.Sequential) else [layer])
    return nn.Sequential(*layers[:-1])
