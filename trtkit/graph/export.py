"""From a torch model to an ONNX graph that takes uint8 photos and knows its blocks."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from trtkit.graph.card import BlockBoundary, ModelCard
from trtkit.graph.lower import lower
from trtkit.graph.values import rename_tensors
from trtkit.models.blocks import BlockModel, Normalise, feature_size
from trtkit.preprocessing import Preprocessing
from trtkit.tensors import Array

EXPORT_OPSET = 18


class UInt8Classifier(nn.Module):
    """A block model that takes uint8 N x H x W x 3 RGB and also returns every block's output."""

    def __init__(self, model: BlockModel, image: Preprocessing) -> None:
        super().__init__()
        size = feature_size(model, image)
        self.network = model.network
        self.stem = model.stem
        self.blocks = nn.ModuleList(block.module for block in model.blocks)
        self.head = nn.Sequential(
            *(
                FixedAveragePool(layer, size) if isinstance(layer, nn.AdaptiveAvgPool2d) else layer
                for layer in model.head.children()
            )
        )
        self.normalise = Normalise(model.normalisation)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.stem(self.normalise(image))
        boundaries = []
        for block in self.blocks:
            x = block(x)
            boundaries.append(x)
        return (self.head(x), *boundaries)


class FixedAveragePool(nn.Module):
    """Adaptive average pooling for one known input size, in operators that every parser has.

    A pool to 1 x 1 is a mean; any other size is linear in rows and in columns, so it is a
    multiplication by two constant averaging matrices.
    """

    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(self, pool: nn.AdaptiveAvgPool2d, size: tuple[int, int]) -> None:
        super().__init__()
        wanted: Any = pool.output_size
        target = (wanted, wanted) if isinstance(wanted, int) else (wanted[0], wanted[1])
        self.to_one = target == (1, 1)
        self.identity = target == size
        self.register_buffer("rows", _averaging(size[0], target[0]))
        self.register_buffer("columns", _averaging(size[1], target[1]).T.contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.identity:
            return x
        if self.to_one:
            return x.mean((2, 3), keepdim=True)
        return self.rows @ x @ self.columns


def _averaging(size: int, target: int) -> torch.Tensor:
    """target x size: row i averages inputs floor(i * size / target) to ceil((i + 1) * size / target)."""
    matrix = torch.zeros(target, size)
    for row in range(target):
        start, end = row * size // target, -(-(row + 1) * size // target)
        matrix[row, start:end] = 1.0 / (end - start)
    return matrix


def export_graph(model: BlockModel, card: ModelCard) -> onnx.ModelProto:
    """The ONNX graph of a block model: input `image`, output `logits`, the card in its metadata.

    `image` is uint8, batch x H x W x 3, RGB, with a dynamic batch and H, W of the card's
    preprocessing; `logits` is float32, batch x classes. The tensor at the end of block N is named
    `block_N`; the card's own blocks are replaced by those.
    """
    image = card.preprocessing
    wrapped = UInt8Classifier(model, image).eval()
    tensors = [f"block_{number}" for number in range(1, len(model.blocks) + 1)]
    example = torch.zeros(2, image.height, image.width, 3, dtype=torch.uint8)
    with _quiet():
        program: Any = torch.onnx.export(
            wrapped,
            (example,),
            dynamo=True,
            opset_version=EXPORT_OPSET,
            input_names=["image"],
            output_names=["logits", *tensors],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    exported: onnx.ModelProto = program.model_proto
    # The blocks' outputs were exported only so that their tensors have known names.
    del exported.graph.output[1:]
    lower(exported)
    _name_weights(exported.graph, wrapped, model)
    boundaries = [
        BlockBoundary(block.name, tensor)
        for block, tensor in zip(model.blocks, tensors, strict=True)
    ]
    exported.producer_name = "trtkit"
    exported.producer_version = ""
    replace(card, blocks=boundaries).write_to(exported)
    return exported


def _name_weights(graph: onnx.GraphProto, wrapped: nn.Module, model: BlockModel) -> None:
    """Give weights the names of the network's state dict: those are what people know them by.

    The exporter names a weight after the module that holds it; folding a batch norm adds a suffix.
    """
    own = {id(module): name for name, module in model.network.named_modules()}
    ours = dict(wrapped.named_modules(remove_duplicate=False))
    renamed = {}
    for weight in graph.initializer:
        holder, _, leaf = weight.name.rpartition(".")
        if holder in ours and own.get(id(ours[holder])):
            renamed[weight.name] = f"{own[id(ours[holder])]}.{leaf}"
    for weight in graph.initializer:
        weight.name = renamed.get(weight.name, weight.name)
    rename_tensors(graph.node, renamed)


def reference_logits(model: BlockModel, images: Array, image: Preprocessing) -> Array:
    """torch's own logits, float32 N x classes, for uint8 images N x H x W x 3.

    Runs the network itself, not the parts that were exported, so that the two check each other.
    """
    wrapped = UInt8Classifier(model, image).eval()
    with torch.inference_mode():
        rows = [
            model.network(wrapped.normalise(torch.from_numpy(images[start : start + 1])))
            for start in range(len(images))
        ]
    return np.asarray(torch.cat(rows).numpy(), dtype=np.float32)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress and warnings; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
