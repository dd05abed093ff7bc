"""What video search is measured with: rendered footage, a trained pair of models, stores."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import progress
from subjects import trtkit
from trainings import checkpoint, exported, trained

from trtkit.workspace import Workspace

FOOTAGE_SCRIPT = Path(__file__).resolve().parents[1] / "footage.py"
CHEAP, EXPENSIVE, BUNDLE = "cheap", "expensive", "pair"
CLASSES = tuple("0123456789")


def footage(options: argparse.Namespace, root: Path, name: str, *given: object) -> Path:
    """The folder with what footage.py renders; made once."""
    folder = root / name
    if not folder.is_dir():
        progress(f"Rendering {name}")
        part = folder.with_name(f".{name}")
        shutil.rmtree(part, ignore_errors=True)
        command = [sys.executable, str(FOOTAGE_SCRIPT), str(part), *map(str, given)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        part.rename(folder)
    return folder


def bundle(options: argparse.Namespace, root: Path) -> Path:
    """The cheap and the expensive model on one prefix."""
    crops = footage(options, root, "training", "--crops", options.crops) / "crops"
    common = ("--image-size", options.image_size, "--weights", "random", "--optimizer", "adamw")
    trained(
        root, crops, CHEAP, "--arch", options.cheap, *common, "--epochs", options.epochs, "--lr", 1e-3,
        "--augmentation", "light", "--no-flip",
    )  # fmt: skip
    trained(
        root, crops, EXPENSIVE, "--arch", options.expensive, *common, "--prefix-from", CHEAP, "--cut",
        options.cut, "--epochs", options.epochs, "--lr", 1e-3, "--augmentation", "light", "--no-flip",
        "--augment", 2,
    )  # fmt: skip
    names = [exported(root, checkpoint(root, name), name) for name in (CHEAP, EXPENSIVE)]
    progress(f"Building {BUNDLE}")
    trtkit(
        "build", *names, "--cut", options.cut, f"--{options.precision}", "--embeddings", "--bundle", BUNDLE,
        "--workspace", root,
    )  # fmt: skip
    return Workspace(root).engines / BUNDLE


def clip(options: argparse.Namespace, root: Path) -> Path:
    name = f"clip-{options.size}-{options.seconds:g}"
    given = ("--seconds", options.seconds, "--size", options.size, "--density", options.density)
    return footage(options, root, name, *given) / "camera-0.mp4"


def ingested(root: Path, video: Path, store: Path, *given: object) -> dict[str, Any]:
    """What `trtkit ingest` says of the clip."""
    text = trtkit(
        "ingest", video, "--store", store, "--bundle", BUNDLE, "--workspace", root, "--json", *given
    )  # fmt: skip
    report: dict[str, Any] = json.loads(text)["sources"][0]
    return report
