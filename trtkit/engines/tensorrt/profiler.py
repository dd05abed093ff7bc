"""The time of each layer of a plan, by TensorRT's own profiler.

TensorRT records CUDA events around every layer of a run, so the times are the device's, gaps where it
waits for the host to launch a layer included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trtkit.engines.base import LayerTime
from trtkit.engines.tensorrt.engine import TensorRTEngine
from trtkit.engines.tensorrt.layers import UNKNOWN, LayerSource, layer_sources
from trtkit.engines.tensorrt.versions import Api
from trtkit.errors import TrtkitError

MILLISECONDS = 1e3

LayerReport = list[tuple[str, float]]


def layer_times(engine: TensorRTEngine, inputs: Mapping[str, Any], runs: int) -> list[LayerTime]:
    """Every layer of `runs` runs on the same inputs, after one that is not counted, without CUDA graphs.

    Raises TrtkitError when the engine does not take the inputs, and when TensorRT cannot run it or does
    not report times.
    """
    placed = engine.place(inputs)
    profiler = make_profiler(engine.api)
    placed.binding.attach(profiler)
    reports = []
    for _ in range(runs + 1):
        placed.binding.enqueue()
        # So that a run which fails on the device is CUDA's error, not a profiler that says nothing.
        placed.stream.synchronize()
        reported = placed.binding.report()
        report = profiler.take()
        if not (reported and report):
            raise TrtkitError(
                f"TensorRT ran {engine.name}, but did not report the times of its layers "
                f"({engine.complaint()}); build it again with `trtkit build`."
            )
        reports.append(report)
    sources = layer_sources(engine.inspect(placed.binding.context))
    return _combined(reports[1:], sources, engine.name)


def make_profiler(api: Api) -> Any:
    """An IProfiler that keeps the layer times of a run until `take` is called."""

    class Profiler(api.trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self._report: LayerReport = []
            self._failure: BaseException | None = None

        def report_layer_time(self, name: str, milliseconds: float) -> None:
            try:
                self._report.append((name, float(milliseconds)))
            except BaseException as failure:  # noqa: BLE001
                # TensorRT would print it and go on, Ctrl-C included, or end the process; `take` raises it.
                self._failure = failure

        def take(self) -> LayerReport:
            """Names and milliseconds of the layers of the last run, in order; forgets them."""
            report, self._report = self._report, []
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            return report

    return Profiler()


def _combined(
    reports: Sequence[LayerReport], sources: Mapping[str, LayerSource], engine: str
) -> list[LayerTime]:
    """One entry per layer; by position, as two layers may have one name."""
    orders = {tuple(name for name, _ in report) for report in reports}
    if len(orders) > 1:
        raise TrtkitError(
            f"TensorRT's profiler named different layers of {engine} in different runs; measure again, "
            "and build it again with `trtkit build` if that comes back."
        )
    return [
        LayerTime(
            name=_full_name(name, sources.get(name)),
            kind=sources[name].kind if name in sources else UNKNOWN,
            seconds=tuple(report[place][1] / MILLISECONDS for report in reports),
        )
        for place, name in enumerate(next(iter(orders), ()))
    ]


def _full_name(name: str, source: LayerSource | None) -> str:
    """The layer's name, followed by its ONNX nodes in brackets if it names none of them.

    Kernels of TensorRT's graph compiler have names such as `__myl_AddMul_myl0_3`; only the inspector
    lists their nodes.
    """
    nodes = source.nodes if source else ()
    if not nodes or any(node in name for node in nodes):
        return name
    return f"{name} [{' + '.join(nodes)}]"
