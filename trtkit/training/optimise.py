"""The optimizer and its learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from trtkit.training.options import TrainOptions

MOMENTUM = 0.9


def make_optimizer(module: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimizer of all that `module` trains.

    Biases and batch norms are not decayed (He et al. 2019, arXiv:1812.01187, section 3.1).
    """
    trained = [value for value in module.parameters() if value.requires_grad]
    groups = [
        {"params": [v for v in trained if v.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [v for v in trained if v.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate)
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=MOMENTUM, nesterov=True)


def rate_share(step: int, steps: int, warmup: int) -> float:
    """The share of the highest learning rate at a step, counted from 0, of `steps`.

    It rises linearly for `warmup` steps and then falls as half a cosine (Loshchilov and Hutter 2017,
    arXiv:1608.03983, equation 5, without restarts); neither end is 0.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def class_weights(labels: Iterable[int], classes: int) -> list[float]:
    """For each class the number of photos over classes times its own: 1 each where all are equal.

    The mean over the photos is 1, so that the learning rate means the same (King and Zeng 2001, as
    scikit-learn's `balanced`).
    """
    counts = [0] * classes
    for label in labels:
        counts[label] += 1
    return [sum(counts) / (classes * count) for count in counts]
