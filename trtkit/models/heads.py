"""The layers behind a network's blocks, as people replace them: what their tensors alone say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from trtkit.models.blocks import ConcatPool
from trtkit.models.naming import COUNTER, is_loss

# What makes vectors of the last block's feature map: its mean, its largest value and its mean, or the
# means of a grid of 7 x 7.
Pooling = Literal["mean", "largest-and-mean", "grid"]
GRID = 7
# The added variance of torch's batch norm.
EPSILON = 1e-5


@dataclass(frozen=True)
class Linear:
    """outputs x inputs, and a value for each output or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class _Layer:
    """A linear layer or a batch norm: `scale` and `shift` of each value."""

    name: str
    linear: Linear | None = None
    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None


@dataclass(frozen=True)
class Head:
    """Linear layers, with ReLU behind those of which `relu` says so, and the tensors that are no part.

    `ignored` belong to a loss; `unknown` may be layers that the network needs.
    """

    pooling: Pooling
    linears: tuple[Linear, ...]
    relu: tuple[bool, ...]
    ignored: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def classes(self) -> int:
        return int(self.linears[-1].weight.shape[0])


def find_head(rest: Mapping[str, torch.Tensor], channels: int) -> Head | None:
    """The head among the tensors that are not of blocks, in their order; None where there is none.

    `channels`: of the last block. Dropout has no tensors and does nothing; batch norms become part of the
    linear layer before or behind them.
    """
    inputs: dict[int, Pooling] = {
        channels * GRID * GRID: "grid", 2 * channels: "largest-and-mean", channels: "mean"
    }  # fmt: skip
    layers: list[_Layer] = []
    left: list[str] = []
    width: int | None = None
    for holder, tensors in _by_holder(rest).items():
        layer = _layer(holder, tensors)
        size = None if layer is None else _inputs(layer)
        fits = size in inputs if width is None else size == width
        if layer is None or not fits or is_loss(holder):
            left += [f"{holder}.{leaf}".lstrip(".") for leaf in tensors]
            continue
        layers.append(layer)
        width = size if layer.linear is None else int(layer.linear.weight.shape[0])
    first = next((_inputs(layer) for layer in layers), 0)
    folded = _fold(layers)
    if folded is None:
        return None
    ignored = tuple(name for name in left if is_loss(name))
    unknown = tuple(name for name in left if not is_loss(name))
    return Head(inputs[first], *folded, ignored, unknown)


def place_head(network: nn.Module, head: Head, family: str) -> dict[str, torch.Tensor]:
    """Give a torchvision network that head, in place; its tensors by their names in the network.

    The layers are made on the device that is torch's default.
    """
    modules: list[nn.Module] = []
    state: dict[str, torch.Tensor] = {}
    plain = head.pooling == "grid" and len(head.linears) == 3
    for linear, relu in zip(head.linears, head.relu, strict=True):
        place = str(len(modules))
        outputs, inputs = linear.weight.shape
        modules.append(nn.Linear(inputs, outputs, bias=linear.bias is not None))
        state[f"{place}.weight"] = linear.weight
        if linear.bias is not None:
            state[f"{place}.bias"] = linear.bias
        if relu:
            # In its place torchvision's VGG has a Dropout behind it.
            modules += [nn.ReLU(), nn.Dropout()] if plain else [nn.ReLU()]
    pools: dict[Pooling, nn.Module] = {
        "mean": nn.AdaptiveAvgPool2d((1, 1)),
        "largest-and-mean": ConcatPool(),
        "grid": nn.AdaptiveAvgPool2d((GRID, GRID)),
    }
    network.avgpool = pools[head.pooling]
    name = "fc" if family == "resnet" else "classifier"
    if family == "resnet" and len(modules) == 1:
        setattr(network, name, modules[0])
        return {f"{name}.{leaf.partition('.')[2]}": value for leaf, value in state.items()}
    setattr(network, name, nn.Sequential(*modules))
    return {f"{name}.{leaf}": value for leaf, value in state.items()}


def _by_holder(rest: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    holders: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in rest.items():
        holder, _, leaf = name.rpartition(".")
        if leaf == COUNTER:
            continue
        holders.setdefault(holder, {})[leaf] = value
    return holders


def _layer(name: str, tensors: Mapping[str, torch.Tensor]) -> _Layer | None:
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or not set(tensors) <= {"weight", "bias", "running_mean", "running_var"}:
        return None
    if {"running_mean", "running_var"} <= tensors.keys() and weight.ndim == 1 and bias is not None:
        scale = weight.double() / (tensors["running_var"].double() + EPSILON).sqrt()
        return _Layer(
            name, scale=scale, shift=bias.double() - tensors["running_mean"].double() * scale
        )
    if weight.ndim not in (2, 4) or len(tensors) > 2:
        return None
    # A convolution over a whole feature map, as timm's VGG has it, is a linear layer.
    return _Layer(name, Linear(weight.float().flatten(1), None if bias is None else bias.float()))


def _inputs(layer: _Layer) -> int:
    if layer.linear is not None:
        return int(layer.linear.weight.shape[1])
    return len(layer.scale) if layer.scale is not None else 0


def _fold(layers: list[_Layer]) -> tuple[tuple[Linear, ...], tuple[bool, ...]] | None:
    """The linear layers with the batch norms in them, and behind which of them a ReLU stands."""
    linears: list[Linear] = []
    relus: list[bool] = []
    pending: _Layer | None = None
    for place, layer in enumerate(layers):
        if layer.linear is None:
            if linears and not relus[-1]:
                linears[-1] = _behind(linears[-1], layer)
            elif pending is None:
                pending = layer
            else:
                return None
        else:
            linears.append(layer.linear if pending is None else _before(layer.linear, pending))
            relus.append(False)
            pending = None
        behind = layers[place + 1 :]
        if linears and not relus[-1] and any(other.linear is not None for other in behind):
            relus[-1] = _relu_between(layer.name, behind[0])
    return None if not linears or pending is not None else (tuple(linears), tuple(relus))


def _relu_between(name: str, following: _Layer) -> bool:
    """Whether an activation stands between two layers: in `nn.Sequential` their numbers have a gap."""
    for one, other in zip(name.split("."), following.name.split("."), strict=False):
        if one != other:
            if one.isdecimal() and other.isdecimal():
                return int(other) - int(one) > 1
            break
    return following.linear is not None


def _behind(linear: Linear, norm: _Layer) -> Linear:
    scale, shift = norm.scale, norm.shift
    if scale is None or shift is None:
        return linear
    bias = shift if linear.bias is None else shift + scale * linear.bias.double()
    return Linear((linear.weight.double() * scale[:, None]).float(), bias.float())


def _before(linear: Linear, norm: _Layer) -> Linear:
    if norm.scale is None or norm.shift is None:
        return linear
    bias = linear.weight.double() @ norm.shift
    if linear.bias is not None:
        bias = bias + linear.bias.double()
    return replace(linear, weight=(linear.weight.double() * norm.scale).float(), bias=bias.float())
