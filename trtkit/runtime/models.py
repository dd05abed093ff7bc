"""One model of a tree: what its runner has to be asked for to classify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtkit.bundle import Manifest
from trtkit.engines.base import Backend
from trtkit.errors import TrtkitError, listed
from trtkit.runtime.runner import HostRunner, Runner
from trtkit.stages import OutputKind, OutputRef, Role, Stage, StageInput, StageOutput
from trtkit.tensors import Array

# What the output of an engine is that belongs to no bundle.
KINDS: Mapping[Role, OutputKind] = {"prefix": "feature_map", "body": "embedding", "head": "logits"}


@dataclass(frozen=True)
class LoadedModel:
    """The runner of a model's stages, its logits, and the feature map at its cut, None without a cut."""

    runner: Runner
    logits: OutputRef
    cut: OutputRef | None = None

    @classmethod
    def of(cls, manifest: Manifest, tail: Stage, runner: Runner) -> LoadedModel:
        """The tail of a bundle whose stages `runner` has loaded."""
        return cls(runner, output_of(tail, "logits"), manifest.cut_of(tail))

    def classify(self, images: Array) -> Array:
        """Logits, float32 N x classes, of uint8 images N x H x W x 3, RGB."""
        return self.runner.run([self.logits], images)[self.logits]


def output_of(stage: Stage, kind: OutputKind) -> OutputRef:
    """The stage's output of that kind. Raises TrtkitError when it has none."""
    ref = stage.ref(kind)
    if ref is None:
        outputs = listed(f"{output.name} ({output.kind})" for output in stage.outputs)
        raise TrtkitError(f"Stage {stage.name} has no output of kind {kind}; available: {outputs}.")
    return ref


def model_of(engines: Sequence[tuple[Role, Any]], backend: Backend) -> LoadedModel:
    """Loaded engines of `backend` that follow each other, with their roles, the last one a head.

    They belong to no bundle: engines to be measured or compared.
    """
    stages = bare_stages(engines)
    by_name = {stage.name: engine for stage, (_, engine) in zip(stages, engines, strict=True)}
    cut = next((stage.ref("feature_map") for stage in stages if stage.role == "prefix"), None)
    runner: Runner
    if backend.on_device:
        from trtkit.runtime.device.runner import DeviceRunner

        runner = DeviceRunner(stages, by_name, guarded=cut)
    else:
        runner = HostRunner(stages, by_name)
    return LoadedModel(runner, output_of(stages[-1], "logits"), cut)


def bare_stages(engines: Sequence[tuple[Role, Any]]) -> list[Stage]:
    """Stages for engines with one input and one output that follow each other, named by their roles."""
    stages: list[Stage] = []
    for role, engine in engines:
        parent = stages[-1] if stages else None
        source = parent.outputs[0].name if parent is not None else None
        same = sum(stage.role == role for stage in stages)
        stages.append(
            Stage(
                name=f"{role}-{same + 1}" if same else role,
                id="",
                role=role,
                parent=parent.name if parent is not None else None,
                file="",
                digest="",
                inputs=tuple(StageInput(s.name, s.dtype, s.shape, source) for s in engine.inputs),
                outputs=tuple(
                    StageOutput(s.name, s.dtype, s.shape, KINDS[role]) for s in engine.outputs
                ),
            )
        )
    return stages
