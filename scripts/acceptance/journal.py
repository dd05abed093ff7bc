"""The results: a file that is written as a whole after each case and read again to go on, and a page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from trtkit.atomic import whole_file
from trtkit.errors import TrtkitError, listed, os_reason
from trtkit.serialization import from_plain

FORMAT = 1
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

    `seconds`: how long it took. `commit`: trtkit's, where git tells it. `clocks`: the card's state
    before and after it, by NVML.
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
        journal = cls(path, plain(identity))
        if fresh or not path.exists():
            return journal
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["format"] != FORMAT:
                raise ValueError(f"format {stored['format']}")
            journal.steps = from_plain(stored["steps"], dict[str, Record])
            journal.runs, earlier = stored["runs"], stored["identity"]
            differences = list(_differences(earlier, journal.identity))
        except OSError as error:
            raise TrtkitError(f"{path} cannot be read ({os_reason(error)}).") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrtkitError(
                f"{path} is not a file of results that this version reads; give another --out, or "
                "--fresh to replace it."
            ) from error
        if differences:
            raise TrtkitError(
                f"{path} holds results of something else ({listed(differences, limit=4)}); give another "
                "--out, or --fresh to replace it."
            )
        return journal

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
        return {
            name: record.reason or ""
            for name, record in self.steps.items()
            if record.state == state
        }

    def write(self, step: str, record: Record) -> None:
        """Keep what became of a case."""
        self.steps[step] = dataclasses.replace(record, result=plain(record.result))
        self.save()

    def save(self, **others: Any) -> None:
        """Write the file as a whole; `others` go into it as well. Raises TrtkitError."""
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "runs": self.runs,
            "steps": self.steps,
            "left_out": self.reasons(LEFT_OUT),
            **others,
        }
        with whole_file(self.path) as temporary:
            text = json.dumps(plain(content), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """The value as JSON holds it: tuples are lists, and numbers that are not finite are null."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))


def _differences(earlier: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs. What one of the two does not tell is no difference."""
    return [
        f"{name} {_worded(earlier[name])} there, {_worded(value)} here"
        for name, value in here.items()
        if earlier.get(name) is not None and value is not None and earlier[name] != value
    ]


def _worded(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown(journal: Journal, targets: Sequence[Mapping[str, Any]]) -> str:
    """The page for docs/results/: the commands, the targets, and all that each case measured."""
    lines = ["# Measured: on a GPU", "", *(f"    {run['command']}" for run in journal.runs)]
    lines += ["", f"Results of {_cell(journal.identity)}. {METHOD}", "", "## Targets", ""]
    bold = {True: "", False: "**", None: ""}
    rows = [
        [row["what"], row["must_be"], row["measured"], row["verdict"].join(2 * [bold[row["met"]]])]
        for row in targets
    ]
    lines += _table(TARGET_COLUMNS, rows)
    for name in journal.steps:
        result = journal.result(name)
        if result is None:
            continue
        lines += ["", f"## {name[:1].upper()}{name[1:]}", ""]
        tables = [part for part in result.values() if isinstance(part, list) and part]
        tables = [part for part in tables if isinstance(part[0], dict)]
        facts = {key: part for key, part in result.items() if part not in tables}
        lines += [f"{_cell(facts)}.", ""]
        for rows in tables:
            cells = [[_cell(value) for value in row.values()] for row in rows]
            lines += _table([_words(key) for key in rows[0]], cells)
    for title, state in (("Failed", FAILED), ("Left out", LEFT_OUT)):
        reasons = journal.reasons(state).items()
        if reasons:
            lines += ["", f"## {title}", "", *(f"- {name}: {reason}" for name, reason in reasons)]
    return "\n".join(lines) + "\n"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _cell(value: Any) -> str:
    """A value as text: times in ms as median (p10 to p90), ratios as that of the medians (...)."""
    if isinstance(value, dict) and "median_seconds" in value:
        parts = (1e3 * value[f"{part}_seconds"] for part in ("median", "p10", "p90"))
        return "{:.3f} ms ({:.3f} to {:.3f})".format(*parts)
    if isinstance(value, dict) and "of_medians" in value:
        return "{of_medians:.3f} ({p10:.3f} {median:.3f} {p90:.3f})".format(**value)
    if isinstance(value, dict):
        return ", ".join(
            f"{_words(k)} {_cell(part)}" for k, part in value.items() if part is not None
        )
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
