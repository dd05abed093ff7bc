"""The TensorRT backend: stages become plans, which run on the GPU they were built on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtkit.engines.base import BuiltEngine, LayerTime, StageBuild
from trtkit.engines.cuda import device
from trtkit.engines.registry import BackendEntry
from trtkit.engines.tensorrt.builder import PlanRequest, build_plan
from trtkit.engines.tensorrt.engine import TensorRTEngine, load_engine
from trtkit.engines.tensorrt.layers import check_layers, engine_layers
from trtkit.engines.tensorrt.library import Library, load_library
from trtkit.engines.tensorrt.origin import RTX_CAPABILITIES, check_origin, describe_origin
from trtkit.engines.tensorrt.profiler import layer_times
from trtkit.errors import TrtkitError
from trtkit.tensors import Array


def make_backend(entry: BackendEntry) -> TensorRTBackend:
    return TensorRTBackend(entry)


class TensorRTBackend:
    """One library of the family. Its engines are plans: files for one version and one card."""

    suffix = ".plan"
    on_device = True
    computes: Mapping[str, str] = {
        "fp32": "fp32",
        "fp16": "fp16",
        "int8": "int8 where the graph is quantized, fp16 elsewhere",
    }

    def __init__(self, entry: BackendEntry) -> None:
        self.name = entry.name
        self._library: Library = load_library(entry)

    @property
    def int8_form(self) -> str:
        return "symmetric"

    @property
    def version(self) -> str:
        return self._library.version

    def target(self) -> list[str]:
        card = self._card()
        return [card.name, card.capability] if card else ["no card"]

    def cannot_build(self) -> str | None:
        return None if self._library.rtx else device.missing()

    def cannot_run(self) -> str | None:
        blocked = device.missing()
        if blocked is None and self._library.rtx:
            card = device.current_card()
            if card.capability not in RTX_CAPABILITIES:
                return f"{self.name} does not run on {card}, only on {', '.join(RTX_CAPABILITIES)}"
        return blocked

    def build(self, stage: StageBuild, destination: Path, timing: Path) -> BuiltEngine:
        from trtkit.graph.typed import has_pairs, write_precision

        options = stage.options
        if options.dla is not None:
            self._check_dla(stage)
        strong = self._library.api.strongly_typed(dla=options.dla is not None)
        precision = stage.precision
        if stage.part and precision == "int8" and not has_pairs(stage.graph.graph):
            # As everything else of an int8 build that is not quantized.
            precision = "fp16"
        expected = write_precision(
            stage.graph,
            precision,
            stage.name,
            feature_input=not stage.root,
            feature_output=not stage.leaf,
            strong=strong,
            part=stage.part,
        )
        card = self._card()
        request = PlanRequest(
            name=stage.name,
            content=stage.graph.SerializeToString(),
            precision=precision,
            nodes=[(node.name, node.op_type) for node in stage.graph.graph.node],
            expected=expected,
            options=options,
        )
        plan = build_plan(self._library, card, request, timing)
        destination.write_bytes(plan.content)
        record = {
            **describe_origin(self.name, self.version, card, options),
            "build_seconds": round(plan.seconds, 3),
            "network": plan.layers,
            "inspector": None,
        }
        if self.cannot_run() is None:
            engine = self._load(destination, record)
            record["inspector"] = check_layers(
                engine_layers(engine.inspect()),
                precision,
                expected,
                f"the engine of {stage.name}",
            )
        return BuiltEngine(plan.inputs, plan.outputs, record)

    def load(
        self, path: Path, record: Mapping[str, Any], rebuild: str, digest: str | None = None
    ) -> TensorRTEngine:
        # A plan is loaded as it is: there is nothing to keep under its digest.
        check_origin(record, self.name, self.version, device.current_card(), rebuild)
        return self._load(path, record, rebuild)

    def layer_times(
        self, path: Path, record: Mapping[str, Any], inputs: Mapping[str, Array], runs: int
    ) -> list[LayerTime]:
        return layer_times(self.load(path, record, "trtkit build"), inputs, runs)

    def _load(
        self, path: Path, record: Mapping[str, Any], rebuild: str = "trtkit build"
    ) -> TensorRTEngine:
        compatible = bool(record["flags"]["version_compatible"])
        return load_engine(self._library, path, rebuild, version_compatible=compatible)

    def _card(self) -> device.Card | None:
        return None if device.missing() else device.current_card()

    def _check_dla(self, stage: StageBuild) -> None:
        if stage.precision != "fp16":
            raise TrtkitError(f"--dla takes fp16, not {stage.precision}; build with --fp16.")
        if any(len(set(profile)) > 1 for profile in stage.options.profiles):
            raise TrtkitError(
                "--dla takes one batch size, not a range; give one, such as --batch 8."
            )
