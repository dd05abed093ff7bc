"""A small tree with branches, as graphs and as loaded engines, and what it gives for some images.

x -> prefix -> maps, early
         maps        -> a-body -> embedding -> a -> logits of a
         maps, early -> b                        -> logits of b
         maps        -> exit                     -> logits of exit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from trtkit.engines.base import Backend, StageBuild
from trtkit.engines.options import BatchRange, BuildOptions
from trtkit.stages import OutputRef, Stage, StageInput, StageOutput

SIZES = {
    "x": [3, 8, 8], "early": [4, 8, 8], "maps": [4, 8, 8], "embedding": [6],
    "logits-a": [5], "logits-b": [3], "logits-exit": [2],
}  # fmt: skip
MAPS = OutputRef("prefix", "maps")
EARLY = OutputRef("prefix", "early")
EMBEDDING = OutputRef("a-body", "embedding")
A = OutputRef("a", "logits-a")
B = OutputRef("b", "logits-b")
EXIT = OutputRef("exit", "logits-exit")
ALL = (MAPS, EARLY, EMBEDDING, A, B, EXIT)

_RANDOM = np.random.default_rng(4)
IMAGES = _RANDOM.standard_normal((24, *SIZES["x"])).astype(np.float32)
_WEIGHTS = {
    name: (_RANDOM.standard_normal(shape) * 0.4).astype(np.float32)
    for name, shape in {
        "w1": (4, 3, 3, 3), "w2": (4, 4, 3, 3), "w3": (6, 4, 1, 1), "wa": (6, 5), "wb": (4, 3),
        "we": (4, 2),
    }.items()
}  # fmt: skip


def _pooled(value: str, place: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("GlobalAveragePool", [value], [f"{place}-pool"]),
        helper.make_node("Flatten", [f"{place}-pool"], [f"{place}-flat"]),
    ]


_NODES = {
    "prefix": [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["early"]),
        helper.make_node("Conv", ["early", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["maps"]),
    ],
    "a-body": [
        helper.make_node("Conv", ["maps", "w3"], ["c3"]),
        helper.make_node("Relu", ["c3"], ["r3"]),
        *_pooled("r3", "a"),
        helper.make_node("Relu", ["a-flat"], ["embedding"]),
    ],
    "a": [helper.make_node("MatMul", ["embedding", "wa"], ["logits-a"])],
    "b": [
        helper.make_node("Sub", ["maps", "early"], ["difference"]),
        *_pooled("difference", "b"),
        helper.make_node("MatMul", ["b-flat", "wb"], ["logits-b"]),
    ],
    "exit": [*_pooled("maps", "e"), helper.make_node("MatMul", ["e-flat", "we"], ["logits-exit"])],
}
_ENDS = {
    "prefix": (["x"], ["maps", "early"]),
    "a-body": (["maps"], ["embedding"]),
    "a": (["embedding"], ["logits-a"]),
    "b": (["maps", "early"], ["logits-b"]),
    "exit": (["maps"], ["logits-exit"]),
}
PARENTS = {"prefix": None, "a-body": "prefix", "a": "a-body", "b": "prefix", "exit": "prefix"}
ROLES: Mapping[str, Any] = {
    "prefix": "prefix", "a-body": "body", "a": "head", "b": "head", "exit": "exit",
}  # fmt: skip
KINDS: Mapping[str, Any] = {"maps": "feature_map", "early": "feature_map", "embedding": "embedding"}


def model(nodes: Sequence[onnx.NodeProto], inputs: list[str], outputs: list[str]):
    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *SIZES[name]])

    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        list(nodes), "stage", list(map(info, inputs)), list(map(info, outputs)),
        [numpy_helper.from_array(w, name) for name, w in _WEIGHTS.items() if name in read],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _whole_model_gives() -> dict[OutputRef, np.ndarray]:
    nodes = [node for stage in _NODES.values() for node in stage]
    whole = model(nodes, ["x"], [ref.output for ref in ALL])
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return dict(zip(ALL, session.run([ref.output for ref in ALL], {"x": IMAGES}), strict=True))


WHOLE = _whole_model_gives()
# What each build in this process said of its engine.
_RECORDS: dict[Path, dict[str, Any]] = {}


def load_tree(
    backend: Backend, folder: Path, *, profiles: tuple[BatchRange, ...] = ((1, 4, 8),)
) -> tuple[list[Stage], dict[str, Any]]:
    """The stages and their loaded engines, by name. Engines in `folder` are not built again."""
    stages, engines = [], {}
    for name, (inputs, outputs) in _ENDS.items():
        path = folder / f"{name}-0{backend.suffix}"
        if not path.exists():
            build = StageBuild(
                name, model(_NODES[name], inputs, outputs), "fp32", name == "prefix",
                name in ("a", "b", "exit"), BuildOptions(profiles=profiles),
            )  # fmt: skip
            _RECORDS[path] = backend.build(build, path, folder / "timing").record
        engines[name] = engine = backend.load(path, _RECORDS[path], "trtkit build")
        parent = PARENTS[name]
        stages.append(
            Stage(
                name=name, id=name, role=ROLES[name], parent=parent, file=path.name, digest="",
                inputs=tuple(
                    StageInput(s.name, s.dtype, s.shape, None if parent is None else s.name)
                    for s in engine.inputs
                ),
                outputs=tuple(
                    StageOutput(s.name, s.dtype, s.shape, KINDS.get(s.name, "logits"))
                    for s in engine.outputs
                ),
            )
        )  # fmt: skip
    return stages, engines


def path(stage: str) -> list[str]:
    """The stages from the root to this one."""
    parent = PARENTS[stage]
    return [*(path(parent) if parent is not None else []), stage]


def rows_of(ref: OutputRef, images: Sequence[int], known: Mapping[OutputRef, Sequence[int]]):
    """Which images the rows of an output are of: those given, then the known ones from the root down."""
    rows = list(images)
    for parent in path(ref.stage)[:-1]:
        above = [numbers for source, numbers in known.items() if source.stage == parent]
        rows.extend(above[0] if above else [])
    return rows


def assert_whole(outputs, wanted, images, known) -> None:
    """These outputs are what the whole model gives for those images."""
    expected = {ref: rows for ref in wanted if (rows := rows_of(ref, images, known))}
    assert outputs.keys() == expected.keys()
    for ref, rows in expected.items():
        assert len(outputs[ref]) == len(rows)
        np.testing.assert_allclose(outputs[ref], WHOLE[ref][rows], rtol=1e-4, atol=1e-5)
