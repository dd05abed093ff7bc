"""The results: a file that is written as a whole after each case and read again to go on, and a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from measure.report import table

from trtkit.errors import TrtkitError, listed, os_reason
from trtkit.serialization import read_json, write_json

FORMAT = 2
DONE, FAILED, LEFT_OUT = "done", "failed", "left out"
TARGET_COLUMNS = ("what", "must be", "measured", "")
METHOD = (
    "Times are medians of rounds in which the competitors take turns, with their 10th and 90th "
    "percentile; a ratio is that of the medians, behind it p10, median and p90 of the rounds. Weights are "
    "random."
)


@dataclass(frozen=True)
class Record:
    """What became of a case. `reason`: the error's sentence, or why it was left out.

    `seconds`: how long it took. `commit`: trtkit's, where git tells it. `clocks`: of card and processor
    before and after it, and what makes the result doubtful.
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
    """The file. `identity`: what results must have in common to stand in it. `runs`: each start."""

    format: int
    identity: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)
    steps: dict[str, Record] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    targets: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, identity: dict[str, Any], *, fresh: bool) -> Journal:
        """The journal in `path`, a new one where there is none. Raises TrtkitError for one of others."""
        journal = cls(FORMAT, plain(identity))
        if fresh or not path.exists():
            return journal
        replacement = "give another --out, or --fresh to replace it"
        try:
            stored = read_json(path, Journal)
            if stored.format != FORMAT:
                raise ValueError(f"format {stored.format}")
        except OSError as error:
            raise TrtkitError(f"{path} cannot be read ({os_reason(error)}).") from error
        except ValueError as error:
            message = f"{path} is not a file of results that this version reads; {replacement}."
            raise TrtkitError(message) from error
        if differences := list(_differences(stored.identity, journal.identity)):
            reason = listed(differences, limit=4)
            raise TrtkitError(f"{path} holds results of something else ({reason}); {replacement}.")
        stored.targets = []
        return stored

    def state(self, step: str) -> str:
        """`done`, `failed` or `left out`, which a case is until it is measured."""
        return self.steps[step].state if step in self.steps else LEFT_OUT

    def done(self, step: str) -> bool:
        return self.state(step) == DONE

    def result(self, step: str) -> Any:
        """The result of a finished case as it is in the file, None of others."""
        return self.steps[step].result if self.done(step) else None

    def reasons(self, state: str) -> dict[str, str]:
        """Why each case failed or was left out, by its name."""
        records = self.steps.items()
        return {name: record.reason or "" for name, record in records if record.state == state}

    def target_rows(self) -> list[list[str]]:
        """The cells of TARGET_COLUMNS."""
        names = ("what", "must_be", "measured", "verdict")
        return [[target[name] for name in names] for target in self.targets]

    def write(self, path: Path, step: str, record: Record) -> None:
        """Keep what became of a case."""
        self.steps[step] = replace(record, result=plain(record.result))
        self.save(path)

    def save(self, path: Path) -> None:
        """Write the file as a whole. Raises TrtkitError."""
        self.left_out = self.reasons(LEFT_OUT)
        write_json(path, self)


def plain(value: Any) -> Any:
    """The value as JSON holds it: tuples are lists, and numbers that are not finite are null."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))


def _differences(earlier: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The values that differ; one that either side lacks is no difference."""
    return [
        f"{name} {_worded(earlier[name])} there, {_worded(value)} here"
        for name, value in here.items()
        if earlier.get(name) is not None and value is not None and earlier[name] != value
    ]


def _worded(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown(journal: Journal) -> str:
    """The page for docs/results/: the commands, the targets, and all that each case measured."""
    lines = ["# Measured: on a GPU", "", *(f"    {run['command']}" for run in journal.runs)]
    lines += ["", f"Results of {cell(journal.identity)}. {METHOD}", "", "## Targets", ""]
    lines += table(TARGET_COLUMNS, journal.target_rows())
    for name in filter(journal.done, journal.steps):
        facts = dict(journal.result(name))
        lines += ["", f"## {name[:1].upper()}{name[1:]}", ""]
        lists = {key: part for key, part in facts.items() if isinstance(part, list) and part}
        tables = {key: part for key, part in lists.items() if isinstance(part[0], dict)}
        lines += [f"{cell({key: facts[key] for key in facts if key not in tables})}.", ""]
        for part in tables.values():
            cells = [[cell(value) for value in row.values()] for row in part]
            lines += table([_words(key) for key in part[0]], cells)
    for state in (FAILED, LEFT_OUT):
        if reasons := [f"- {name}: {reason}" for name, reason in journal.reasons(state).items()]:
            lines += ["", f"## {state.capitalize()}", "", *reasons]
    return "\n".join(lines) + "\n"


def _words(key: str) -> str:
    return key.replace("_", " ")


def cell(value: Any) -> str:
    """A value as text: times in ms as median (p10 to p90), ratios as that of the medians (...)."""
    if isinstance(value, dict) and "p99" in value:
        parts = (1e3 * value[part] for part in ("median", "p10", "p90"))
        return "{:.3f} ms ({:.3f} to {:.3f})".format(*parts)
    if isinstance(value, dict) and "of_medians" in value:
        return "{of_medians:.3f} ({p10:.3f} {median:.3f} {p90:.3f})".format(**value)
    if isinstance(value, dict):
        cells = (f"{_words(key)} {cell(own)}" for key, own in value.items() if own is not None)
        return ", ".join(cells)
    if isinstance(value, list):
        return " ".join(map(cell, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
