"""What `trtkit bench` makes of a report: a picture, a page of HTML, a comparison with an older one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trtkit.atomic import not_written
from trtkit.benchmark.compare import Change, compare, slower, warnings
from trtkit.benchmark.plots import draw_bench
from trtkit.benchmark.report import check_report, write_report
from trtkit.benchmark.results import BenchReport, SavedReport, read_report
from trtkit.errors import TrtkitError, listed, os_reason
from trtkit.plotting import check_picture


@dataclass(frozen=True)
class ReportComparison:
    """How a report differs from the older one in the file `old`.

    `warnings`: sentences to read the changes with. `slower`: whether the new one is worse, that is
    something of trtkit is slower, missing or wrong, or nothing could be compared.
    """

    old: str
    warnings: tuple[str, ...]
    changes: tuple[Change, ...]
    slower: bool


@dataclass(frozen=True)
class Outputs:
    """What to make of a report, checked before anything is measured: a bad name must not cost the figures.

    `plot`, `report`: files to write, None for none; `old`: the report to compare with, read already.
    """

    plot: Path | None = None
    report: Path | None = None
    old_path: Path | None = None
    old: BenchReport | None = None

    @classmethod
    def check(
        cls,
        *,
        plot: str | Path | None = None,
        report: str | Path | None = None,
        compare_with: str | Path | None = None,
    ) -> Outputs:
        """The outputs of these names. The folders of the files are made if they are not there.

        `plot`: a .png, .pdf or .svg; `report`: a .html; `compare_with`: a file of `--json`. Raises
        TrtkitError when one of them cannot be written or read, or a picture cannot be drawn here.
        """
        names = (plot, report, compare_with)
        picture, page, old = (None if name is None else Path(name) for name in names)
        for path, check_ending in ((picture, check_picture), (page, check_report)):
            if path is not None:
                check_ending(path)
                _check_place(path)
        return cls(picture, page, old, None if old is None else read_report(old).report)

    def compared(self, report: BenchReport) -> ReportComparison | None:
        """The comparison of a report with the older one; None if there is no older one."""
        if self.old is None:
            return None
        changes = compare(report, self.old)
        sentences = warnings(report, self.old)
        return ReportComparison(str(self.old_path), sentences, changes, slower(changes))

    def write(self, report: BenchReport) -> tuple[Path, ...]:
        """Draw and write the files; returns their paths. Raises TrtkitError."""
        if self.plot is not None:
            draw_bench(report.contests, self.plot)
        if self.report is not None:
            write_report(report, self.report)
        return tuple(path for path in (self.plot, self.report) if path is not None)


def saved_report(path: str | Path, measuring: Mapping[str, object]) -> SavedReport:
    """The report in a file, for a run that measures nothing.

    `measuring`: values of the options of measuring by name, all of which have to be empty. Raises
    TrtkitError when one is not, or the file holds no report.
    """
    options = [name for name, value in measuring.items() if value]
    if options:
        raise TrtkitError(
            f"`--from {path}` measures nothing, so {listed(options)} cannot be combined with it; leave "
            "one of the two out."
        )
    return read_report(path)


def _check_place(path: Path) -> None:
    """Raise TrtkitError unless a file can be made beside `path`; leaves none behind."""
    if path.is_dir():
        raise TrtkitError(f"{path} is a folder; name a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise not_written(path, os_reason(error)) from error
