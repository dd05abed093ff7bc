"""Normalisation that a foreign graph brings along: constants between its input and its first layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from trtkit.tensors import Array

ARITHMETIC = ("Add", "Sub", "Mul", "Div")
# Nodes that change where a value lies or its type, not the value.
CARRIERS = ("Identity", "Cast", "Transpose")
# A graph takes values of 0 to 255 when what it multiplies them with is below this, or when the value that
# it moves to 0 is above this many times the brightest one of 0 to 1.
LEAST_FACTOR = 0.05
MOST_CENTRE = 2.0


@dataclass(frozen=True)
class OwnScaling:
    """What a graph itself makes of a pixel x: `factor` * x + `offset`, float64, one for each channel."""

    factor: Array
    offset: Array

    @property
    def takes_bytes(self) -> bool:
        """Whether it is meant for values of 0 to 255 rather than of 0 to 1."""
        centre = np.abs(self.offset / self.factor)
        return bool((np.abs(self.factor) < LEAST_FACTOR).any() or (centre > MOST_CENTRE).any())


def own_scaling(graph: onnx.GraphProto, image: str, channels: int) -> OwnScaling | None:
    """What the graph first does to every pixel of its input `image` alike; None for nothing.

    Constants may be initializers or Constant nodes, one for all channels or one for each.
    """
    constants = {weight.name: weight for weight in graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    factor: Array = np.ones(channels)
    offset: Array = np.zeros(channels)
    steps, value = 0, image
    while True:
        readers = [node for node in graph.node if value in node.input]
        if len(readers) != 1 or readers[0].op_type not in (*ARITHMETIC, *CARRIERS):
            break
        node = readers[0]
        value = node.output[0]
        if node.op_type in CARRIERS:
            continue
        first = node.input[0] not in constants
        constant = _per_channel(constants.get(node.input[1 if first else 0]), channels)
        if constant is None:
            break
        moved = _step(node.op_type, first, factor, offset, constant)
        if moved is None:
            break
        factor, offset = moved
        steps += 1
    trivial = bool((factor == 1).all() and (offset == 0).all())
    return None if steps == 0 or trivial or not factor.all() else OwnScaling(factor, offset)


def _per_channel(tensor: onnx.TensorProto | None, channels: int) -> Array | None:
    if tensor is None or len(tensor.external_data):
        return None
    values = numpy_helper.to_array(tensor).astype(np.float64).ravel()
    return np.resize(values, channels) if values.size in (1, channels) else None


def _step(
    operator: str, first: bool, factor: Array, offset: Array, constant: Array
) -> tuple[Array, Array] | None:
    """`factor` and `offset` behind a node whose input is its `first` operand; None for constant / x."""
    if operator == "Add":
        return factor, offset + constant
    if operator == "Sub":
        return (factor, offset - constant) if first else (-factor, constant - offset)
    if operator == "Mul":
        return factor * constant, offset * constant
    return (factor / constant, offset / constant) if first and constant.all() else None
