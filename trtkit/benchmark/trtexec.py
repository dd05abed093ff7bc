"""NVIDIA's own program to measure a model: trtexec builds an engine, runs it and prints its times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from trtkit.atomic import whole_file
from trtkit.benchmark.network import merged, source_graphs
from trtkit.benchmark.spec import Spec
from trtkit.benchmark.worker import Loaded
from trtkit.bundle import Manifest
from trtkit.errors import TrtkitError
from trtkit.subprocesses import CommandFailed, run_command

PROGRAM = "trtexec"
PRECISIONS = {"fp32": (), "fp16": ("--fp16",), "int8": ("--int8", "--fp16")}
# Of one round: as many milliseconds of warming up, seconds of measuring, and at least so many runs.
WARM_UP, DURATION, RUNS = 200, 1, 10
_THROUGHPUT = re.compile(r"Throughput:\s*([0-9.]+)\s*qps")
_MEDIAN = re.compile(r"GPU Compute Time:.*?\bmedian = ([0-9.]+(?:e[+-]?\d+)?) ms")


class Trtexec(Loaded):
    """The unsplit model at one batch size, on random numbers. A round is a run of trtexec.

    The engine is built for that batch size alone, once: it stays in the folder `built_dir` of the spec
    for the next contests. Raises TrtkitError when trtexec is missing or fails.
    """

    note = "on random numbers, so that its classes cannot be checked"

    def __init__(self, spec: Spec, manifest: Manifest) -> None:
        from trtkit.graph.files import write_model
        from trtkit.graph.values import image_input

        self.images = len(spec.photos)
        self._batch = spec.batch
        tail, built = manifest.tail(spec.tail).name, Path(spec.built_dir)
        name = f"{tail}-{manifest.build_id[:16]}-trtexec"
        model, self._plan = built / f"{name}.onnx", built / f"{name}-{spec.batch}.plan"
        whole = merged(source_graphs(Path(spec.bundle), manifest, tail))
        entry = image_input(whole)
        shape = [dimension.dim_value for dimension in entry.type.tensor_type.shape.dim]
        self._shapes = shapes_option(entry.name, shape, spec.batch)
        if not self._plan.is_file():
            write_model(whole, model)
            self._build(model, precision_flags(manifest))

    def run(self) -> float:
        """The median device time of a batch, times as many batches as the photos fill."""
        output = run_plan(self._plan, self._shapes, warm_up=WARM_UP, seconds=DURATION, runs=RUNS)
        return batch_seconds(output) * self.images / self._batch

    def _build(self, model: Path, precision: Sequence[str]) -> None:
        once = ("--warmUp=0", "--duration=0", "--iterations=1")
        with whole_file(self._plan) as raw:
            options = [f"--onnx={model}", f"--saveEngine={raw}", self._shapes, *precision, *once]
            call_trtexec(options)
            if not raw.is_file():
                raise TrtkitError(
                    f"{PROGRAM} succeeded but wrote no engine; check with `{PROGRAM} --help` that it "
                    "is NVIDIA's."
                )


def precision_flags(manifest: Manifest) -> tuple[str, ...]:
    """trtexec's options for the precision of a bundle; fp32 is fp32 there only without TF32."""
    flags = PRECISIONS[manifest.precision]
    return flags if manifest.options.get("tf32") else (*flags, "--noTF32")


def shapes_option(name: str, shape: Sequence[int | None], batch: int) -> str:
    """The image input `name` at that batch size in trtexec's words: `--shapes=image:8x224x224x3`."""
    return f"--shapes={name}:{'x'.join(map(str, (batch, *shape[1:])))}"


def run_plan(
    plan: Path,
    shapes: str,
    *options: str,
    warm_up: int,
    seconds: int,
    runs: int = RUNS,
    program: str = PROGRAM,
    timeout: float | None = None,
) -> str:
    """What trtexec prints after running a plan on random numbers, copies to and from the GPU left out.

    `warm_up`: milliseconds; `seconds`: how long it measures, and at least `runs` runs. `timeout`: seconds
    until it is killed. Raises TrtkitError.
    """
    return call_trtexec(
        [
            f"--loadEngine={plan}",
            shapes,
            f"--warmUp={warm_up}",
            f"--duration={seconds}",
            f"--iterations={runs}",
            "--useCudaGraph",
            "--noDataTransfers",
            *options,
        ],
        program=program,
        timeout=timeout,
    )


def call_trtexec(
    options: Sequence[str], *, program: str = PROGRAM, timeout: float | None = None
) -> str:
    """What trtexec prints. Raises TrtkitError with the first error that it names when it fails."""
    try:
        return run_command([program, *options], timeout=timeout)
    except CommandFailed as error:
        raise TrtkitError(
            f"{program} failed ({_complaint(error.output) or error.reason}); run "
            f"`{program} {' '.join(options)}` to see all of its output, or measure without it."
        ) from error


def batch_seconds(output: str) -> float:
    """The median device time of one run in trtexec's output. Raises TrtkitError without one."""
    return _figure(_MEDIAN, output, "GPU Compute Time") / 1000.0


def batches_per_second(output: str) -> float:
    """The throughput in trtexec's output. Raises TrtkitError without one."""
    return _figure(_THROUGHPUT, output, "Throughput")


def _figure(pattern: re.Pattern[str], output: str, name: str) -> float:
    match = pattern.search(output)
    if match is None:
        raise TrtkitError(
            f"{PROGRAM} printed no {name}; this trtkit reads the output of TensorRT 8.5 and later."
        )
    return float(match.group(1))


def _complaint(output: str) -> str:
    """The first line that trtexec marks as an error, without its stamp."""
    for line in output.splitlines():
        _, mark, text = line.partition("[E] ")
        if mark and text.strip():
            return text.strip().rstrip(".")
    return ""
