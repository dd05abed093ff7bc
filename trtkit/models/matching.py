"""Which architecture a state dict is of, and the network made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torchvision import models

from trtkit.errors import TrtkitError, first_line, listed
from trtkit.models.architectures import as_blocks
from trtkit.models.blocks import BlockModel, GreyConv2d, OpaqueConv2d
from trtkit.models.heads import Head, find_head, place_head
from trtkit.models.names import ARCHITECTURES, check_architecture
from trtkit.models.naming import (
    CHANNELS,
    COUNTER,
    RESNET_BODY,
    VGG_BODY,
    NamedState,
    named_state,
)

# So many tensors that differ are named.
DIFFERENCES = 3
FIRST_LAYERS = {"resnet": "conv1", "vgg": "features.0"}
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class MatchedNetwork:
    """A network with its weights, in evaluation mode, and what was assumed about it, in sentences."""

    model: BlockModel
    notes: tuple[str, ...]


def matched_network(
    state: Mapping[str, torch.Tensor], architecture: str | None, name: str, likely: object = None
) -> MatchedNetwork:
    """The network of these tensors, whatever its library calls them. `name` is for messages.

    `likely`: the architecture that is tried first.
    Raises TrtkitError, with the nearest architecture and the first tensors that differ, when they are not
    those of `architecture`, or of any.
    """
    if architecture is not None:
        check_architecture(architecture)
    named = named_state(state)
    if named is None:
        raise TrtkitError(
            f"{name} fits no architecture of trtkit ({listed(ARCHITECTURES, 20)}): its first tensors are "
            f"{listed(state, DIFFERENCES)}; export the model to ONNX yourself and give the .onnx."
        )
    own, differences = _nearest(named, architecture or likely)
    if architecture is not None and own != architecture:
        differences = _differences(named, architecture)
        hint = f"it is nearest to {own}" if _differences(named, own) else f"it holds a {own}"
        raise TrtkitError(f"{name} does not fit {architecture}: {_tell(differences)}; {hint}.")
    last = "layer4" if named.family == "resnet" else "features"
    sizes = [v.shape[0] for key, v in named.body.items() if key.startswith(last) and v.ndim]
    channels = max(sizes, default=0)
    head = find_head(named.rest, int(channels))
    if not differences and head is not None:
        differences = [f"{key}, which is in {name} alone" for key in head.unknown]
    if differences:
        raise TrtkitError(
            f"{name} fits no architecture of trtkit; it is nearest to {own}, but {_tell(differences)}; "
            "export the model to ONNX yourself and give the .onnx."
        )
    if head is None:
        raise TrtkitError(
            f"{name} holds the blocks of a {own} without the layer that gives the classes; give a "
            "checkpoint of the whole classifier."
        )
    return _network(own, named, head, name)


def _nearest(named: NamedState, likely: object) -> tuple[str, list[str]]:
    """The architecture with the fewest tensors that differ, and how they do."""
    family = [name for name in ARCHITECTURES if name.startswith("vgg") == (named.family == "vgg")]
    candidates = []
    for name in sorted(family, key=lambda name: name != likely):
        differences = _differences(named, name)
        if not differences:
            return name, []
        candidates.append((name, differences))
    return min(candidates, key=lambda entry: len(entry[1]))


def _differences(named: NamedState, architecture: str) -> list[str]:
    """How the tensors of the blocks differ from the architecture's, one by one."""
    # Cached for the function that makes the networks, which tests replace.
    expected = dict(_body_shapes(architecture, models.get_model))
    shapes = {
        name: tuple(value.shape) for name, value in named.body.items() if not name.endswith(COUNTER)
    }
    first = FIRST_LAYERS.get("vgg" if architecture.startswith("vgg") else "resnet")
    weight = f"{first}.weight"
    if weight in shapes and weight in expected and shapes[weight][1] in CHANNELS:
        expected[weight] = (expected[weight][0], shapes[weight][1], *expected[weight][2:])
    return [
        f"{name} is {_shape(shapes.get(name))} there and {_shape(expected.get(name))} in {architecture}"
        for name in {**shapes, **expected}
        if shapes.get(name) != expected.get(name)
    ]


@lru_cache(maxsize=2 * len(ARCHITECTURES))
def _body_shapes(architecture: str, make: Callable[..., nn.Module]) -> Shapes:
    pattern = VGG_BODY if architecture.startswith("vgg") else RESNET_BODY
    return {
        name: tuple(value.shape)
        for name, value in _structure(architecture, make).state_dict().items()
        if pattern.match(name) and not name.endswith(COUNTER)
    }


def _structure(architecture: str, make: Callable[..., nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make(architecture, weights=None)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a number"


def _tell(differences: list[str]) -> str:
    return listed(differences, DIFFERENCES)


def _network(architecture: str, named: NamedState, head: Head, name: str) -> MatchedNetwork:
    network = _structure(architecture, models.get_model)
    notes = []
    first = FIRST_LAYERS[named.family]
    channels = int(named.body[f"{first}.weight"].shape[1])
    with torch.device("meta"):
        if channels != 3:
            notes.append(_take_channels(network, first, channels, name))
        placed = place_head(network, head, named.family)
    if any(head.relu) and named.family == "resnet":
        notes.append(
            f"{name} has {len(head.linears)} layers behind its blocks; they are taken to have ReLU between "
            "them."
        )
    if head.ignored:
        notes.append(
            f"{name} holds tensors that no layer takes and that are ignored: {listed(head.ignored)}."
        )
    state = {
        key: value.detach() if key.endswith(COUNTER) else value.detach().float().contiguous()
        for key, value in (named.body | placed).items()
    }
    for key, value in network.state_dict().items():
        if key.endswith(COUNTER):
            state.setdefault(key, torch.zeros((), dtype=value.dtype))
    try:
        # The structure has no memory to copy into.
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise TrtkitError(
            f"{name} does not hold a whole {architecture} ({first_line(error)}); copy it again, or save "
            "it anew."
        ) from error
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return MatchedNetwork(as_blocks(architecture, network.eval()), tuple(notes))


def _take_channels(network: nn.Module, first: str, channels: int, name: str) -> str:
    """Give the network a first convolution of so many channels, in place; a note that says so."""
    holder, _, leaf = first.rpartition(".")
    old = network.get_submodule(first)
    if not isinstance(old, nn.Conv2d):
        raise TrtkitError(f"{name} does not begin with a convolution; export it to ONNX yourself.")
    kind = GreyConv2d if channels == 1 else OpaqueConv2d
    new = kind(
        channels,
        old.out_channels,
        (old.kernel_size[0], old.kernel_size[1]),
        stride=(old.stride[0], old.stride[1]),
        padding=(int(old.padding[0]), int(old.padding[1])),
        bias=old.bias is not None,
    )
    setattr(network.get_submodule(holder), leaf, new)
    if channels == 1:
        return f"{name} takes one channel: photos become grey, normalised by 0.449 and 0.226."
    return f"{name} takes four channels: the fourth, opacity, is 1 for every photo."
