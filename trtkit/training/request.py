"""What a training is asked to do, checked before torch, which takes seconds, is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtkit.errors import TrtkitError, listed
from trtkit.evaluation.folders import class_folders
from trtkit.models.names import check_architecture
from trtkit.reporting import message
from trtkit.training.options import TrainOptions
from trtkit.training.run import Run, check_free
from trtkit.workspace import Workspace

# Weights that are no file.
NAMED_WEIGHTS = ("imagenet", "random")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainRequest:
    """A training that can be begun, or resumed where `run` is the one to resume."""

    place: Workspace
    data: Path
    name: str
    options: TrainOptions
    run: Run | None = None


def check_request(
    place: Workspace,
    data: Path,
    name: str | None,
    options: Mapping[str, Any],
    *,
    resume: bool,
    device: str = "auto",
) -> TrainRequest:
    """The request, after listing the classes and the options that change nothing.

    Reads the names of the class folders, but no photo. Raises TrtkitError for anything that can be
    known to fail without torch.
    """
    if device not in DEVICES:
        raise TrtkitError(f"--device {device} is unknown; available: {listed(DEVICES)}.")
    if resume:
        request = _resumed(place, data, name, options)
    else:
        chosen = TrainOptions.of(options)
        check_architecture(chosen.arch)
        check_free(place, name or chosen.arch)
        request = TrainRequest(place, data, name or chosen.arch, chosen)
    chosen = request.options
    files = [chosen.prefix_from, None if chosen.weights in NAMED_WEIGHTS else chosen.weights]
    if request.run is None:
        for file in filter(None, files):
            place.find_checkpoint(file)
    _, classes = class_folders(data)
    message(f"{len(classes)} classes: {listed(classes, 20)}.")
    for sentence in chosen.without_effect(options).values():
        message(f"Warning: {sentence}")
    return request


def _resumed(
    place: Workspace, data: Path, name: str | None, options: Mapping[str, Any]
) -> TrainRequest:
    name = name or options.get("arch")
    if name is None:
        raise TrtkitError(
            "--resume needs the name of a training; give --name, or --arch where that is its name."
        )
    run = Run.open(place, name)
    run.options.check_same(options)
    return TrainRequest(place, data, run.name, run.options, run)
