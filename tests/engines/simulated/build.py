"""The simulated builder: checks what the real one checks, and packs the model into a plan."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx

from tests.engines.simulated.api import Library
from tests.engines.simulated.errors import SimulationError
from tests.engines.simulated.plan import HEAVY, layers, pack

DELIVER = {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8"}
PHASES = (("Preparing graph for optimization", 2), ("Timing graph nodes", 4))


class BuildFailure(Exception):
    """Why a build returns None."""


class Builder:
    _lib: Library

    def __init__(self, logger: Any) -> None:
        self._lib.use_logger(logger)
        if not self._lib.rtx and self._lib.cuda.failure is not None:
            self._lib.error(
                "createInferBuilder: Error Code 6: API Usage Error (CUDA initialization failure)"
            )
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    logger = property(lambda self: self._logger)
    num_DLA_cores = property(lambda self: self._lib.dla_cores)
    platform_has_fast_fp16 = property(lambda self: self._lib.cuda.compute_capability != (6, 1))
    platform_has_fast_int8 = property(lambda self: True)
    platform_has_tf32 = property(lambda self: self._lib.cuda.compute_capability >= (8, 0))

    def create_network(self, flags: int = 0) -> Any:
        if not isinstance(flags, int):
            raise TypeError("create_network(): incompatible function arguments")
        return self._lib.make("INetworkDefinition", flags)

    def create_builder_config(self) -> Any:
        return self._lib.make("IBuilderConfig")

    def create_optimization_profile(self) -> Any:
        return self._lib.make("IOptimizationProfile")

    def is_network_supported(self, network: Any, config: Any) -> bool:
        return network._model is not None

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        lib = self._lib
        lib.check(network, "INetworkDefinition")
        lib.check(config, "IBuilderConfig")
        with lib.cuda.locked():
            lib.cuda.refuse_in_capture()
        monitor = config._settings["progress_monitor"]
        try:
            profiles = _checked_profiles(network, config)
            _check_target(lib, config)
            report = _timed(lib, network, config)
            _progress(monitor)
            _fail_on_request(lib, network)
        except BuildFailure as failure:
            lib.error(str(failure))
            return None
        header = _header(lib, network, config, profiles)
        lib.builds.append({**header, **report})
        return lib.module.IHostMemory(pack(header, network._model.SerializeToString()))


def _checked_profiles(network: Any, config: Any) -> list[dict[str, Any]]:
    usage = "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error "
    if network._model is None or not network._outputs:
        raise BuildFailure(usage + "(Network must have at least one output.)")
    dynamic = [tensor for tensor in network._inputs if -1 in tensor._shape]
    if dynamic and not config._profiles:
        raise BuildFailure(
            usage
            + "(Network has dynamic or shape inputs, but no optimization profile has been defined.)"
        )
    shapes = {tensor._name: tensor._shape for tensor in network._inputs}
    for index, profile in enumerate(config._profiles):
        if unknown := profile._shapes.keys() - shapes.keys():
            raise BuildFailure(
                usage + f"(profile {index} names {sorted(unknown)}, which are no inputs)"
            )
        for tensor in network._inputs:
            given = profile._shapes.get(tensor._name)
            if given is None and tensor in dynamic:
                raise BuildFailure(
                    usage + f"({tensor._name}: profile {index} has no dimensions for it)"
                )
            if given is not None and not _fit(tensor._shape, given):
                raise BuildFailure(
                    usage + f"({tensor._name}: profile {index} {given} does not fit)"
                )
    found = [dict(profile._shapes) for profile in config._profiles] or [{}]
    for profile in found:
        for name, shape in shapes.items():
            profile.setdefault(name, (shape,) * 3)
    return found


def _fit(shape: tuple[int, ...], given: tuple[tuple[int, ...], ...]) -> bool:
    if any(len(size) != len(shape) for size in given):
        return False
    columns = zip(shape, *given, strict=True)
    return all(0 < a <= b <= c and (n == -1 or n == a == c) for n, a, b, c in columns)


def _check_target(lib: Library, config: Any) -> None:
    settings = config._settings
    if settings["default_device_type"].name == "DLA":
        if lib.dla_cores == 0:
            raise BuildFailure(
                "Error Code 4: API Usage Error (DLA was asked for, but there is none.)"
            )
        if "GPU_FALLBACK" not in config._flags and lib.fail_build == "dla":
            raise BuildFailure(
                "Error Code 4: Internal Error (a layer cannot run on DLA and GPU fallback is off)"
            )
    if not 0 <= settings["builder_optimization_level"] <= 5:
        raise SimulationError("builder_optimization_level is outside 0 to 5")
    if "CURRENT" in config._capabilities and lib.cuda.failure is not None:
        raise BuildFailure("Error Code 1: Cuda Runtime (no CUDA-capable device is detected)")
    if "NONE" in config._capabilities:
        raise BuildFailure(
            "Error Code 4: API Usage Error (a compute capability was announced but not set)"
        )


def _progress(monitor: Any) -> None:
    if monitor is None:
        return
    root = "Building engine"
    monitor.phase_start(root, None, len(PHASES))
    cancelled = False
    for step, (phase, count) in enumerate(PHASES):
        monitor.phase_start(phase, root, count)
        for inner in range(count):
            cancelled = cancelled or not monitor.step_complete(phase, inner)
            if cancelled:
                break
        monitor.phase_finish(phase)
        cancelled = cancelled or not monitor.step_complete(root, step)
        if cancelled:
            break
    monitor.phase_finish(root)
    if cancelled:
        raise BuildFailure("Error Code 0: the build was cancelled by the progress monitor")


def _timed(lib: Library, network: Any, config: Any) -> dict[str, int]:
    """Look layers up in the timing cache and add what it lacks: how many were found and timed."""
    used = config._cache is not None and "DISABLE_TIMING_CACHE" not in config._flags
    entries = config._cache._entries if used else {}
    counts = Counter()
    for node in network._model.graph.node:
        if node.op_type in HEAVY:
            key = (
                f"{node.op_type} {network._tensors[node.output[0]]._shape} {sorted(config._flags)}"
            )
            counts["found" if key in entries else "timed"] += 1
            entries.setdefault(key, 0.01)
    return {"found": counts["found"], "timed": counts["timed"]}


def _fail_on_request(lib: Library, network: Any) -> None:
    if lib.fail_build and lib.fail_build != "dla":
        heavy = [n.name for n in network._model.graph.node if n.op_type in HEAVY]
        if lib.fail_build == "memory":
            lib.error("Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)")
        raise BuildFailure(
            "Error Code 10: Internal Error (Could not find any implementation for node "
            f"{(heavy or ['?'])[0]}.)"
        )


def _compute(lib: Library, network: Any, config: Any) -> dict[str, str]:
    """In what type each heavy node, by its first output, computes."""
    graph: onnx.GraphProto = network._model.graph
    producers = {name: node for node in graph.node for name in node.output}
    precisions = {layer._node.output[0]: layer._precision for layer in network._layers}
    obeyed = {"OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"} & config._flags
    strong = network._strongly_typed()
    result = {}
    for node in graph.node:
        if node.op_type not in HEAVY:
            continue
        source = producers.get(node.input[0])
        quantized = source is not None and source.op_type == "DequantizeLinear"
        declared = network._tensors[node.input[0]]._dtype
        if lib.deliver is not None:
            kind = DELIVER[lib.deliver]
        elif quantized and (strong or "INT8" in config._flags):
            kind = "INT8"
        elif strong:
            kind = declared
        elif obeyed and precisions[node.output[0]] is not None:
            kind = precisions[node.output[0]]
        else:
            kind = "HALF" if "FP16" in config._flags else "FLOAT"
        result[node.output[0]] = kind
    return result


def _types(lib: Library, network: Any, config: Any) -> dict[str, str]:
    """The type of every tensor in the engine."""
    types = {name: tensor._dtype for name, tensor in network._tensors.items()}
    float_only = lib.deliver == "fp32"
    if network._strongly_typed() and not float_only:
        return types
    half = "FP16" in config._flags and not float_only
    ends = {tensor._name for tensor in (*network._inputs, *network._outputs)}
    for name, kind in types.items():
        if name not in ends and kind in ("FLOAT", "HALF"):
            types[name] = "HALF" if half else "FLOAT"
        if kind == "INT8" and name not in ends and ("INT8" not in config._flags or float_only):
            types[name] = "FLOAT"
    return types


def _header(
    lib: Library, network: Any, config: Any, profiles: list[dict[str, Any]]
) -> dict[str, Any]:
    compute = _compute(lib, network, config)
    found = layers(network._model.graph, _types(lib, network, config), compute)
    cuda, settings = lib.cuda, config._settings
    level = settings["hardware_compatibility_level"]
    ends = (("INPUT", network._inputs), ("OUTPUT", network._outputs))
    return {
        "library": lib.name,
        "version": lib.version,
        "device": None if cuda.failure else cuda.device_name,
        "compute_capability": list(cuda.compute_capability),
        "compute_capabilities": config._capabilities,
        "hardware": level.name if level is not None else "NONE",
        "flags": sorted(config._flags),
        "previews": sorted(config._previews),
        "strongly_typed": network._strongly_typed(),
        "optimization_level": settings["builder_optimization_level"],
        "verbosity": settings["profiling_verbosity"].name,
        "device_type": settings["default_device_type"].name,
        "dla_core": settings["DLA_core"],
        "name": network._name,
        "profiles": profiles,
        "precision": dict(Counter(compute.values())),
        "layers": found,
        "io": [
            {"name": t._name, "mode": mode, "dtype": t._dtype, "shape": t._shape}
            for mode, tensors in ends
            for t in tensors
        ],
        "shapes": {name: t._shape for name, t in network._tensors.items()},
    }
