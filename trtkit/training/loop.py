"""Gradient descent over epochs: the optimizer, its learning rate, and the loop of steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import nn

from trtkit.errors import TrtkitError
from trtkit.evaluation.metrics import Scores, Tally
from trtkit.identity import derived_seed
from trtkit.reporting import advance
from trtkit.tensors import Array
from trtkit.training.batches import PhotoBatches, epoch_order, in_order
from trtkit.training.features import FeatureBatches
from trtkit.training.network import TrainedNetwork
from trtkit.training.options import TrainOptions
from trtkit.training.state import Epoch, Progress, Trainee

# A kill costs at most this much work, in seconds.
SAVE_EVERY = 300.0
MOMENTUM = 0.9

BatchSource = PhotoBatches | FeatureBatches


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


@dataclass
class Trainer:
    """Trains the back of a network on a source of inputs.

    `weights`: one factor a class for the loss. Everything that is drawn at random depends on the
    options' seed, the epoch and the step alone, so that a training that goes on from `progress`
    computes what it would have computed without a break.
    """

    network: TrainedNetwork
    trainee: Trainee
    train: BatchSource
    val: BatchSource
    options: TrainOptions
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        factors = torch.tensor(self.weights, device=self.network.device) if self.weights else None
        self.loss = nn.CrossEntropyLoss(
            weight=factors, label_smoothing=self.options.label_smoothing, reduction="none"
        )
        self.steps = len(epoch_order(len(self.train), self.options.batch, self.options.seed, 1))

    def fit(
        self,
        progress: Progress,
        *,
        save: Callable[[Progress], None],
        end_epoch: Callable[[Progress, bool], None],
        stopping: Callable[[], bool],
    ) -> bool:
        """Train from `progress` on, and update it. Returns False when `stopping` ended it.

        `save` writes the state; `end_epoch` writes an epoch's weights, and is passed whether they are
        the best so far; `stopping` returns whether to end after this step.
        """
        saved = time.monotonic()
        while not self._finished(progress):
            order = epoch_order(
                len(self.train), self.options.batch, self.options.seed, progress.epoch
            )
            remaining = self.train.batches(order[progress.step :], progress.epoch)
            with closing(remaining) as batches:
                for _ in self._steps(batches, progress):
                    advance(self._describe(progress), progress.step / self.steps)
                    interrupted = stopping()
                    if interrupted or time.monotonic() - saved > SAVE_EVERY:
                        save(progress)
                        saved = time.monotonic()
                    if interrupted:
                        return False
            best = progress.best
            self._end_epoch(progress)
            end_epoch(progress, progress.best is not best)
            save(progress)
            saved = time.monotonic()
        return True

    def _steps(self, batches: Iterator[tuple[Array, Array]], progress: Progress) -> Iterator[None]:
        """Take a step for each batch; count its seconds, and those of waiting for the batch."""
        started = time.perf_counter()
        for inputs, labels in batches:
            begun = time.perf_counter()
            self._step(progress, inputs, labels)
            progress.waited += begun - started
            progress.seconds += time.perf_counter() - started
            yield
            started = time.perf_counter()

    def _finished(self, progress: Progress) -> bool:
        done = len(progress.epochs)
        best, patience = progress.best, self.options.patience
        early = best is not None and patience is not None and done - best.epoch >= patience
        return done >= self.options.epochs or early

    def _rate(self, progress: Progress) -> float:
        """The learning rate of the step after those done; at the end of an epoch that of its last."""
        step = (progress.epoch - 1) * self.steps + min(progress.step, self.steps - 1)
        warmup = round(self.options.warmup * self.steps)
        share = rate_share(step, self.options.epochs * self.steps, warmup)
        return self.options.learning_rate * share

    def _step(self, progress: Progress, inputs: Array, labels: Array) -> None:
        # Dropout draws from torch's own generator.
        torch.manual_seed(derived_seed(self.options.seed, "step", progress.epoch, progress.step))
        rate = self._rate(progress)
        set_rate(self.trainee.optimizer, rate)
        truth = self.network.to_device(labels)
        logits = self.network.logits(self.network.to_device(inputs))
        losses = self.loss(logits, truth)
        loss = losses.mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise diverged("loss", value, f"step {progress.step + 1}", progress, rate)
        self.trainee.optimizer.zero_grad(set_to_none=True)
        self.trainee.scaler.scale(loss).backward()
        self.trainee.scaler.step(self.trainee.optimizer)
        self.trainee.scaler.update()
        progress.step += 1
        progress.images += len(labels)
        progress.loss += value * len(labels)
        progress.correct += int((logits.detach().argmax(1) == truth).sum())

    def _end_epoch(self, progress: Progress) -> None:
        scores, loss = evaluate(self.network, self.val, self.options.batch)
        if scores is None:
            raise diverged("validation loss", loss, "its end", progress, self._rate(progress))
        progress.end_epoch(
            Epoch(
                epoch=progress.epoch,
                rate=self._rate(progress),
                train_loss=progress.loss / progress.images,
                train_top1=progress.correct / progress.images,
                val_loss=loss,
                val_top1=scores.top1,
                val_top5=scores.top5,
                seconds=progress.seconds,
                images_per_second=progress.images / progress.seconds,
                waited=progress.waited / progress.seconds,
            )
        )

    def _describe(self, progress: Progress) -> str:
        done = (progress.epoch - 1) * self.steps + progress.step
        rate = progress.images / progress.seconds
        spent = sum(epoch.seconds for epoch in progress.epochs) + progress.seconds
        left = spent / done * (self.options.epochs * self.steps - done)
        return (
            f"epoch {progress.epoch}/{self.options.epochs}, loss {progress.loss / progress.images:.3f}, "
            f"top-1 {progress.correct / progress.images:.1%}, {rate:.0f} images/s, "
            f"{duration(left)} left"
        )


def evaluate(
    network: TrainedNetwork, photos: BatchSource, batch: int
) -> tuple[Scores | None, float]:
    """The scores of a network on photos, and the mean cross-entropy, in evaluation mode.

    The scores are None once the cross-entropy is not finite.
    """
    tally = Tally(network.model.classes)
    total = 0.0
    done = 0
    with network.evaluating(), closing(photos.batches(in_order(len(photos), batch), 0)) as batches:
        for inputs, labels in batches:
            logits = network.logits(network.to_device(inputs))
            truth = network.to_device(labels)
            total += float(nn.functional.cross_entropy(logits, truth, reduction="sum"))
            if not math.isfinite(total):
                return None, total
            tally.add(logits.cpu().numpy(), labels)
            done += len(labels)
            advance("validating", done / len(photos))
    return tally.scores(), total / len(photos)


def diverged(what: str, value: float, where: str, progress: Progress, rate: float) -> TrtkitError:
    remaining = (
        f"the checkpoints of epoch {progress.epochs[-1].epoch} are kept"
        if progress.epochs
        else "no epoch had ended, so there is no checkpoint"
    )
    return TrtkitError(
        f"The {what} became {value} in epoch {progress.epoch} at {where}, at a learning rate of "
        f"{rate:.2g}; {remaining}; begin anew with a lower --lr or a longer --warmup."
    )


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
