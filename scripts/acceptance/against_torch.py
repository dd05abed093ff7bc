"""The chain against plain torch on the same card, in turns: torch, ours, torch, ours."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from acceptance.context import Context, LeftOut, last_line
from acceptance.device import EngineLine
from acceptance.settings import ROOT, Bundle
from acceptance.timing import Timing, repeats_for
from trtkit.errors import TrtkitError

BASELINE = ROOT / "scripts" / "acceptance" / "torch_baseline.py"
NO_GPU = 3
BASELINE_SECONDS = 600.0
BASELINE_MODE = "eager fp32"

Samples = dict[tuple[str, str, int], list[float]]


@dataclass(frozen=True)
class TorchRow:
    """One model, batch size and mode of torch. `times_faster`: torch's median by ours; no unit.

    None where torch could not run it, and then `error` says why.
    """

    model: str
    batch: int
    mode: str
    torch: Timing | None
    ours: Timing
    times_faster: float | None
    error: str | None = None


@dataclass(frozen=True)
class AgainstTorch:
    """`versions` of torch, torchvision, its CUDA and cuDNN; `turns`: how often each side ran."""

    bundle: str
    precision: str
    versions: dict[str, Any]
    turns: int
    rows: list[TorchRow]


def against_torch(context: Context, bundle: Bundle, precision: str) -> AgainstTorch:
    """Device time of the bundle's models: as chain with CUDA graphs, and in torch."""
    python = context.python_with_torch
    if python is None:
        given = context.settings.torch_python
        raise LeftOut(f"{given or 'this Python'} has no torch and torchvision; give --torch-python")
    theirs: Samples = defaultdict(list)
    ours: Samples = defaultdict(list)
    errors: dict[tuple[str, str, int], str] = {}
    versions: dict[str, Any] = {}
    turns = context.settings.set.scale.torch_rounds
    for _ in range(turns):
        found = _torch(context, python, bundle)
        versions = {name: value for name, value in found.items() if name != "rows"}
        for row in found["rows"]:
            key = row["model"], row["mode"], row["batch"]
            if "error" in row:
                errors[key] = row["error"]
            else:
                theirs[key] += row["seconds"]
        for model in bundle.models:
            _ours(context, bundle, precision, model, ours)
    keys = [*theirs, *(key for key in errors if key not in theirs)]
    rows = [_row(key, theirs.get(key), ours[key[0], "", key[2]], errors.get(key)) for key in keys]
    return AgainstTorch(bundle.name, precision, versions, turns, rows)


def _row(
    key: tuple[str, str, int], theirs: list[float] | None, ours: list[float], error: str | None
) -> TorchRow:
    model, mode, batch = key
    mine = Timing.of(ours)
    if not theirs:
        return TorchRow(model, batch, mode, None, mine, None, error)
    timing = Timing.of(theirs)
    return TorchRow(model, batch, mode, timing, mine, timing.median_seconds / mine.median_seconds)


def _ours(context: Context, bundle: Bundle, precision: str, model: str, samples: Samples) -> None:
    scale = context.settings.set.scale
    manifest = context.manifest(bundle, precision)
    engines = context.engines(bundle, precision, model)
    images = context.images(manifest.preprocessing, max(context.settings.batches))
    line = EngineLine(engines, images, graphs=True)
    for batch in context.settings.batches:
        line.warm_up(batch)
        once = line.device_seconds(batch, 1)
        repeats = repeats_for(once, scale.sample_seconds, scale.most_repeats)
        taken = [line.device_seconds(batch, repeats) for _ in range(_rounds(context))]
        samples[model, "", batch] += taken
    line.close()


def _torch(context: Context, python: str, bundle: Bundle) -> dict[str, Any]:
    settings = context.settings
    command = [python, str(BASELINE), "--models", *bundle.models]
    command += ["--batches", *map(str, settings.batches)]
    command += ["--image-size", str(settings.set.image_size), "--rounds", str(_rounds(context))]
    command += ["--sample-seconds", str(settings.set.scale.sample_seconds)]
    command += ["--compile"] if settings.torch_compile else []
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BASELINE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TrtkitError(f"torch could not be measured ({error}).") from error
    if done.returncode == NO_GPU:
        raise LeftOut(last_line(done.stderr))
    try:
        found: dict[str, Any] = json.loads(last_line(done.stdout))
    except ValueError:
        found = {}
    if done.returncode != 0 or "rows" not in found:
        raise TrtkitError(f"torch could not be measured: {last_line(done.stderr)}")
    return found


def _rounds(context: Context) -> int:
    """Samples in one turn."""
    return max(2, context.settings.set.scale.rounds // 3)
