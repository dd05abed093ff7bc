"""The folder of a training: its options, checkpoints, state and results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trtkit.atomic import not_written
from trtkit.errors import TrtkitError, listed, os_reason
from trtkit.serialization import read_json, write_json
from trtkit.training.options import TrainOptions
from trtkit.workspace import BEST, Workspace, check_name

RECORD = "run.json"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Run:
    """A training's folder. `record`, the content of `run.json`, was fixed when the training began."""

    folder: Path
    record: Mapping[str, Any]

    @classmethod
    def open(cls, place: Workspace, name: str) -> Run:
        """The training of that name. Raises TrtkitError when there is none."""
        folder = place.checkpoints / name
        try:
            return cls(folder, read_json(folder / RECORD, dict[str, Any]))
        except FileNotFoundError as error:
            names = sorted(path.parent.name for path in place.checkpoints.glob(f"*/{RECORD}"))
            raise TrtkitError(
                f"Training `{name}` not found in {place.checkpoints}; available: {listed(names)}."
            ) from error
        except (OSError, ValueError) as error:
            raise TrtkitError(
                f"{folder / RECORD} cannot be read ({error}); begin another training with --name."
            ) from error

    @classmethod
    def create(cls, place: Workspace, name: str, record: Mapping[str, Any]) -> Run:
        """A new training's folder. Raises TrtkitError when there is one of that name."""
        check_free(place, name)
        run = cls(place.checkpoints / name, record)
        write_json(run.folder / RECORD, record)
        return run

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def options(self) -> TrainOptions:
        try:
            return TrainOptions(**self.record["options"])
        except (KeyError, TypeError) as error:
            raise TrtkitError(
                f"The options of training {self.name} come from another version of trtkit ({error}); "
                f"resume it with trtkit {self.record.get('trtkit', 'of its time')}, or begin another one."
            ) from error

    @property
    def best(self) -> Path:
        return self.folder / BEST

    @property
    def last(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def state(self) -> Path:
        """What resuming needs; gone once the training has ended."""
        return self.folder / "resume.safetensors"

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The results, None before the training has ended."""
        path = self.folder / METRICS
        if not path.is_file():
            return None
        try:
            metrics = read_json(path, dict[str, Any])
        except (OSError, ValueError) as error:
            raise TrtkitError(
                f"{path} cannot be read ({error}); remove it, and resume the training to write it again."
            ) from error
        return metrics if metrics.get("finished") else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the training against a second process. Raises TrtkitError when one has it."""
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise TrtkitError(
                f"Training {self.name} is running in another process; wait for it, or begin another one "
                "with --name."
            ) from error
        except OSError as error:
            raise not_written(self.folder, os_reason(error)) from error
        try:
            yield
        finally:
            lock.release()


def check_free(place: Workspace, name: str) -> None:
    """Raise TrtkitError unless a new training can be called that."""
    check_name(name)
    folder = place.checkpoints / name
    if (folder / RECORD).exists():
        raise TrtkitError(
            f"Training `{name}` already exists in {place.checkpoints}; continue it with --resume, give "
            "another --name, or remove its folder."
        )
