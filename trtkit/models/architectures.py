"""The ResNet and VGG families of torchvision, built and divided into blocks."""

from __future__ import annotations

import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import ResNet
from torchvision.models.vgg import VGG

from trtkit.errors import TrtkitError
from trtkit.models.blocks import Block, BlockModel
from trtkit.models.names import check_architecture

IMAGENET_CLASSES = 1000


def create(architecture: str, classes: int = IMAGENET_CLASSES, device: str = "cpu") -> BlockModel:
    """The architecture in evaluation mode with torchvision's initial weights.

    `device="meta"` gives the structure alone, without memory for weights. Raises TrtkitError for an
    unknown architecture.
    """
    check_architecture(architecture)
    with torch.device(device):
        network = models.get_model(architecture, weights=None, num_classes=classes)
    return as_blocks(architecture, network.eval())


def as_blocks(architecture: str, network: nn.Module) -> BlockModel:
    """Divide a torchvision ResNet or VGG into stem, blocks and head. Raises TrtkitError for others."""
    if isinstance(network, ResNet):
        return _resnet(architecture, network)
    if isinstance(network, VGG):
        return _vgg(architecture, network)
    raise TrtkitError(
        f"A {type(network).__name__} cannot be divided into blocks, only torchvision's ResNet and VGG; "
        "export it to ONNX yourself and give the .onnx file."
    )


def _resnet(architecture: str, network: ResNet) -> BlockModel:
    blocks = []
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for index, module in enumerate(getattr(network, stage)):
            name = f"{stage}.{index}"
            blocks.append(Block(name, module, _parameters(f"{name}.", module)))
    return BlockModel(
        architecture=architecture,
        network=network,
        stem=nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool),
        stem_parameters=(
            *_parameters("conv1.", network.conv1),
            *_parameters("bn1.", network.bn1),
        ),
        blocks=tuple(blocks),
        head=nn.Sequential(network.avgpool, nn.Flatten(1), network.fc),
    )


def _vgg(architecture: str, network: VGG) -> BlockModel:
    layers = list(network.features.children())
    starts = [index for index, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    blocks = []
    for start, end in zip(starts, [*starts[1:], len(layers)], strict=True):
        names = [
            name
            for index in range(start, end)
            for name in _parameters(f"features.{index}.", layers[index])
        ]
        module = nn.Sequential(*layers[start:end])
        blocks.append(Block(f"features.{start}", module, tuple(names)))
    return BlockModel(
        architecture=architecture,
        network=network,
        stem=nn.Identity(),
        stem_parameters=(),
        blocks=tuple(blocks),
        head=nn.Sequential(network.avgpool, nn.Flatten(1), network.classifier),
    )


def _parameters(prefix: str, module: nn.Module) -> tuple[str, ...]:
    return tuple(f"{prefix}{name}" for name in module.state_dict())
