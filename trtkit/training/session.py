"""One training, from its options to its results in the run's folder."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from trtkit import __version__
from trtkit.errors import TrtkitError
from trtkit.evaluation.dataset import Dataset
from trtkit.evaluation.metrics import Scores
from trtkit.models.architectures import create
from trtkit.models.checkpoint import load, read_checkpoint, save_checkpoint
from trtkit.models.prefix import prefix_digest
from trtkit.photos.prefetch import default_workers
from trtkit.preprocessing import Preprocessing
from trtkit.store.cache import cache_folder
from trtkit.training import bottleneck
from trtkit.training.augment import preset
from trtkit.training.batches import PhotoBatches, Source
from trtkit.training.interrupt import interruptible
from trtkit.training.loop import Hooks, Trainer, duration, evaluate
from trtkit.training.network import Network
from trtkit.training.optimise import class_weights, make_optimizer
from trtkit.training.options import BOTTLENECK
from trtkit.training.progress import Epoch, Progress
from trtkit.training.results import write_results
from trtkit.training.run import Run
from trtkit.training.start import Start, frozen_blocks, starting_model
from trtkit.training.state import Trainee, load_state, save_state
from trtkit.training.stored import Stored, describe_rates, store_features
from trtkit.workspace import Workspace


@dataclass(frozen=True)
class Surroundings:
    """Where a training runs and whom it tells; none of it changes the result."""

    device: torch.device
    workers: int | None
    cache_dir: Path | None
    cache_size: int
    progress: Callable[[str], None]
    advance: Callable[[str, float], None]


class Session:
    """Trains one run to its end. `start` is its model where it has not been begun yet."""

    def __init__(
        self,
        place: Workspace,
        run: Run,
        dataset: Dataset,
        around: Surroundings,
        start: Start | None = None,
    ) -> None:
        self.run = run
        self.dataset = dataset
        self.options = run.options
        self.around = around
        self.workers = around.workers or default_workers()
        self.image = Preprocessing.from_json(run.record["start"]["image"])
        self.resumed = start is None and run.state.is_file()
        if self.resumed:
            model = create(self.options.arch, len(dataset.classes))
        else:
            model = (start or starting_model(self.options, dataset.classes, place)).model
        self.network = Network(
            model,
            frozen_blocks(self.options, model),
            around.device,
            mixed=self.options.amp,
        )

    def train(self) -> dict[str, Any]:
        """Train, write checkpoints, pictures and metrics.json, and give its content. Raises TrtkitError."""
        try:
            if self.options.mode == BOTTLENECK:
                return self._fit_bottleneck()
            return self._descend()
        except torch.OutOfMemoryError as error:
            raise TrtkitError(
                f"Batches of {self.options.batch} photos of {self.image.height} x {self.image.width} do "
                f"not fit into the memory of the {self.around.device.type} device; give a smaller --batch "
                "in another training, by --name."
            ) from error

    def _descend(self) -> dict[str, Any]:
        model = self.network.model
        trainee = Trainee(
            model.network,
            make_optimizer(self.network.back, self.options),
            torch.amp.GradScaler(enabled=self.network.mixed),
        )
        progress = load_state(self.run.state, trainee) if self.resumed else Progress()
        if not self.resumed:
            # From here on resuming needs neither the weights begun with nor another model's prefix.
            save_state(self.run.state, trainee, progress)
        frozen = self._frozen_digest()
        with ExitStack() as stack:
            train: Source = self._train_photos()
            val: Source = self._val_photos()
            stored = None
            if self._stores:
                stored = stack.enter_context(self._stored())
                train, val = stored.train, stored.val
            trainer = Trainer(self.network, trainee, train, val, self.options, self._weights())
            with interruptible() as stopping:
                hooks = Hooks(
                    save=lambda now: save_state(self.run.state, trainee, now),
                    keep=self._keep,
                    advance=self.around.advance,
                    stopping=stopping,
                )
                if not trainer.fit(progress, hooks):
                    raise KeyboardInterrupt
            if frozen != self._frozen_digest():
                raise TrtkitError(
                    f"The frozen blocks of {self.run.name} changed while training, which must not be; "
                    "please report this with the options used."
                )
            best = load(read_checkpoint(self.run.best)).model
            model.network.load_state_dict(best.network.state_dict())
        # Of photos, not of stored maps, which are rounded: what `evaluate` will say of the checkpoint.
        scores, loss = self._evaluate(self._val_photos())
        return self._finish(scores, loss, progress.epochs, stored)

    def _fit_bottleneck(self) -> dict[str, Any]:
        views = list(range(self.options.augment)) or [0]
        photos = self._train_photos()
        batch = self.options.batch
        started = time.perf_counter()
        features, labels = bottleneck.extract(
            self.network, photos, views, batch, self.around.advance
        )
        self.around.progress(f"Fitting on {len(labels)} x {features.shape[1]} features.")
        fitted = bottleneck.fit(features, labels, self.options)
        fit = {"iterations": fitted.iterations, "seconds": time.perf_counter() - started}
        bottleneck.install(self.network, fitted)
        scores, loss = self._evaluate(self._val_photos())
        for path in (self.run.last, self.run.best):
            self._save(path, {"top1": scores.top1, "top5": scores.top5, "loss": loss})
        return self._finish(scores, loss, [], fit=fit)

    @property
    def _stores(self) -> bool:
        """Whether what the frozen blocks compute is kept."""
        return self.network.frozen is not None and self.options.feature_store

    def _stored(self) -> AbstractContextManager[Stored]:
        folder = self.around.cache_dir or cache_folder() / "training"
        return store_features(
            self.network,
            self._train_photos(),
            self._val_photos(),
            views=self.options.augment,
            folder=folder,
            size=self.around.cache_size,
            progress=self.around.progress,
            advance=self.around.advance,
        )

    def _train_photos(self) -> PhotoBatches:
        fixed = self._stores or self.options.mode == BOTTLENECK
        how = preset(self.options.augmentation, flip=self.options.flip)
        return PhotoBatches(
            self.dataset.train,
            self.image,
            augmentation=None if fixed and self.options.augment == 0 else how,
            seed=self.options.seed,
            workers=self.workers,
        )

    def _val_photos(self) -> PhotoBatches:
        return PhotoBatches(self.dataset.val, self.image, workers=self.workers)

    def _weights(self) -> list[float] | None:
        if self.options.class_weights != "balanced":
            return None
        labels = (photo.label for photo in self.dataset.train)
        return class_weights(labels, len(self.dataset.classes))

    def _frozen_digest(self) -> str | None:
        model, frozen = self.network.model, self.network.frozen
        return None if frozen is None else prefix_digest(model, frozen)

    def _evaluate(self, photos: Source) -> tuple[Scores, float]:
        scores, loss = evaluate(self.network, photos, self.options.batch, self.around.advance)
        if scores is None:
            raise TrtkitError(
                f"The logits of {self.run.name} are not finite on the photos to validate on; start from "
                "other --weights."
            )
        return scores, loss

    def _keep(self, progress: Progress, best: bool) -> None:
        epoch = progress.epochs[-1]
        metrics = {"epoch": epoch.epoch, "top1": epoch.val_top1, "top5": epoch.val_top5,
                   "loss": epoch.val_loss}  # fmt: skip
        # Before the state: after a kill in between the epoch is done again and writes the same.
        if best:
            self._save(self.run.best, metrics)
        self._save(self.run.last, metrics)
        self.around.progress(_sentence(epoch, self.options.epochs, best))

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

    def _finish(
        self,
        scores: Scores,
        loss: float,
        epochs: list[Epoch],
        stored: Stored | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Write metrics.json and the pictures, and drop what only resuming needed."""
        rates = [epoch.images_per_second for epoch in epochs]
        features = stored.to_json(statistics.median(rates)) if stored is not None else None
        if features is not None:
            self.around.progress(describe_rates(features))
        metrics = {
            "finished": True,
            **self.run.record,
            "machine": self._machine(),
            "epochs": [asdict(epoch) for epoch in epochs],
            "stopped_early": bool(epochs) and len(epochs) < self.options.epochs,
            "features": features,
            **more,
        }
        metrics = write_results(self.run, metrics, scores, loss, epochs)
        self.run.state.unlink(missing_ok=True)
        return metrics

    def _machine(self) -> dict[str, Any]:
        device = self.network.device
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        return {
            "device": device.type,
            "gpu": gpu,
            "mixed_precision": self.network.mixed,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
        }


def _sentence(epoch: Epoch, epochs: int, best: bool) -> str:
    return (
        f"epoch {epoch.epoch}/{epochs}: loss {epoch.train_loss:.3f}, top-1 {epoch.train_top1:.1%}; "
        f"validation loss {epoch.val_loss:.3f}, top-1 {epoch.val_top1:.1%}{' (best)' if best else ''}; "
        f"{epoch.images_per_second:.0f} images/s, {epoch.waited:.0%} of the time waiting for them, "
        f"{duration(epoch.seconds)}"
    )
