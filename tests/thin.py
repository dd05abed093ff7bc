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
def thin_networks(thinner: int = THINNER) -> Iterator[None]:
    """Inside the block torchvision gives thin networks, in this process alone.

    With as many channels divided by `thinner`.
    """
    with pytest.MonkeyPatch.context() as patch:
        make_thin(patch, thinner)
        yield


def make_thin(patch: pytest.MonkeyPatch, thinner: int = THINNER) -> None:
    """Have torchvision give thin networks until `patch` is undone."""
    import torch
    from torchvision import models
    from torchvision.models.resnet import ResNet

    full_layer, full_model = ResNet._make_layer, models.get_model

    def make_layer(self: Any, block: Any, planes: int, *rest: Any, **options: Any) -> Any:
        if planes == FIRST:
            # The stem is made already; the shortcuts depend on its channels.
            self.inplanes = FIRST // thinner
            self.conv1 = torch.nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(self.inplanes)
            # A ResNeXt's groups have a channel each at least.
            self.base_width = max(self.base_width, thinner)
        return full_layer(self, block, planes // thinner, *rest, **options)

    def get_model(name: str, **options: Any) -> Any:
        if name.startswith("vgg"):
            # All its layers are replaced: half a gigabyte of weights that is never made.
            with torch.device("meta"):
                network = full_model(name, **options)
            _thin_vgg(network, thinner)
            return network
        network = full_model(name, **options)
        if isinstance(network, ResNet):
            network.fc = torch.nn.Linear(network.inplanes, network.fc.out_features)
        return network

    patch.setattr(ResNet, "_make_layer", make_layer)
    patch.setattr(models, "get_model", get_model)


def _thin_vgg(network: Any, thinner: int) -> None:
    """Replace its layers by thin ones of the same kinds at the same places."""
    from torch import nn

    channels = 3
    for place, layer in enumerate(network.features):
        if isinstance(layer, nn.Conv2d):
            thin = layer.out_channels // thinner
            network.features[place] = nn.Conv2d(channels, thin, kernel_size=3, padding=1)
            channels = thin
        elif isinstance(layer, nn.BatchNorm2d):
            network.features[place] = nn.BatchNorm2d(channels)
    inputs = channels * 7 * 7
    for place, layer in enumerate(network.classifier):
        if isinstance(layer, nn.Linear):
            last = place == len(network.classifier) - 1
            outputs = layer.out_features if last else layer.out_features // thinner
            network.classifier[place] = nn.Linear(inputs, outputs)
            inputs = outputs
