"""Bench reports in their JSON form: reading one back, and what its figures say.

Files outlive the version that wrote them: unknown keys are kept and ignored, and only those are required
without which there is nothing to draw or compare.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from trtkit.benchmark.contest import LEAST_AGREEMENT
from trtkit.errors import TrtkitError, os_reason
from trtkit.serialization import from_plain

SavedReport = dict[str, Any]

Positive = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
Count = Annotated[int, Meta(ge=1)]


@dataclass
class _Summary:
    count: Count
    median: Positive
    p10: Positive
    p90: Positive
    p99: Positive

    def __post_init__(self) -> None:
        if not self.p10 <= self.median <= self.p90 <= self.p99:
            raise ValueError("Percentiles are not in order")


@dataclass
class _Interval:
    low: Positive
    median: Positive
    high: Positive

    def __post_init__(self) -> None:
        if not self.low <= self.median <= self.high:
            raise ValueError("A median lies outside of its interval")


@dataclass
class _Figure:
    competitor: str
    images_per_second: Positive | None = None
    seconds: _Summary | None = None
    ratio: _Interval | None = None
    agreement: float | None = None

    def __post_init__(self) -> None:
        if self.images_per_second is not None and self.seconds is None:
            raise ValueError("`images_per_second` comes without `seconds`")


@dataclass
class _Contest:
    bundle: str
    tail: str
    measure: str
    baseline: str
    batch: Count
    photos: Count
    figures: list[_Figure]
    bundles: list[str] = field(default_factory=list)


@dataclass
class _Machine:
    gpus: list[dict[str, Any]] = field(default_factory=list)
    backends: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Report:
    """What has to be right in a report; the JSON itself is what is drawn and compared."""

    contests: list[_Contest]
    machine: _Machine = field(default_factory=_Machine)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_report(path: str | Path) -> SavedReport:
    """The report that `trtkit bench --json` wrote to `path`, checked.

    Raises TrtkitError when the file cannot be read, is not JSON, or is something else.
    """
    path = Path(path)
    fix = "give a file that `trtkit bench --json` wrote."
    try:
        report = json.loads(path.read_bytes())
    except OSError as error:
        raise TrtkitError(
            f"The report {path} cannot be read ({os_reason(error)}); {fix}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise TrtkitError(f"The report {path} is not JSON; {fix}") from error
    try:
        from_plain(report, _Report)
    except ValueError as error:
        raise TrtkitError(f"{path} is not a report of trtkit bench ({error}); {fix}") from error
    return dict(report)


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
