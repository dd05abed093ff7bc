"""From uint8 photos to what a network takes: the one normalisation of training, export and serving."""

from __future__ import annotations

import torch
from torch import nn

from trtkit.preprocessing import IMAGENET_MEAN, IMAGENET_STD


class Normalise(nn.Module):
    """uint8 N x H x W x 3, RGB, to float32 N x 3 x H x W, normalised as ImageNet is."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # x / 255 then (x - mean) / std, as one subtraction and one multiplication.
        mean = 255.0 * torch.tensor(IMAGENET_MEAN, dtype=torch.float64).view(1, 3, 1, 1)
        scale = 1.0 / (255.0 * torch.tensor(IMAGENET_STD, dtype=torch.float64)).view(1, 3, 1, 1)
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # Cast comes first: TensorRT's parser refuses a uint8 transpose.
        x = image.to(torch.float32).permute(0, 3, 1, 2)
        return (x - self.mean) * self.scale
