"""The names that libraries give to the layers of ResNet and VGG, in torchvision's names.

What wraps a network puts a prefix before its names (`module.`, `_orig_mod.`, `model.backbone.`). It is what
stands before a name that each network of the family has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

# Image channels that a first convolution may take: grey, RGB, RGB with opacity.
CHANNELS = (1, 3, 4)
RESNET_BODY = re.compile(r"(conv1|bn1|layer[1-4]\.\d+)\.")
VGG_BODY = re.compile(r"features\.\d+\.")
# It counts training steps, is no weight and is absent from old files.
COUNTER = "num_batches_tracked"
# In the name of a tensor that a loss or a metric keeps, and no layer of the network.
LOSSES = ("loss", "criteri", "metric", "accuracy", "confmat", "auroc", "arcface", "n_averaged")

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class NamedState:
    """Tensors of a network of the `family` `resnet` or `vgg`.

    `body`: those of its blocks and stem by torchvision's names; `rest`: the others, those of the network
    itself first and without its prefix.
    """

    family: str
    body: dict[str, torch.Tensor]
    rest: dict[str, torch.Tensor]


def named_state(state: State) -> NamedState | None:
    """The tensors by torchvision's names; None where they are those of no ResNet and no VGG."""
    for anchor, family, rename in _anchors(state):
        prefix = anchor
        body: dict[str, torch.Tensor] = {}
        own: dict[str, torch.Tensor] = {}
        others: dict[str, torch.Tensor] = {}
        pattern = RESNET_BODY if family == "resnet" else VGG_BODY
        for name, value in state.items():
            if not name.startswith(prefix):
                others[name] = value
                continue
            renamed = rename(name.removeprefix(prefix))
            (body if pattern.match(renamed) else own)[renamed] = value
        return NamedState(family, body, own | {n: v for n, v in others.items() if n not in own})
    return None


def is_loss(name: str) -> bool:
    """Whether that is a tensor of a loss or a metric, which the network does without."""
    return any(word in name.lower() for word in LOSSES)


def _anchors(state: State) -> Iterator[tuple[str, str, Callable[[str], str]]]:
    """Prefix, family and renaming of each naming that the tensors may follow."""
    schemes = (
        ("layer1.0.conv1.weight", "resnet", lambda name: name),
        ("embedder.embedder.convolution.weight", "resnet", _from_transformers),
        ("4.0.conv1.weight", "resnet", _from_children),
        ("0.weight", "vgg", _from_features),
    )
    for ending, family, rename in schemes:
        for name, value in state.items():
            prefix = name.removesuffix(ending)
            if prefix == name or (prefix and not prefix.endswith(".")) or value.ndim != 4:
                continue
            if family == "vgg" and not _is_first_of_vgg(value):
                continue
            if family == "vgg" and prefix.endswith("features."):
                yield prefix.removesuffix("features."), family, lambda name: name
            else:
                yield prefix, family, rename


def _is_first_of_vgg(weight: torch.Tensor) -> bool:
    return weight.shape[1] in CHANNELS and tuple(weight.shape[2:]) == (3, 3)


def _from_children(name: str) -> str:
    """A ResNet as `nn.Sequential` of its children, as fastai and feature extractors have it."""
    places = {"0": "conv1", "1": "bn1", "9": "fc"} | {str(3 + n): f"layer{n}" for n in range(1, 5)}
    first, dot, behind = name.partition(".")
    return f"{places.get(first, first)}{dot}{behind}"


def _from_features(name: str) -> str:
    """The layers of a VGG's `features` alone, as fastai has them."""
    return f"features.{name}" if re.match(r"\d+\.(weight|bias|running_\w+)$", name) else name


def _from_transformers(name: str) -> str:
    """Hugging Face's ResNet."""
    kinds = {"convolution": "conv", "normalization": "bn"}
    if match := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(\w+)", name):
        return f"{kinds[match[1]]}1.{match[2]}"
    match = re.fullmatch(
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.(convolution|normalization)\.(\w+)",
        name,
    )
    if match:
        stage, block, place, kind, leaf = match.groups()
        return f"layer{int(stage) + 1}.{block}.{kinds[kind]}{int(place) + 1}.{leaf}"
    match = re.fullmatch(
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(\w+)", name
    )
    if match:
        stage, block, kind, leaf = match.groups()
        return f"layer{int(stage) + 1}.{block}.downsample.{'01'[kind == 'normalization']}.{leaf}"
    return name
