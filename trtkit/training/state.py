"""The state of a training: its progress, and weights, optimizer and progress in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.amp.grad_scaler import GradScaler

from trtkit.errors import TrtkitError
from trtkit.models.checkpoint import read_checkpoint, write_tensors
from trtkit.serialization import from_plain, to_plain

_MODEL, _OPTIMIZER = "model.", "optimizer."


@dataclass(frozen=True)
class Epoch:
    """The results of one epoch.

    Losses are means per photo; top-1 and top-5 shares, 0 to 1. The training's own are of augmented
    photos while the weights changed. `seconds`: of the training steps; `images_per_second` of them;
    `waited`: the share of those seconds in which the model waited for its inputs.
    """

    epoch: int
    rate: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    val_top5: float
    seconds: float
    images_per_second: float
    waited: float


def best_of(epochs: Sequence[Epoch]) -> Epoch | None:
    """The epoch with the best top-1 on the validation photos; of equal ones the least loss."""
    return max(epochs, key=lambda epoch: (epoch.val_top1, -epoch.val_loss), default=None)


@dataclass
class Progress:
    """Everything besides weights and optimizer that resuming a training needs.

    `step`: steps done of `epoch`, which is under way; the sums are of those steps.
    """

    epoch: int = 1
    step: int = 0
    images: int = 0
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch | None:
        """The best epoch so far, None before the first has ended."""
        return best_of(self.epochs)

    def end_epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.epoch += 1
        self.step = self.images = self.correct = 0
        self.loss = self.seconds = self.waited = 0.0


@dataclass(frozen=True)
class Trainee:
    """What changes while training: the network, its optimizer, and the scaler of mixed precision."""

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: GradScaler


def save_state(path: Path, trainee: Trainee, progress: Progress) -> None:
    """Write everything that the next step depends on; the file appears whole. Raises TrtkitError."""
    tensors = {f"{_MODEL}{name}": v for name, v in trainee.network.state_dict().items()}
    for index, values in trainee.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"{_OPTIMIZER}{index}.{name}"] = value
    metadata = {"progress": to_plain(progress), "scaler": trainee.scaler.state_dict()}
    write_tensors(path, tensors, metadata)


def load_state(path: Path, trainee: Trainee) -> Progress:
    """Restore `trainee`, and return the progress. Raises TrtkitError for the state of another model."""
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
        return from_plain(saved.metadata["progress"], Progress)
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
