"""The file of results: written as a whole after each step, and read again to go on."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trtkit.errors import TrtkitError, listed, os_reason

FORMAT = 1
DONE, FAILED, LEFT_OUT = "done", "failed", "left out"


@dataclass(frozen=True)
class Record:
    """What became of a step. `reason`: the error's sentence, or why it was left out.

    `seconds`: how long it took. `commit`: trtkit's, where it is known. `clocks`: the card's state
    before and after it, by nvidia-smi.
    """

    state: str
    seconds: float | None = None
    date: str | None = None
    commit: str | None = None
    result: Any = None
    reason: str | None = None
    clocks: Any = None


@dataclass
class Journal:
    """`identity`: what results must have in common to stand in one file. `runs`: each start."""

    path: Path
    identity: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)
    steps: dict[str, Record] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, identity: dict[str, Any], *, fresh: bool) -> Journal:
        """The journal in `path`, a new one where there is none. Raises TrtkitError for one of others."""
        if fresh or not path.exists():
            return cls(path, identity)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["format"] != FORMAT:
                raise ValueError(f"format {stored['format']}")
            steps = {name: Record(**record) for name, record in stored["steps"].items()}
            known, runs = stored["identity"], stored["runs"]
        except OSError as error:
            raise TrtkitError(f"{path} cannot be read ({os_reason(error)}).") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrtkitError(
                f"{path} is no file of results that this version reads; give another --out, or --fresh "
                "to replace it."
            ) from error
        differences = list(_differences(known, _plain(identity)))
        if differences:
            raise TrtkitError(
                f"{path} holds results of something else ({listed(differences, limit=4)}); give another "
                "--out, or --fresh to replace it."
            )
        return cls(path, identity, runs, steps)

    def done(self, step: str) -> bool:
        record = self.steps.get(step)
        return record is not None and record.state == DONE

    def result(self, step: str) -> Any:
        """The result of a finished step as it is in the file, None of others."""
        return self.steps[step].result if self.done(step) else None

    def write(self, step: str, record: Record) -> None:
        """Keep what became of a step."""
        plain = dataclasses.replace(record, result=_plain(_as_dict(record.result)))
        self.steps[step] = plain
        self.save()

    def save(self, **others: Any) -> None:
        """Write the file as a whole; `others` go into it besides."""
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "runs": self.runs,
            "steps": {name: asdict(record) for name, record in self.steps.items()},
            "left_out": self.left_out(),
            **others,
        }
        text = json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"
        write_whole(self.path, text)

    def left_out(self) -> dict[str, str]:
        """Why each step was not done, by its name."""
        return {
            name: record.reason or ""
            for name, record in self.steps.items()
            if record.state == LEFT_OUT
        }

    def failed(self) -> dict[str, str]:
        return {
            name: record.reason or ""
            for name, record in self.steps.items()
            if record.state == FAILED
        }


def write_whole(path: Path, text: str) -> None:
    """Write a file beside and move it into place. Raises TrtkitError."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise TrtkitError(
            f"{path} cannot be written ({os_reason(error)}); give another file."
        ) from error


def _differences(known: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs. What one of the two could not find out is no difference."""
    return [
        f"{name} {_worded(known[name])} there, {_worded(here[name])} here"
        for name in here
        if known.get(name) is not None and here[name] is not None and known[name] != here[name]
    ]


def _worded(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _as_dict(result: Any) -> Any:
    found = dataclasses.is_dataclass(result) and not isinstance(result, type)
    return asdict(result) if found else result


def _plain(value: Any) -> Any:
    """The value as JSON has it: tuples are lists, and what is no finite number is null."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
