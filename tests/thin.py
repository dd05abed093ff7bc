"""torchvision's networks with an eighth of their channels, for tests that look at structure alone.

They have the blocks, layers and names of the real ones, about a sixtieth of the weights, and take a
few milliseconds a photo.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

THINNER = 8
# Channels of a ResNet's stem and first layer.
FIRST = 64


@contextmanager
def thin_networks() -> Iterator[None]:
    """Inside the block torchvision gives thin networks, in this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        make_thin(patch)
        yield


def make_thin(patch: pytest.MonkeyPatch) -> None:
    """Have torchvision give thin networks until `patch` is undone."""
    import torch
    from torchvision import models
    from torchvision.models.resnet import ResNet
    from torchvision.models.vgg import VGG

    full_layer, full_model = ResNet._make_layer, models.get_model

    def make_layer(self: Any, block: Any, planes: int, *rest: Any, **options: Any) -> Any:
        if planes == FIRST:
            # The stem is made already; the shortcuts depend on its channels.
            self.inplanes = FIRST // THINNER
            self.conv1 = torch.nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(self.inplanes)
        return full_layer(self, block, planes // THINNER, *rest, **options)

    def get_model(name: str, **options: Any) -> Any:
        network = full_model(name, **options)
        if isinstance(network, ResNet):
            network.fc = torch.nn.Linear(network.inplanes, network.fc.out_features)
        elif isinstance(network, VGG):
            _thin_vgg(network)
        return network

    patch.setattr(ResNet, "_make_layer", make_layer)
    patch.setattr(models, "get_model", get_model)


def _thin_vgg(network: Any) -> None:
    """Replace its layers by thin ones of the same kinds at the same places."""
    from torch import nn

    channels = 3
    for place, layer in enumerate(network.features):
        if isinstance(layer, nn.Conv2d):
            thin = layer.out_channels // THINNER
            network.features[place] = nn.Conv2d(channels, thin, kernel_size=3, padding=1)
            channels = thin
        elif isinstance(layer, nn.BatchNorm2d):
            network.features[place] = nn.BatchNorm2d(channels)
    inputs = channels * 7 * 7
    for place, layer in enumerate(network.classifier):
        if isinstance(layer, nn.Linear):
            last = place == len(network.classifier) - 1
            outputs = layer.out_features if last else layer.out_features // THINNER
            network.classifier[place] = nn.Linear(inputs, outputs)
            inputs = outputs
