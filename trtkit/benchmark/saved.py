"""The JSON form of a bench report: reading it back, and what its contests and figures say.

Files outlive the version that wrote them: unknown keys are kept and ignored, and only those are asked
for without which there is nothing to draw or compare.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from trtkit.benchmark.contest import LEAST_AGREEMENT
from trtkit.errors import TrtkitError, os_reason

Report = dict[str, Any]

_SECONDS = ("median", "p10", "p90", "p99")


def read_report(path: str | Path) -> Report:
    """The report that `trtkit bench --json` wrote to `path`, checked.

    Raises TrtkitError when the file cannot be read, is not JSON, or is something else.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise TrtkitError(
            f"The report {path} cannot be read ({os_reason(error)}); give a file that `trtkit bench "
            "--json` wrote."
        ) from error
    except (ValueError, RecursionError) as error:
        raise TrtkitError(
            f"The report {path} is not JSON; give a file that `trtkit bench --json` wrote."
        ) from error
    fault = _fault(value)
    if fault is not None:
        raise TrtkitError(
            f"{path} is no report of trtkit bench ({fault}); give a file that `trtkit bench --json` "
            "wrote."
        )
    return dict(value)


def measured(figure: dict[str, Any]) -> bool:
    """Whether the competitor has figures: else its `problem` says why not."""
    return figure.get("images_per_second") is not None and figure.get("seconds") is not None


def wrong(figure: dict[str, Any]) -> bool:
    """Whether its best classes differ so often from the reference's that its speed says nothing."""
    agreement = figure.get("agreement")
    return agreement is not None and bool(agreement < LEAST_AGREEMENT)


def spread(figure: dict[str, Any]) -> tuple[float, float]:
    """Images/s of a measured figure's rounds, p10 and p90: a tenth was slower, a tenth faster."""
    rate, seconds = figure["images_per_second"], figure["seconds"]
    return (
        rate * seconds["median"] / seconds["p90"],
        rate * seconds["median"] / seconds["p10"],
    )


def _fault(report: object) -> str | None:
    """What a report lacks, as part of a sentence; None for a whole one."""
    if not isinstance(report, dict):
        return "it holds no object"
    contests = report.get("contests")
    if not isinstance(contests, list):
        return "it has no list of contests"
    machine = report.get("machine", {})
    if not isinstance(machine, dict) or not isinstance(report.get("settings", {}), dict):
        return "its machine or its settings are no object"
    if not all(_is_list(report.get(name, []), str) for name in ("notes", "warnings")):
        return "its notes are no list of sentences"
    if not all(_is_list(machine.get(name, []), dict) for name in ("gpus", "backends", "features")):
        return "its machine has another form"
    for number, contest in enumerate(contests, start=1):
        fault = _contest_fault(contest)
        if fault is not None:
            return f"contest {number}: {fault}"
    return None


def _contest_fault(contest: object) -> str | None:
    if not isinstance(contest, dict):
        return "it is no object"
    for name in ("bundle", "tail", "measure", "baseline"):
        if not isinstance(contest.get(name), str):
            return f"its {name} is {contest.get(name)!r}"
    for name in ("batch", "photos"):
        if not (_is_number(contest.get(name)) and contest[name] >= 1):
            return f"its {name} is {contest.get(name)!r}"
    if not _is_list(contest.get("bundles", []), str):
        return f"its bundles are {contest['bundles']!r}"
    figures = contest.get("figures")
    if not isinstance(figures, list):
        return "it has no list of figures"
    for figure in figures:
        if not isinstance(figure, dict) or not isinstance(figure.get("competitor"), str):
            return "a figure has no competitor"
        fault = _figure_fault(figure)
        if fault is not None:
            return f"{figure['competitor']}: {fault}"
    return None


def _figure_fault(figure: dict[str, Any]) -> str | None:
    rate, agreement = figure.get("images_per_second"), figure.get("agreement")
    if rate is not None and not _is_number(rate, above=0):
        return f"its images_per_second is {rate!r}"
    if agreement is not None and not _is_number(agreement):
        return f"its agreement is {agreement!r}"
    seconds, ratio = figure.get("seconds"), figure.get("ratio")
    if rate is not None and not _is_summary(seconds):
        return f"its seconds are {seconds!r}"
    if ratio is not None and not _is_interval(ratio):
        return f"its ratio is {ratio!r}"
    return None


def _is_summary(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_number(value.get(name), above=0) for name in _SECONDS)
        and _is_number(value.get("count"), above=0)
        and value["p10"] <= value["median"] <= value["p90"] <= value["p99"]
    )


def _is_interval(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_number(value.get(name), above=0) for name in ("low", "median", "high"))
        and value["low"] <= value["median"] <= value["high"]
    )


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)


def _is_number(value: object, above: float = -math.inf) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > above
    )
