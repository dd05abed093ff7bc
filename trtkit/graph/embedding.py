"""The embedding: the vector that a classifier's last matrix product takes, and a tail cut there."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from trtkit.errors import TrtkitError
from trtkit.graph.boundaries import cut_points, dependent_on
from trtkit.graph.card import ModelCard
from trtkit.graph.split import Split, split
from trtkit.graph.values import ancestors, image_input, producers, reads, tensor_infos

PRODUCTS = ("Gemm", "MatMul")
# What may stand between the last product and the logits: biases, scores, shapes, types.
BEHIND = (
    "Add", "Mul", "Softmax", "LogSoftmax", "Reshape", "Flatten", "Squeeze", "Cast", "Identity", "Dropout",
    "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip


def find_embedding(model: onnx.ModelProto, name: str) -> str:
    """The float tensor, N x D, that the last matrix product of a classifier takes.

    Where the product takes it quantized, the tensor in front of the pair. `name` is for messages.
    Raises TrtkitError when the logits come from anything else.
    """
    graph = model.graph
    made_by = producers(graph.node)
    source = image_input(model).name
    live = dependent_on(source, ancestors(graph, [value.name for value in graph.output]))
    node = made_by[graph.output[0].name]
    while node.op_type in BEHIND:
        value = _only_value(node, live)
        if value is None:
            break
        if value == source:
            raise _too_late(name)
        node = made_by[value]
    if node.op_type not in PRODUCTS:
        raise TrtkitError(
            f"{name} has no embeddings: they are the input of a last matrix product, and its logits come "
            f"out of {node.op_type}; build it without --embeddings."
        )
    tensor = _only_value(node, live)
    info = None
    if tensor is not None and tensor == node.input[0]:
        tensor = _before_pair(tensor, made_by)
        info = tensor_infos(model).get(tensor)
    if tensor is None or info is None or info.dtype != TensorProto.FLOAT or len(info.shape) != 2:
        shape = "x".join(str(size or "N") for size in info.shape) if info is not None else "unknown"
        raise TrtkitError(
            f"{name} has no embeddings: they are vectors, N x D, and its last matrix product takes another "
            f"shape ({shape}); build it without --embeddings."
        )
    return tensor


def divide(tail: onnx.ModelProto, name: str) -> Split:
    """A tail in two: from the feature map to the embedding, and from there to the logits.

    Raises TrtkitError when it has no embedding, or nothing that computes one.
    """
    tensor = find_embedding(tail, name)
    widened = producers(tail.graph.node).get(tensor)
    stored = widened is not None and widened.op_type == "DequantizeLinear"
    if image_input(tail).name == (widened.input[0] if widened and stored else tensor):
        raise _too_late(name)
    return split(tail, tensor)


def cuts_before_embedding(model: onnx.ModelProto, card: ModelCard, name: str) -> int:
    """The last cut whose tail computes the embedding. Raises TrtkitError when no cut does."""
    tensor = find_embedding(model, name)
    before = {made for node in ancestors(model.graph, [tensor]) for made in node.output} - {tensor}
    cuts = [point.cut for point in cut_points(model, card) if point.tensor in before]
    if not cuts:
        raise _too_late(name)
    return max(cuts)


def _too_late(name: str) -> TrtkitError:
    return TrtkitError(
        f"{name} has its embeddings at the cut or before it, so that its tail would be the last layer "
        f"alone; choose a lower cut (`trtkit cuts {name}` lists them), or leave --embeddings out."
    )


def _only_value(node: onnx.NodeProto, live: set[str]) -> str | None:
    """The one input of a node that is computed from the image; None where there are more or none."""
    values = [name for name in reads(node) if name in live]
    return values[0] if len(values) == 1 else None


def _before_pair(tensor: str, made_by: dict[str, onnx.NodeProto]) -> str:
    """What was quantized and dequantized to `tensor`; itself where nothing was."""
    widened = made_by.get(tensor)
    if widened is None or widened.op_type != "DequantizeLinear":
        return tensor
    narrowed = made_by.get(widened.input[0])
    if narrowed is None or narrowed.op_type != "QuantizeLinear":
        return tensor
    return str(narrowed.input[0])
