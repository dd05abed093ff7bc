"""One model of a tree: what its runner has to be asked for to classify."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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

    def values(self, names: Iterable[str], images: Array) -> dict[str, Array]:
        """The outputs of these names, beside the logits, of the stage that ends the model."""
        refs = {name: OutputRef(self.logits.stage, name) for name in names}
        outputs = self.runner.run([*refs.values()], images)
        return {name: outputs[ref] for name, ref in refs.items()}


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


def load_graphs(*files: tuple[Role, Path], exact: bool = False) -> LoadedModel:
    """ONNX graphs that follow each other, with their roles, the last one a head, on ONNX Runtime.

    `exact`: compute what quantized graphs say, in fp32 between their Q/DQ pairs. Raises TrtkitError for
    a file that cannot be loaded.
    """
    from trtkit.engines.onnxruntime import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(exact=exact)
    return model_of([(role, backend.load(path)) for role, path in files], backend)


def bare_stages(engines: Sequence[tuple[Role, Any]]) -> list[Stage]:
    """Stages for engines that follow each other, each by its first output, named by their roles.

    Further outputs of an engine are feature maps.
    """
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
                    StageOutput(s.name, s.dtype, s.shape, "feature_map" if place else KINDS[role])
                    for place, s in enumerate(engine.outputs)
                ),
            )
        )
    return stages
