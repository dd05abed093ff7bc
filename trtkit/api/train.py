"""`trtkit train`: transfer learning on a folder of class folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtkit import __version__
from trtkit.errors import TrtkitError
from trtkit.evaluation.dataset import Dataset, read_dataset
from trtkit.extras import require
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.training.run import Run
    from trtkit.training.start import Start

DEFAULT_CACHE_SIZE = 20 * 2**30

Progress = Callable[[str], None]
Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class TrainReport:
    """What a training gave.

    `checkpoint` is the best one, `metrics` the content of metrics.json. `up_to_date`: the training had
    ended before, nothing was done.
    """

    name: str
    folder: Path
    checkpoint: Path
    metrics: Mapping[str, Any]
    up_to_date: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "folder": str(self.folder),
            "checkpoint": str(self.checkpoint),
            "up_to_date": self.up_to_date,
            **self.metrics,
        }


def train(
    data: str | Path,
    *,
    name: str | None = None,
    resume: bool = False,
    device: str = "auto",
    workers: int | None = None,
    cache_dir: str | Path | None = None,
    cache_size: int = DEFAULT_CACHE_SIZE,
    workspace: str | Path | None = None,
    progress: Progress = lambda message: None,
    advance: Advance = lambda phase, share: None,
    **options: Any,
) -> TrainReport:
    """Train a classifier on the class folders of `data` into `checkpoints/NAME`.

    `options` are those of `trtkit.training.options.TrainOptions`; `arch` is the only one needed.
    `name` is the architecture's by default. `resume` goes on with the training of that name, with the
    options that it was begun with. `device`: `auto`, `cpu`, `cuda`. `cache_dir`: where the outputs of
    frozen blocks are kept, by default below the prefix cache; `cache_size` bytes of them.

    `progress` is told sentences, `advance(phase, share)` how far a step is. Ctrl-C and SIGTERM end the
    training after the step under way and raise TrainingInterrupted, a KeyboardInterrupt that says how
    to resume. Raises TrtkitError.
    """
    require("train", "Training")
    from trtkit.training.interrupt import TrainingInterrupted
    from trtkit.training.network import choose_device
    from trtkit.training.session import Session, Surroundings

    place = Workspace.at(workspace)
    start: Start | None = None
    surroundings = Surroundings(
        choose_device(device),
        workers,
        Path(cache_dir) if cache_dir else None,
        cache_size,
        progress,
        advance,
    )
    if resume:
        run, dataset = _resumed(place, Path(data), name, options, advance)
    else:
        run, dataset, start = _begun(place, Path(data), name, options, advance)
    _tell(dataset, progress)
    ended = run.metrics
    if ended is not None:
        return TrainReport(run.name, run.folder, run.best, ended, up_to_date=True)
    try:
        with run.locked():
            metrics = Session(place, run, dataset, surroundings, start).train()
    except KeyboardInterrupt as error:
        raise TrainingInterrupted(
            f"The training {run.name} was interrupted; `trtkit train {data} --name {run.name} "
            "--resume` goes on with it."
        ) from error
    return TrainReport(run.name, run.folder, run.best, metrics)


def _begun(
    place: Workspace, data: Path, name: str | None, given: Mapping[str, Any], advance: Advance
) -> tuple[Run, Dataset, Start]:
    """A new run for the data. Nothing is written before the request is known to make sense."""
    from trtkit.models.architectures import check_architecture
    from trtkit.training.options import TrainOptions
    from trtkit.training.run import Run, check_free
    from trtkit.training.start import starting_model

    options = TrainOptions.given(given)
    check_architecture(options.arch)
    check_free(place, name or options.arch)
    dataset = read_dataset(data, seed=options.split_seed, advance=advance)
    start = starting_model(options, dataset.classes, place)
    record = {
        "trtkit": __version__,
        "options": options.to_json(),
        "data": str(data),
        "dataset": described(dataset, options.split_seed),
        "start": start.to_json(),
    }
    return Run.create(place, name or options.arch, record), dataset, start


def _resumed(
    place: Workspace, data: Path, name: str | None, given: Mapping[str, Any], advance: Advance
) -> tuple[Run, Dataset]:
    from trtkit.training.run import Run

    wanted = name or given.get("arch")
    if wanted is None:
        raise TrtkitError(
            "A training is to be resumed, but not which one; give its --name, or its --arch where that "
            "is its name."
        )
    run = Run.open(place, wanted)
    run.options.check_same(given)
    dataset = read_dataset(data, seed=run.options.split_seed, advance=advance)
    recorded = run.record["dataset"]
    if dataset.fingerprint != recorded["fingerprint"]:
        raise TrtkitError(
            f"{data} is not what the training {run.name} was begun with ({recorded['train']} and "
            f"{recorded['val']} photos then, {len(dataset.train)} and {len(dataset.val)} now, or others); "
            "restore the photos, or begin another training with --name."
        )
    return run, dataset


def described(dataset: Dataset, seed: int) -> dict[str, Any]:
    """What checkpoints and metrics say of the data."""
    return {
        "fingerprint": dataset.fingerprint,
        "split": dataset.split,
        "seed": seed,
        "classes": list(dataset.classes),
        "train": len(dataset.train),
        "val": len(dataset.val),
        "skipped": [{**asdict(skipped), "path": str(skipped.path)} for skipped in dataset.skipped],
    }


def _tell(dataset: Dataset, progress: Progress) -> None:
    progress(
        f"{len(dataset.classes)} classes, {len(dataset.train)} photos to train on and "
        f"{len(dataset.val)} to validate on ({dataset.split})."
    )
    for skipped in dataset.skipped:
        progress(f"Skipped {skipped.path}: {skipped.reason}")
    if dataset.skipped:
        progress(f"Photos skipped: {len(dataset.skipped)}.")
    if dataset.repeated:
        progress(
            f"{dataset.repeated} photos to validate on are among those to train on as well, byte for "
            "byte: the accuracy will look better than it is."
        )
    if dataset.contradictory:
        progress(
            f"{dataset.contradictory} photos are in more than one class, byte for byte: no model can "
            "get them all right."
        )
