"""A torchvision network again from the weights of its export, for measuring it as its users run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from trtkit.errors import TrtkitError, listed
from trtkit.models.architectures import create
from trtkit.models.blocks import BlockModel
from trtkit.models.names import ARCHITECTURES
from trtkit.tensors import Array


def recognise(weights: Mapping[str, Array], classes: int) -> str | None:
    """The architecture whose convolutions and linear layers have exactly these weights, else None.

    `weights` as `network_from_weights` takes them. Names and shapes are compared: an export that was
    split says nothing else about where it came from.
    """
    shapes = _shapes(weights)
    for architecture in ARCHITECTURES:
        structure = create(architecture, classes, device="meta").network
        wanted = {f"{name}.weight": tuple(layer.weight.shape) for name, layer in _layers(structure)}
        if wanted == shapes:
            return architecture
    return None


def network_from_weights(
    architecture: str, classes: int, weights: Mapping[str, Array]
) -> BlockModel:
    """The network, batch norms included, in evaluation mode, that computes what was exported.

    `weights`: for every convolution and linear layer LAYER the float32 arrays `LAYER.weight`, of
    torch's shape, and `LAYER.bias`, one value per output, with the batch norm behind a convolution
    folded into them, as the export does. The arrays are copied.

    The convolution gets the folded weight, and its batch norm becomes the identity plus the folded
    bias: what was folded cannot be taken apart again, and the work is the same whatever the values.
    The result is the export's within float32 rounding.

    Raises TrtkitError for a foreign model, and for weights that are not exactly the architecture's.
    """
    if architecture not in ARCHITECTURES:
        raise TrtkitError(
            f"The network of a {architecture} model cannot be rebuilt in torch, which is possible for "
            "the ResNet and VGG family alone; measure it without the torch baselines."
        )
    model = create(architecture, classes, device="meta")
    _check(architecture, model.network, weights)
    state = _state(model.network, weights)
    # Assigned, because the structure alone, without memory, has nothing to copy into.
    model.network.load_state_dict(state, assign=True)
    return model


def _check(architecture: str, network: nn.Module, weights: Mapping[str, Array]) -> None:
    wanted: dict[str, tuple[int, ...]] = {}
    for name, layer in _layers(network):
        wanted[f"{name}.weight"] = tuple(layer.weight.shape)
        wanted[f"{name}.bias"] = tuple(layer.weight.shape[:1])
    shapes = {name: value.shape for name, value in weights.items()}
    wrong = [name for name in wanted if shapes.get(name) != wanted[name]]
    wrong += [name for name in shapes if name not in wanted]
    if wrong:
        raise TrtkitError(
            f"The network of {architecture} cannot be rebuilt in torch, because {listed(wrong, 3)} of "
            "the exported graph are not those of that architecture; export the model again, or "
            "measure it without the torch baselines."
        )


def _state(network: nn.Module, weights: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """The network's state dict: folded weights in its layers, identities in its batch norms."""
    state: dict[str, torch.Tensor] = {}
    pending: tuple[str, nn.Conv2d] | None = None
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            state[f"{name}.weight"] = _tensor(weights[f"{name}.weight"])
            if module.bias is not None:
                state[f"{name}.bias"] = _tensor(weights[f"{name}.bias"])
        if isinstance(module, nn.Conv2d):
            pending = (name, module)
        elif isinstance(module, nn.BatchNorm2d) and pending is not None:
            # torchvision registers each batch norm right behind its convolution.
            before, convolution = pending
            folded = _tensor(weights[f"{before}.bias"])
            # Where the convolution has a bias of its own (VGG), that has taken it already.
            bias = folded if convolution.bias is None else torch.zeros_like(folded)
            state |= _identity(name, module, bias)
    return state


def _identity(name: str, norm: nn.BatchNorm2d, bias: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state of a batch norm that adds `bias`: its variance plus epsilon is 1."""
    return {
        f"{name}.weight": torch.ones_like(bias),
        f"{name}.bias": bias,
        f"{name}.running_mean": torch.zeros_like(bias),
        f"{name}.running_var": torch.full_like(bias, 1.0 - norm.eps),
        f"{name}.num_batches_tracked": torch.zeros((), dtype=torch.long),
    }


def _layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield name, module


def _shapes(weights: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in weights.items() if name.endswith(".weight")}


def _tensor(value: Array) -> torch.Tensor:
    # A copy: what is read from an ONNX file cannot be written, which torch warns of.
    return torch.from_numpy(np.array(value, dtype=np.float32))
