"""Reading and changing an ONNX graph: producers, shapes, FLOPs, nodes and weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import helper

from trtkit.errors import TrtkitError

# A weight of more elements than this holds no shape, axes or scales that shapes depend on.
SHAPE_ELEMENTS = 1024


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's element type (a TensorProto number) and shape; an unknown or dynamic size is None."""

    name: str
    dtype: int
    shape: tuple[int | None, ...]

    @property
    def per_image(self) -> tuple[int, ...] | None:
        """The shape behind the batch dimension; None when a size of it is unknown."""
        sizes = self.shape[1:]
        return None if any(size is None for size in sizes) else tuple(int(s or 0) for s in sizes)

    @property
    def elements(self) -> int | None:
        """Elements per image; None when a size is unknown."""
        return None if self.per_image is None else math.prod(self.per_image)


def tensor_infos(model: onnx.ModelProto) -> dict[str, TensorInfo]:
    """Every tensor of the graph whose type ONNX can infer, initializers included."""
    inferred = onnx.shape_inference.infer_shapes(_skeleton(model), data_prop=True).graph
    infos = {
        value.name: TensorInfo(value.name, value.data_type, tuple(value.dims))
        for value in model.graph.initializer
    }
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        dtype = value.type.tensor_type.elem_type
        infos[value.name] = TensorInfo(value.name, dtype, shape_of(value))
    return infos


def shape_of(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The shape of a graph's input, output or value; an unknown or dynamic size is None."""
    dims = value.type.tensor_type.shape.dim
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in dims)


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with only type and shape of large weights.

    Inference copies the model through its serialized form, and no shape depends on a large weight's
    values: on ResNet-152 that takes 0.7 s of 0.75.
    """
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    inputs = {value.name for value in model.graph.input}
    for weight in model.graph.initializer:
        if math.prod(weight.dims) <= SHAPE_ELEMENTS:
            graph.initializer.append(weight)
        elif weight.name not in inputs:
            info = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            graph.value_info.append(info)
    return skeleton


def image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input that is no initializer. Raises TrtkitError for any other number of inputs."""
    constants = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise TrtkitError(
            f"A classifier has one input, the image, but this graph has {len(inputs)} ({names}); "
            "export it with the others fixed."
        )
    image: onnx.ValueInfoProto = inputs[0]
    return image


def producers(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    """The node that computes each tensor, by the tensor's name."""
    return {name: node for node in nodes for name in node.output if name}


def ancestors(
    graph: onnx.GraphProto, targets: Iterable[str], stop: frozenset[str] = frozenset()
) -> list[onnx.NodeProto]:
    """The nodes that `targets` need, in an order that depends only on the graph's structure.

    Depth first along the inputs in their order, every node after those it reads. Does not go past
    the tensors in `stop`.
    """
    made_by = producers(graph.node)
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    stack = [(name, False) for name in reversed(list(targets))]
    while stack:
        name, inputs_done = stack.pop()
        node = made_by.get(name)
        if name in stop or node is None or id(node) in done:
            continue
        if inputs_done:
            done.add(id(node))
            ordered.append(node)
            continue
        stack.append((name, True))
        stack.extend((source, False) for source in reversed(reads(node)))
    return ordered


def reads(node: onnx.NodeProto) -> list[str]:
    """The tensors a node reads, those that its subgraphs take from outside included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            inner = {value.name for value in (*graph.input, *graph.initializer)}
            for child in graph.node:
                names.extend(name for name in reads(child) if name not in inner)
                inner.update(child.output)
    return names


def rename_tensors(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Give the inputs and outputs of `nodes` new names by their old ones, in place."""
    for node in nodes:
        for tensors in (node.input, node.output):
            for position, name in enumerate(tensors):
                tensors[position] = names.get(name, name)


def fresh_name(name: str, names: set[str]) -> str:
    """`name`, or one like it that is not among `names`; it is added to them."""
    while name in names:
        name += "_"
    names.add(name)
    return name


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make copies of `nodes`, which may be the graph's own, the nodes of the graph, in place."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def set_weights(graph: onnx.GraphProto, weights: Iterable[onnx.TensorProto]) -> None:
    """Make copies of those of `weights` that the graph needs its initializers, in place."""
    used = {name for node in graph.node for name in reads(node)}
    used |= {value.name for value in graph.output}
    copies = [onnx.TensorProto.FromString(w.SerializeToString()) for w in weights if w.name in used]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def flops_share(model: onnx.ModelProto, names: Collection[str]) -> float:
    """The part, 0 to 1, of the model's FLOPs that is in the nodes of those names."""
    infos = tensor_infos(model)
    flops = {node.name: node_flops(node, infos) or 0 for node in model.graph.node}
    return sum(count for name, count in flops.items() if name in names) / (sum(flops.values()) or 1)


def node_flops(node: onnx.NodeProto, infos: dict[str, TensorInfo]) -> int | None:
    """FLOPs of a node per image, a multiply-add counted as two; zero for all but heavy layers.

    Convolution: 2 x outputs x (input channels / groups) x kernel elements, which is 2 x outputs x
    the weights of one output channel. Gemm and MatMul: 2 x outputs x the summed dimension.
    None when a shape is unknown.
    """
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    output, weight = infos.get(node.output[0]), infos.get(node.input[1])
    if output is None or weight is None or output.elements is None:
        return None
    if node.op_type == "Conv":
        sizes = weight.shape[1:]
    else:
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        last = transposed or len(weight.shape) == 1
        sizes = weight.shape[-1:] if last else weight.shape[-2:-1]
    return None if None in sizes else 2 * output.elements * math.prod(size or 0 for size in sizes)
