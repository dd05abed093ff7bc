"""Trees without branches, as many tests want them: images and hits in, logits and maps out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trtkit.runtime.device.runner import DeviceRunner
from trtkit.runtime.models import bare_stages
from trtkit.runtime.runner import HostRunner
from trtkit.stages import OutputRef
from trtkit.tensors import Array

ROLES: dict[int, Any] = {1: ["head"], 2: ["prefix", "head"], 3: ["prefix", "body", "head"]}


def with_roles(engines: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Engines that follow each other with their roles, the first of several being the prefix."""
    return list(zip(ROLES[len(engines)], engines, strict=True))


@dataclass(frozen=True)
class ChainOutcome:
    logits: Array
    features: Array | None
    penultimate: Array | None


@dataclass
class ChainPending:
    pending: Any
    refs: dict[str, OutputRef]

    def result(self) -> ChainOutcome:
        outputs = self.pending.result()
        return ChainOutcome(*(outputs.get(ref) for ref in self.refs.values()))


class Chain:
    """A runner of engines that follow each other, the first of several being the prefix."""

    def __init__(self, engines: Sequence[Any], kind: type, **options: Any) -> None:
        self.stages = bare_stages(with_roles(engines))
        by_role = dict(with_roles(engines))
        output = {stage.name: OutputRef(stage.name, stage.outputs[0].name) for stage in self.stages}
        self.logits_ref, self.cut, self.embedding = (
            output.get(role) for role in ("head", "prefix", "body")
        )
        if options:
            options["guarded"] = self.cut
        self.runner = kind(self.stages, by_role, **options)
        self.depth = self.runner.depth

    def submit(self, images, hits=(), *, keys=(), keep=False, penultimate=False) -> ChainPending:
        refs = {"logits": self.logits_ref}
        refs["features"] = self.cut if keep and len(images) else None
        refs["penultimate"] = self.embedding if penultimate else None
        wanted = [ref for ref in refs.values() if ref is not None]
        known = {self.cut: hits} if len(hits) else {}
        return ChainPending(self.runner.submit(wanted, images, known, keys=keys), refs)

    def logits(self, images: Array) -> Array:
        return self.runner.run([self.logits_ref], images)[self.logits_ref]

    def on_device(self, images: Any) -> Any:
        return self.runner.on_device(self.logits_ref, images)

    def close(self) -> None:
        self.runner.close()


def host_chain(engines: Sequence[Any]) -> Chain:
    return Chain(engines, HostRunner)


def device_chain(engines: Sequence[Any], *, gpu_cache: int = 0, graphs: bool = True) -> Chain:
    return Chain(engines, DeviceRunner, gpu_cache=gpu_cache, graphs=graphs)
