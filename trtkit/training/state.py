"""The state of a training on disk: weights, optimizer and progress in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from trtkit.errors import TrtkitError
from trtkit.models.checkpoint import read_checkpoint, write_tensors
from trtkit.training.progress import Progress

_MODEL, _OPTIMIZER = "model.", "optimizer."


@dataclass(frozen=True)
class Trainee:
    """What changes while training: the network, its optimizer, and the scaler of mixed precision."""

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save_state(path: Path, trainee: Trainee, progress: Progress) -> None:
    """Write all that the next step depends on; whole or not at all. Raises TrtkitError."""
    tensors = {f"{_MODEL}{name}": v for name, v in trainee.network.state_dict().items()}
    for index, values in trainee.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"{_OPTIMIZER}{index}.{name}"] = value
    metadata = {"progress": progress.to_json(), "scaler": trainee.scaler.state_dict()}
    write_tensors(path, tensors, metadata)


def load_state(path: Path, trainee: Trainee) -> Progress:
    """Set `trainee` to what was saved, and give the progress. Raises TrtkitError for another model's."""
    saved = read_checkpoint(path)
    groups = trainee.optimizer.state_dict()["param_groups"]
    try:
        model, optimizer = _divided(saved.state)
        trainee.network.load_state_dict(model)
        trainee.optimizer.load_state_dict({"state": optimizer, "param_groups": groups})
        scaler = saved.metadata["scaler"]
        # Empty where the training ran without mixed precision until now.
        if scaler:
            trainee.scaler.load_state_dict(scaler)
        return Progress.from_json(saved.metadata["progress"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise TrtkitError(
            f"{path} is not the state of this training ({str(error).splitlines()[0].rstrip(':')}); "
            "remove it to begin the training anew."
        ) from error


def _divided(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[int, dict[str, torch.Tensor]]]:
    """The model's tensors by name, and the optimizer's by the parameter's number and name."""
    model: dict[str, torch.Tensor] = {}
    optimizer: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_MODEL):
            model[name.removeprefix(_MODEL)] = value
        else:
            number, _, leaf = name.removeprefix(_OPTIMIZER).partition(".")
            optimizer.setdefault(int(number), {})[leaf] = value
    return model, optimizer
