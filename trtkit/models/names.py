"""The names of the architectures and of checkpoint files, readable without torch."""

from __future__ import annotations

from trtkit.errors import TrtkitError, listed, nearest

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


def check_architecture(architecture: str) -> None:
    """Raise TrtkitError, naming the nearest ones, unless `architecture` is one of ARCHITECTURES."""
    if architecture in ARCHITECTURES:
        return
    near = nearest(architecture, ARCHITECTURES)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"available: {listed(ARCHITECTURES, 20)}."
    )
    raise TrtkitError(f"Architecture {architecture!r} not found; {hint}")
