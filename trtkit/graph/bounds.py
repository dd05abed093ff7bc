"""What a graph from elsewhere may ask for: checked before it is run, so that a small file stays small."""

from __future__ import annotations

import math

import onnx

from trtkit.errors import TrtkitError
from trtkit.graph.values import tensor_infos

# Elements of one tensor per image: 1 GiB in fp32. The largest feature map of a VGG at 2048 x 2048 fits.
ELEMENTS = 2**28
# ImageNet-21k has 21,841 classes.
CLASSES = 2**20


def check_sizes(model: onnx.ModelProto, name: str) -> None:
    """Raise TrtkitError when a tensor whose size the graph fixes has more than ELEMENTS per image.

    Sizes that depend on values are known only when it is run, which limits the memory itself.
    """
    weights = {value.name for value in model.graph.initializer}
    for info in tensor_infos(model).values():
        if info.name in weights:
            # What is stored is as large as the file.
            continue
        count = math.prod(size if size and size > 0 else 1 for size in info.shape)
        if count > ELEMENTS:
            shape = " x ".join("?" if size is None else str(size) for size in info.shape)
            raise TrtkitError(
                f"{name} computes {info.name} of {shape} elements, more than the {ELEMENTS:,} that one "
                "tensor may have; check the file, or export it for smaller images."
            )


def check_class_count(count: int, name: str) -> None:
    """Raise TrtkitError unless that is a number of classes."""
    if not 1 <= count <= CLASSES:
        raise TrtkitError(
            f"{name} gives {count:,} values for each image, and a classifier has 1 to {CLASSES:,} "
            "classes; check the file, or choose another output with --output."
        )
