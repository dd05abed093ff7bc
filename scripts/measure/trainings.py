"""What the measurements of transfer learning share: the digits as photos, and trainings of them.

Everything is made once in a workspace: a measurement that is run again goes on where it ended.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import progress
from subjects import trtkit

from trtkit.workspace import BEST, Workspace

DIGITS_SCRIPT = Path(__file__).resolve().parents[1] / "digits.py"
DATA = "scikit-learn's 1,797 handwritten digits, rendered as photos of 96 x 96"
PHOTO_SIZE = 96


def digits(root: Path, classes: str = "0-9", count: int | None = None) -> Path:
    """A folder of class folders with these digits, at most `count` photos in each."""
    folder = root / f"digits-{classes}{f'-{count}' if count else ''}"
    if not folder.is_dir():
        progress(f"Rendering the digits {classes}")
        part = folder.with_name(f".{folder.name}")
        command = [sys.executable, str(DIGITS_SCRIPT), str(part), "--classes", classes]
        command += ["--size", str(PHOTO_SIZE), *(["--count", str(count)] if count else [])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        part.rename(folder)
    return folder


def trained(root: Path, data: Path, name: str, *options: object) -> dict[str, Any]:
    """The metrics of the training of that name; it is begun, gone on with, or there already."""
    place = Workspace(root)
    begun = (place.checkpoints / name / "run.json").is_file()
    progress(f"Training {name}")
    given = ("--resume",) if begun else options
    text = trtkit(
        "train", data, "--name", name, *given, "--json", "--workspace", root,
        "--cache-dir", root / "features",
    )  # fmt: skip
    metrics: dict[str, Any] = json.loads(text)
    return metrics


def checkpoint(root: Path, name: str, *, last: bool = False) -> Path:
    """The best checkpoint of a training, or the last one, which no validation photo chose."""
    return Workspace(root).checkpoints / name / ("last.safetensors" if last else BEST)


def exported(root: Path, file: Path, name: str, image_size: int | None = None) -> str:
    """The export of a checkpoint under that name."""
    if not Workspace(root).export_path(name).is_file():
        progress(f"Exporting {name}")
        size = () if image_size is None else ("--image-size", image_size)
        trtkit("export", file, "--name", name, "--workspace", root, *size)
    return name


def built(root: Path, names: Sequence[str], cut: int, precision: str, bundle: str) -> Path:
    """The folder of the bundle of these exports."""
    progress(f"Building {bundle}")
    trtkit(
        "build", *names, "--cut", cut, f"--{precision}", "--bundle", bundle, "--workspace", root
    )  # fmt: skip
    return Workspace(root).engines / bundle


def evaluated(root: Path, data: Path, seed: int, *subjects: object) -> list[dict[str, Any]]:
    """What `trtkit evaluate` says of the validation photos of the split of that seed."""
    text = trtkit(
        "evaluate", data, "--part", "val", "--split-seed", seed, *subjects, "--json", "--workspace", root
    )  # fmt: skip
    reports: list[dict[str, Any]] = json.loads(text)
    return reports


def with_spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean, and smallest and largest of several runs."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"
