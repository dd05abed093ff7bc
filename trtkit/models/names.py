"""The names of the architectures and of checkpoint files, readable without torch."""

from __future__ import annotations

from trtkit.errors import TrtkitError, listed, nearest

ARCHITECTURES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
)

# What the file names of checkpoints commonly end in. Any other is read as well.
CHECKPOINTS = (".safetensors", ".pth.tar", ".pth", ".pt", ".ckpt", ".bin")


def without_ending(name: str) -> str:
    """A file's name without the ending that says what it holds.

    >>> without_ending("model_best.pth.tar"), without_ending("net.v2.onnx"), without_ending("run.7")
    ('model_best', 'net.v2', 'run.7')
    """
    ending = next((e for e in (*CHECKPOINTS, ".onnx") if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def check_architecture(architecture: str) -> None:
    """Raise TrtkitError, naming the nearest ones, unless `architecture` is one of ARCHITECTURES."""
    if architecture in ARCHITECTURES:
        return
    near = nearest(architecture, ARCHITECTURES)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"available: {listed(ARCHITECTURES, 20)}."
    )
    raise TrtkitError(f"Architecture {architecture!r} not found; {hint}")
