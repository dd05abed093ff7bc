"""Where a training is: the epoch under way, what it added up, and the epochs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

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
    """What has to be kept, beside the weights, to go on as if nothing had happened.

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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Progress:
        return cls(**{**value, "epochs": [Epoch(**epoch) for epoch in value["epochs"]]})
