"""NVIDIA's own way to measure a model: trtexec builds an engine of it, runs it and tells its times."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.benchmark.baselines import source_graphs
from trtkit.benchmark.network import merged
from trtkit.bundle import Manifest, Stage
from trtkit.errors import TrtkitError, os_reason

if TYPE_CHECKING:
    import onnx

PROGRAM = "trtexec"
PRECISIONS = {"fp32": (), "fp16": ("--fp16",), "int8": ("--int8", "--fp16")}
# Of one round: as many milliseconds of warming up, seconds of measuring, and at least so many runs.
WARM_UP, DURATION, RUNS = 200, 1, 10
_MEDIAN = re.compile(r"GPU Compute Time:.*?\bmedian = ([0-9.]+(?:e[+-]?\d+)?) ms")


class Trtexec:
    """The unsplit model at one batch size, on random numbers. A round is a run of trtexec.

    The engine is built for that batch size alone, once: `kept` is a folder where it stays for whoever
    asks next. Raises TrtkitError when trtexec is missing or fails.
    """

    note = "on random numbers, so that its classes cannot be checked"

    def __init__(
        self, folder: Path, manifest: Manifest, tail: Stage, *, photos: int, batch: int, kept: Path
    ) -> None:
        from trtkit.graph.files import write_model

        self.images = photos
        self._batch = batch
        name = f"{tail.name}-{manifest.build_id[:16]}-trtexec"
        model, self._plan = kept / f"{name}.onnx", kept / f"{name}-{batch}.plan"
        whole = merged(source_graphs(folder, manifest, tail.name))
        self._shapes = f"--shapes={shape_of(whole, batch)}"
        if not self._plan.is_file():
            write_model(whole, model)
            self._build(model, precision_flags(manifest))

    def before(self) -> None:
        return None

    def run(self) -> float:
        """The median device time of a batch, times as many batches as the photos fill."""
        said = call_trtexec(
            [
                f"--loadEngine={self._plan}",
                self._shapes,
                f"--warmUp={WARM_UP}",
                f"--duration={DURATION}",
                f"--iterations={RUNS}",
                "--useCudaGraph",
                "--noDataTransfers",
            ]
        )
        return batch_seconds(said) * self.images / self._batch

    def labels(self) -> list[int]:
        return []

    def close(self) -> None:
        return None

    def _build(self, model: Path, precision: Sequence[str]) -> None:
        raw = self._plan.with_name(f".{os.getpid()}-{self._plan.name}")
        call_trtexec(
            [
                f"--onnx={model}",
                f"--saveEngine={raw}",
                self._shapes,
                *precision,
                "--warmUp=0",
                "--duration=0",
                "--iterations=1",
            ]
        )
        if not raw.is_file():
            raise TrtkitError(
                f"{PROGRAM} said that all went well, but wrote no engine; run `{PROGRAM} --help` to see "
                "that it is NVIDIA's."
            )
        raw.replace(self._plan)


def precision_flags(manifest: Manifest) -> tuple[str, ...]:
    """trtexec's options for the precision of a bundle; fp32 is fp32 there only without TF32."""
    flags = PRECISIONS[manifest.precision]
    return flags if manifest.options.get("tf32") else (*flags, "--noTF32")


def shape_of(model: onnx.ModelProto, batch: int) -> str:
    """The image input at that batch size in trtexec's words, such as `image:8x224x224x3`."""
    from trtkit.graph.values import image_input

    entry = image_input(model)
    sizes = [dimension.dim_value for dimension in entry.type.tensor_type.shape.dim]
    return f"{entry.name}:{'x'.join(map(str, (batch, *sizes[1:])))}"


def call_trtexec(options: Sequence[str]) -> str:
    """What trtexec said. Raises TrtkitError with the last error that it names when it failed."""
    try:
        done = subprocess.run(
            [PROGRAM, *options], capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise TrtkitError(
            f"{PROGRAM} was asked for, but cannot be started ({os_reason(error)}); put TensorRT's bin "
            "folder on the PATH."
        ) from error
    said = done.stdout + done.stderr
    if done.returncode != 0:
        raise TrtkitError(
            f"{PROGRAM} failed ({_complaint(said) or f'status {done.returncode}'}); run "
            f"`{PROGRAM} {' '.join(options)}` to see all of what it says, or measure without it."
        )
    return said


def batch_seconds(said: str) -> float:
    """The median device time of one run, by what trtexec said. Raises TrtkitError without one."""
    found = _MEDIAN.search(said)
    if found is None:
        raise TrtkitError(
            f"{PROGRAM} told no GPU Compute Time; this trtkit reads that of TensorRT 8.5 and later."
        )
    return float(found.group(1)) / 1000.0


def _complaint(said: str) -> str:
    """The first line that trtexec marks as an error, without its stamp."""
    for line in said.splitlines():
        _, mark, text = line.partition("[E] ")
        if mark and text.strip():
            return text.strip().rstrip(".")
    return ""
