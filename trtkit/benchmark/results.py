"""What `trtkit bench` measured: figures, contests and the report, in memory and in files.

Files outlive the version that wrote them: unknown keys are ignored, and only those are required without
which there is nothing to draw or compare.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from trtkit.benchmark.clocks import Clocks
from trtkit.benchmark.protocol import INTERRUPTED
from trtkit.benchmark.statistics import Interval, Summary
from trtkit.errors import TrtkitError, os_reason
from trtkit.serialization import from_plain

# With fewer equal best classes a competitor is wrong, and its speed says nothing.
LEAST_AGREEMENT = 0.99

Rate = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
Count = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True)
class Figure:
    """What one competitor did in a contest.

    `seconds` of its rounds, each over all photos; `images_per_second` of the median round; `ratio`:
    its images per second to the baseline's, round by round, with the interval of the median, None for
    the baseline; `agreement`: the share of photos, 0 to 1, with the reference's best class, None where
    there is no reference or it runs on other numbers. `problem` is why it was not measured; then all of
    these are None. `bundle`: the bundle that trtkit ran, empty for a baseline.
    """

    competitor: str
    images_per_second: Rate | None = None
    seconds: Summary | None = None
    ratio: Interval | None = None
    agreement: float | None = None
    note: str = ""
    problem: str | None = None
    bundle: str = ""

    def __post_init__(self) -> None:
        if self.images_per_second is not None and self.seconds is None:
            raise ValueError("`images_per_second` comes without `seconds`")

    @property
    def measured(self) -> bool:
        return self.images_per_second is not None

    @property
    def wrong(self) -> bool:
        """Whether its best classes differ so often from the reference's that its speed says nothing."""
        return self.agreement is not None and self.agreement < LEAST_AGREEMENT

    @property
    def rates(self) -> Interval:
        """Images/s of its rounds: p10, median and p90. Raises TrtkitError if it was not measured."""
        if self.images_per_second is None or self.seconds is None:
            raise TrtkitError(f"{self.competitor} was not measured.")
        rate, seconds = self.images_per_second, self.seconds
        low, high = (rate * seconds.median / bound for bound in (seconds.p90, seconds.p10))
        # Rounding may put a bound on the wrong side of a median that equals it.
        return Interval(min(low, rate), rate, max(high, rate))


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Competitors measured in turns on the same photos: one model, one batch size, one measure.

    `stopped` says what ended it. `bundle` is the first of `bundles`, which are the bundles of that model
    that took part. `clocks`: what the machine did meanwhile, None when nothing was measured.
    """

    bundle: str
    tail: str
    measure: str
    batch: Count
    photos: Count
    baseline: str
    rounds: int = 0
    stopped: str = ""
    figures: tuple[Figure, ...]
    bundles: tuple[str, ...] = ()
    clocks: Clocks | None = None

    @property
    def measured(self) -> list[Figure]:
        """The figures of the competitors that were measured."""
        return [figure for figure in self.figures if figure.measured]


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """All contests, and where and how they were measured.

    `machine`: what `trtkit doctor` tells. `threads`: cores that each competitor had. `settings`: the
    fields of `ProtocolSettings`. `notes`: sentences on what was left out or is doubtful. `interrupted`:
    whether Ctrl-C ended it; the contests are those of which a round was completed.
    """

    created: str = ""
    command: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    contests: tuple[Contest, ...]
    interrupted: bool = False

    def __post_init__(self) -> None:
        if any(contest.stopped == INTERRUPTED for contest in self.contests):
            object.__setattr__(self, "interrupted", True)


@dataclass(frozen=True)
class SavedReport:
    """A report that was read from a file; `plain` is its JSON, with the keys of other versions."""

    report: BenchReport
    plain: dict[str, Any]


@dataclass
class _MachineLists:
    gpus: list[dict[str, Any]] = field(default_factory=list)
    backends: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _LooseKeys:
    """What has to be right in a part of the report that keeps all keys, and a key of later versions."""

    machine: _MachineLists = field(default_factory=_MachineLists)
    warnings: tuple[str, ...] = ()


def read_report(path: str | Path) -> SavedReport:
    """The report that `trtkit bench --json` wrote to `path`, checked.

    Raises TrtkitError when the file cannot be read, is not JSON, or is something else.
    """
    path = Path(path)
    fix = "give a file that `trtkit bench --json` wrote."
    try:
        plain = json.loads(path.read_bytes())
    except OSError as error:
        raise TrtkitError(
            f"The report {path} cannot be read ({os_reason(error)}); {fix}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise TrtkitError(f"The report {path} is not JSON; {fix}") from error
    try:
        report = from_plain(plain, BenchReport)
        warnings = from_plain(plain, _LooseKeys).warnings
        _check_figures(report)
    except ValueError as error:
        raise TrtkitError(f"{path} is not a report of trtkit bench ({error}); {fix}") from error
    return SavedReport(replace(report, notes=report.notes + warnings), plain)


def _check_figures(report: BenchReport) -> None:
    """Raise ValueError for figures that no samples have."""
    for place, contest in enumerate(report.contests):
        for number, figure in enumerate(contest.figures):
            where = f"`$.contests[{place}].figures[{number}]"
            seconds, ratio = figure.seconds, figure.ratio
            if seconds is not None:
                if seconds.count < 1:
                    raise ValueError(f"Expected `int` >= 1 - at {where}.seconds.count`")
                if not 0 < seconds.p10 <= seconds.median <= seconds.p90 <= seconds.p99 < math.inf:
                    raise ValueError(f"Percentiles are not in order - at {where}.seconds`")
            if ratio is not None and not 0 < ratio.low <= ratio.high < math.inf:
                raise ValueError(f"A ratio is not above 0 and finite - at {where}.ratio`")
