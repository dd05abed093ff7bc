"""The tree of stages: what each stage is for, what it takes from its parent and what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from trtkit.errors import listed
from trtkit.labels import clean_labels
from trtkit.scores import Scoring
from trtkit.tensors import TensorSpec

# prefix: what several models share. body: a tail's stage that ends in the embedding. head: ends in the
# logits. exit: logits on the way. adapter: one family's map into another's tail. codec: a smaller map,
# and back.
Role = Literal["prefix", "body", "head", "exit", "adapter", "codec"]
OutputKind = Literal["feature_map", "embedding", "logits"]

# The name of the stage that the models of a bundle share.
PREFIX = "prefix"
# Behind a model's name: the stage of its tail that ends in the embedding.
BODY = "-body"


class OutputRef(NamedTuple):
    """An output of a stage, by the names of both. An edge of the tree where another stage takes it."""

    stage: str
    output: str

    def __str__(self) -> str:
        return f"{self.stage}:{self.output}"


@dataclass(frozen=True)
class StageInput(TensorSpec):
    """An input of a stage. `source`: the output of its parent that it takes, None for the image."""

    source: str | None = None


@dataclass(frozen=True)
class StageOutput(TensorSpec):
    """An output of a stage, and what it is.

    `scores`: how logits become scores; None for other outputs, and in earlier bundles, whose logits
    become scores by softmax.
    """

    kind: OutputKind = "feature_map"
    scores: Scoring | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the tree: what it is for, and which engine file makes it runnable.

    `parent` is the parent stage's name, None where every input is the image; `digest` is the BLAKE3
    (hex) of `file`; `classes` are the labels of a stage with logits, None for others. `source` is the
    stage's ONNX file as exported, from which the engine can be built again elsewhere, with its digest;
    None in bundles of earlier versions. `engine` is the backend's record of the build: library, version,
    card, flags, what the heavy layers compute in.
    """

    name: str
    id: str
    role: Role
    parent: str | None
    file: str
    digest: str
    inputs: tuple[StageInput, ...]
    outputs: tuple[StageOutput, ...]
    classes: tuple[str, ...] | None = None
    source: str | None = None
    source_digest: str | None = None
    engine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.classes is not None:
            object.__setattr__(self, "classes", clean_labels(self.classes))

    def files(self) -> dict[str, str]:
        """The digests of this stage's files, by their names in the bundle."""
        files = {self.file: self.digest}
        if self.source is not None and self.source_digest is not None:
            files[self.source] = self.source_digest
        return files

    def output(self, kind: OutputKind) -> StageOutput | None:
        """The stage's first output of that kind, None without one."""
        return next((output for output in self.outputs if output.kind == kind), None)

    @property
    def scoring(self) -> Scoring:
        """How the stage's logits become scores."""
        logits = self.output("logits")
        return (logits.scores if logits is not None else None) or "softmax"

    def ref(self, kind: OutputKind) -> OutputRef | None:
        """The name of `output(kind)` in the tree."""
        output = self.output(kind)
        return OutputRef(self.name, output.name) if output is not None else None


def path_to(stages: Sequence[Stage], name: str) -> tuple[Stage, ...]:
    """The stages from the root to the stage of that name, both included."""
    by_name = {stage.name: stage for stage in stages}
    path = [by_name[name]]
    while (parent := path[0].parent) is not None:
        path.insert(0, by_name[parent])
    return tuple(path)


def paths_to(stages: Sequence[Stage], names: Iterable[str]) -> tuple[Stage, ...]:
    """The stages on the paths to all of these, each once, parents before their children."""
    return tuple({stage.name: stage for name in names for stage in path_to(stages, name)}.values())


def check_tree(stages: Sequence[Stage]) -> None:
    """Raise ValueError, saying what is wrong, unless the stages are a tree that can be run."""
    by_name = {stage.name: stage for stage in stages}
    if len(by_name) < len(stages):
        names = [stage.name for stage in stages]
        twice = [name for name in by_name if names.count(name) > 1]
        raise ValueError(f"more than one stage is called {listed(twice)}")
    for stage in stages:
        _check_parents(stage, by_name)
        _check_inputs(stage, by_name)
        _check_outputs(stage)
        for file in (stage.file, stage.source):
            if file is None:
                continue
            if file in ("", ".", "..") or "/" in file or "\\" in file or "\0" in file:
                raise ValueError(
                    f"the file {file!r} of stage {stage.name} is not in the bundle's folder"
                )


def _check_parents(stage: Stage, by_name: dict[str, Stage]) -> None:
    above = [stage.name]
    parent = stage.parent
    while parent is not None:
        if parent not in by_name:
            raise ValueError(
                f"the parent `{parent}` of stage {above[-1]} does not exist; available: "
                f"{listed(by_name)}"
            )
        if parent in above:
            raise ValueError(f"the stages {listed(above)} are each other's parents")
        above.append(parent)
        parent = by_name[parent].parent


def _check_inputs(stage: Stage, by_name: dict[str, Stage]) -> None:
    if not stage.inputs:
        raise ValueError(f"stage {stage.name} takes nothing")
    _check_distinct(stage, stage.inputs, "input")
    parent = by_name[stage.parent] if stage.parent is not None else None
    outputs = {output.name: output for output in parent.outputs} if parent is not None else {}
    if parent is not None and all(spec.source is None for spec in stage.inputs):
        raise ValueError(f"stage {stage.name} takes nothing from its parent {parent.name}")
    for spec in stage.inputs:
        if spec.source is None:
            continue
        output = outputs.get(spec.source)
        if output is None:
            raise ValueError(
                f"the input {spec.name} of stage {stage.name} comes from `{spec.source}`, which its "
                f"parent does not give; available: {listed(outputs)}"
            )
        if not _fit(output, spec):
            raise ValueError(f"stage {stage.name} takes {spec}, but its parent gives {output}")


def _fit(output: TensorSpec, spec: TensorSpec) -> bool:
    return (
        output.dtype == spec.dtype
        and len(output.shape) == len(spec.shape)
        and all(
            None in pair or len(set(pair)) == 1
            for pair in zip(output.shape, spec.shape, strict=True)
        )
    )


def _check_distinct(stage: Stage, specs: Sequence[TensorSpec], what: str) -> None:
    names = [spec.name for spec in specs]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"stage {stage.name} has more than one {what} called {listed(twice)}")


def _check_outputs(stage: Stage) -> None:
    if not stage.outputs:
        raise ValueError(f"stage {stage.name} gives nothing")
    _check_distinct(stage, stage.outputs, "output")
    logits = [output for output in stage.outputs if output.kind == "logits"]
    if stage.role in ("head", "exit") and not logits:
        raise ValueError(f"the {stage.role} {stage.name} has no logits")
    if len(logits) > 1:
        raise ValueError(f"stage {stage.name} has {len(logits)} outputs of logits instead of one")
    if not logits:
        if stage.classes is not None:
            raise ValueError(f"stage {stage.name} has classes but no logits")
        return
    size = logits[0].shape[-1] if logits[0].shape else None
    count = len(stage.classes or ())
    if not count or size not in (None, count):
        raise ValueError(f"stage {stage.name} has {count} classes for the logits {logits[0]}")
