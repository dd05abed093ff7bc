"""The TensorRT backend: stages become plans, which run on the GPU they were built on.

The manifest records where a plan was built; by that it is known whether it can be loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtkit.engines.base import BuiltEngine, LayerTime, StageBuild
from trtkit.engines.cuda import device
from trtkit.engines.options import BuildOptions
from trtkit.engines.registry import BackendEntry
from trtkit.engines.tensorrt.builder import PlanRequest, build_plan
from trtkit.engines.tensorrt.engine import TensorRTEngine, load_engine
from trtkit.engines.tensorrt.layers import check_layers, engine_layers
from trtkit.engines.tensorrt.library import Library, load_library
from trtkit.engines.tensorrt.profiler import layer_times
from trtkit.errors import TrtkitError
from trtkit.serialization import to_plain
from trtkit.tensors import Array

AMPERE = (8, 0)
# What a plan of TensorRT for RTX runs on, whatever it was built on, unless it is built for one card:
# https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/ (Turing, 7.5, has to be asked for).
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
# Which major versions run version compatible plans of which older ones:
# https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/version-compatibility.html
RUNS_PLANS_OF = {8: {8}, 10: {8, 10}, 11: {10, 11}}


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
        from trtkit.graph.precision import has_pairs, write_precision

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


def describe_origin(
    library: str, version: str, card: device.Card | None, options: BuildOptions
) -> dict[str, Any]:
    """What the manifest records of where a plan was built."""
    return {
        "library": library,
        "version": version,
        "gpu": card.name if card else None,
        "compute_capability": card.capability if card else None,
        "flags": to_plain(options),
    }


def check_origin(
    record: Mapping[str, Any], library: str, version: str, card: device.Card, rebuild: str
) -> None:
    """Raise TrtkitError, saying what it was built with and what is here, when it cannot be loaded.

    TensorRT itself says so in its log, or warns and goes on with a plan of another card.
    """
    flags = record["flags"]
    differences = []
    if (record["library"], record["version"]) != (library, version) and not (
        record["library"] == library
        and flags["version_compatible"]
        and _later(version, record["version"])
    ):
        differences.append((f"{record['library']} {record['version']}", f"{library} {version}"))
    if not _fits(record, card):
        built_on = f"{record['gpu']} (compute capability {record['compute_capability']})"
        if record["gpu"] is None:
            built_on = f"the compute capabilities {', '.join(RTX_CAPABILITIES)}"
        differences.append((built_on, str(card)))
    if differences:
        built, here = (" on ".join(side) for side in zip(*differences, strict=True))
        raise TrtkitError(
            f"The engine was built with {built}, here is {here}; run `{rebuild}` to build it for "
            "this machine."
        )


def _fits(record: Mapping[str, Any], card: device.Card) -> bool:
    if record["library"] == "tensorrt-rtx":
        return card.capability in RTX_CAPABILITIES
    if record["flags"]["hardware_compatible"]:
        return card.compute_capability >= AMPERE
    return (record["gpu"], record["compute_capability"]) == (card.name, card.capability)


def _later(version: str, built_with: str) -> bool:
    """Whether a version compatible plan of `built_with` runs on `version`."""
    here, there = _numbers(version), _numbers(built_with)
    return here >= there and there[0] in RUNS_PLANS_OF.get(here[0], {here[0]})


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
