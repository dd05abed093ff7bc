"""Stages of small trees, without engines."""

from __future__ import annotations

from trtkit.stages import OutputKind, Role, Stage, StageInput, StageOutput

IMAGE = StageInput("image", "uint8", (None, 8, 8, 3))
MAP = StageOutput("map", "float32", (None, 4, 2, 2))
EMBEDDING = StageOutput("embedding", "float32", (None, 5), "embedding")
CLASSES = ("ant", "bee", "cat")


def stage(name: str, role: Role, parent: Stage | None, output: StageOutput) -> Stage:
    """A stage that takes the first output of `parent`, or the image, as its input `x`."""
    taken = parent.outputs[0] if parent is not None else None
    spec = taken if taken is not None else IMAGE
    return Stage(
        name=name, id=name.encode().hex(), role=role, parent=parent.name if parent is not None else None,
        file=f"{name}.onnx", digest="0",
        inputs=(StageInput("x", spec.dtype, spec.shape, taken.name if taken is not None else None),),
        outputs=(output,), classes=CLASSES if output.kind == "logits" else None,
    )  # fmt: skip


def prefix(name: str = "prefix") -> Stage:
    return stage(name, "prefix", None, MAP)


def body(name: str, parent: Stage) -> Stage:
    return stage(name, "body", parent, EMBEDDING)


def head(name: str, parent: Stage | None, kind: OutputKind = "logits") -> Stage:
    return stage(name, "head", parent, StageOutput("logits", "float32", (None, len(CLASSES)), kind))
