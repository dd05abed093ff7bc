"""A training from its options to its results in the run's folder."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from trtkit import __version__
from trtkit.errors import TrtkitError
from trtkit.evaluation.dataset import Dataset
from trtkit.evaluation.metrics import Scores
from trtkit.models.architectures import create
from trtkit.models.blocks import prefix_digest
from trtkit.models.checkpoint import load, read_checkpoint, save_checkpoint
from trtkit.photos.prefetch import default_workers
from trtkit.preprocessing import Preprocessing
from trtkit.reporting import message
from trtkit.serialization import from_plain, to_plain
from trtkit.store.cache import cache_folder
from trtkit.training import bottleneck
from trtkit.training.augment import preset
from trtkit.training.batches import PhotoBatches
from trtkit.training.features import describe_rates, store_features
from trtkit.training.interrupt import TrainingInterrupted, interruptible
from trtkit.training.loop import (
    BatchSource,
    Trainer,
    class_weights,
    duration,
    evaluate,
    make_optimizer,
)
from trtkit.training.network import TrainedNetwork
from trtkit.training.options import BOTTLENECK
from trtkit.training.request import TrainRequest
from trtkit.training.results import write_results
from trtkit.training.run import Run
from trtkit.training.start import (
    Start,
    begin_run,
    frozen_blocks,
    report_dataset,
    resumed_dataset,
    starting_model,
)
from trtkit.training.state import Epoch, Progress, Trainee, load_state, save_state
from trtkit.workspace import Workspace


@dataclass(frozen=True)
class TrainReport:
    """The result of a training.

    `checkpoint` is the best one, `metrics` the content of metrics.json. `up_to_date`: the training had
    ended before, nothing was done.
    """

    name: str
    folder: Path
    checkpoint: Path
    metrics: Mapping[str, Any]
    up_to_date: bool = False

    def to_json(self) -> dict[str, Any]:
        """`metrics` with the other fields beside its own, as plain values."""
        plain: dict[str, Any] = to_plain(self)
        metrics = plain.pop("metrics")
        return {**plain, **metrics}


@dataclass(frozen=True)
class Resources:
    """Where a training runs; none of it changes the result.

    `workers`: decoding threads, by default the usable cores; `cache_dir`: the folder of the feature
    store, by default below the prefix cache; `cache_size`: its bytes.
    """

    device: torch.device
    workers: int | None
    cache_dir: Path | None
    cache_size: int


def run_training(request: TrainRequest, resources: Resources) -> TrainReport:
    """Begin or resume a training, and train to its end. Raises TrtkitError, TrainingInterrupted."""
    start: Start | None = None
    if request.run is not None:
        run, dataset = request.run, resumed_dataset(request, request.run)
    else:
        run, dataset, start = begin_run(request)
    report_dataset(dataset)
    ended = run.metrics
    if ended is not None:
        return TrainReport(run.name, run.folder, run.best, ended, up_to_date=True)
    try:
        with run.locked():
            metrics = Session(request.place, run, dataset, resources, start).train()
    except KeyboardInterrupt as error:
        raise TrainingInterrupted(
            f"The training {run.name} was interrupted; `trtkit train {request.data} --name {run.name} "
            "--resume` goes on with it."
        ) from error
    return TrainReport(run.name, run.folder, run.best, metrics)


class Session:
    """Trains one run to its end. `start`: the model of a run that begins."""

    def __init__(
        self,
        place: Workspace,
        run: Run,
        dataset: Dataset,
        resources: Resources,
        start: Start | None = None,
    ) -> None:
        self.run = run
        self.dataset = dataset
        self.options = run.options
        self.resources = resources
        self.workers = resources.workers or default_workers()
        self.image = from_plain(run.record["start"]["image"], Preprocessing)
        self.resumed = start is None and run.state.is_file()
        if self.resumed:
            model = create(self.options.arch, len(dataset.classes))
        else:
            model = (start or starting_model(self.options, dataset.classes, place)).model
        self.network = TrainedNetwork(
            model,
            frozen_blocks(self.options, model),
            resources.device,
            mixed=self.options.amp,
        )

    def train(self) -> dict[str, Any]:
        """Train; write checkpoints, pictures and metrics.json. Returns the metrics. Raises TrtkitError."""
        try:
            fit = self._fit_bottleneck if self.options.mode == BOTTLENECK else self._descend
            metrics = fit()
        except torch.OutOfMemoryError as error:
            raise TrtkitError(
                f"Batches of {self.options.batch} photos of {self.image.height} x {self.image.width} do "
                f"not fit into the memory of the {self.network.device.type} device; give a smaller --batch "
                "in another training, by --name."
            ) from error
        # Only resuming needed it.
        self.run.state.unlink(missing_ok=True)
        return metrics

    def _descend(self) -> dict[str, Any]:
        model = self.network.model
        trainee = Trainee(
            model.network,
            make_optimizer(self.network.back, self.options),
            GradScaler(enabled=self.network.mixed),
        )
        progress = load_state(self.run.state, trainee) if self.resumed else Progress()
        if not self.resumed:
            # From here on resuming needs neither the first weights nor another model's prefix.
            save_state(self.run.state, trainee, progress)
        frozen = self._frozen_digest()
        with ExitStack() as stack:
            train: BatchSource = self._train_photos()
            val: BatchSource = self._val_photos()
            stored = None
            if self._stores_features:
                stored = stack.enter_context(
                    store_features(
                        self.network,
                        self._train_photos(),
                        self._val_photos(),
                        views=self.options.augment,
                        folder=self.resources.cache_dir or cache_folder() / "training",
                        size=self.resources.cache_size,
                    )
                )
                train, val = stored.train, stored.val
            weights = None
            if self.options.class_weights == "balanced":
                labels = (photo.label for photo in self.dataset.train)
                weights = class_weights(labels, len(self.dataset.classes))
            trainer = Trainer(self.network, trainee, train, val, self.options, weights)
            with interruptible() as stopping:
                ended = trainer.fit(
                    progress,
                    save=lambda now: save_state(self.run.state, trainee, now),
                    end_epoch=self._end_epoch,
                    stopping=stopping,
                )
                if not ended:
                    raise KeyboardInterrupt
            if frozen != self._frozen_digest():
                raise TrtkitError(
                    f"The frozen blocks of {self.run.name} changed while training, which is a fault of "
                    "trtkit; please report it with the options used."
                )
            best = load(read_checkpoint(self.run.best)).model
            model.network.load_state_dict(best.network.state_dict())
        # On photos, as `evaluate` does: stored maps are rounded.
        scores, loss = self._evaluate()
        features = None
        if stored is not None:
            rates = [epoch.images_per_second for epoch in progress.epochs]
            features = stored.describe(statistics.median(rates))
            message(describe_rates(features))
        return write_results(
            self.run, self.network, scores, loss, progress.epochs, features=features
        )

    def _fit_bottleneck(self) -> dict[str, Any]:
        views = list(range(self.options.augment)) or [0]
        photos = self._train_photos()
        batch = self.options.batch
        started = time.perf_counter()
        features, labels = bottleneck.extract(self.network, photos, views, batch)
        message(f"Fitting on {len(labels)} x {features.shape[1]} features.")
        fitted = bottleneck.fit(features, labels, self.options)
        fit = {"iterations": fitted.iterations, "seconds": time.perf_counter() - started}
        bottleneck.install(self.network, fitted)
        scores, loss = self._evaluate()
        for path in (self.run.last, self.run.best):
            self._save(path, {"top1": scores.top1, "top5": scores.top5, "loss": loss})
        return write_results(self.run, self.network, scores, loss, [], features=None, fit=fit)

    @property
    def _stores_features(self) -> bool:
        """Whether the outputs of the frozen blocks are stored."""
        return self.network.frozen is not None and self.options.feature_store

    def _train_photos(self) -> PhotoBatches:
        fixed = self._stores_features or self.options.mode == BOTTLENECK
        augmentation = preset(self.options.augmentation, flip=self.options.flip)
        return PhotoBatches(
            self.dataset.train,
            self.image,
            augmentation=None if fixed and self.options.augment == 0 else augmentation,
            seed=self.options.seed,
            workers=self.workers,
        )

    def _val_photos(self) -> PhotoBatches:
        return PhotoBatches(self.dataset.val, self.image, workers=self.workers)

    def _frozen_digest(self) -> str | None:
        model, frozen = self.network.model, self.network.frozen
        return None if frozen is None else prefix_digest(model, frozen)

    def _evaluate(self) -> tuple[Scores, float]:
        scores, loss = evaluate(self.network, self._val_photos(), self.options.batch)
        if scores is None:
            raise TrtkitError(
                f"The logits of {self.run.name} are not finite on the validation photos; start from other "
                "--weights."
            )
        return scores, loss

    def _end_epoch(self, progress: Progress, best: bool) -> None:
        epoch = progress.epochs[-1]
        metrics = {"epoch": epoch.epoch, "top1": epoch.val_top1, "top5": epoch.val_top5,
                   "loss": epoch.val_loss}  # fmt: skip
        # Before the state: after a kill in between, the epoch runs again and writes the same.
        if best:
            self._save(self.run.best, metrics)
        self._save(self.run.last, metrics)
        message(_describe_epoch(epoch, self.options.epochs, best))

    def _save(self, path: Path, metrics: dict[str, Any]) -> None:
        record = self.run.record
        about = {
            "name": self.run.name,
            "source": record["start"]["source"],
            "mode": self.options.mode,
            "dataset": record["dataset"],
            "prefix": record["start"]["prefix"],
            "metrics": metrics,
            "trtkit": __version__,
        }
        save_checkpoint(path, self.network.model, list(self.dataset.classes), self.image, about)


def _describe_epoch(epoch: Epoch, epochs: int, best: bool) -> str:
    return (
        f"epoch {epoch.epoch}/{epochs}: loss {epoch.train_loss:.3f}, top-1 {epoch.train_top1:.1%}; "
        f"validation loss {epoch.val_loss:.3f}, top-1 {epoch.val_top1:.1%}{' (best)' if best else ''}; "
        f"{epoch.images_per_second:.0f} images/s, {epoch.waited:.0%} of the time waiting for them, "
        f"{duration(epoch.seconds)}"
    )
