"""The names of the architectures and of checkpoint files, readable without torch."""

from __future__ import annotations

ARCHITECTURES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
)

# What a checkpoint's file name ends in.
CHECKPOINTS = (".safetensors", ".pt", ".pth")
