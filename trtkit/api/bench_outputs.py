"""What `trtkit bench` makes of a report: a picture, a page of HTML, a comparison with an older one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trtkit.atomic import not_written
from trtkit.benchmark.compare import Change, compare, slower, warnings
from trtkit.benchmark.plots import draw_bench
from trtkit.benchmark.report import check_report, write_report
from trtkit.benchmark.saved import SavedReport, read_report
from trtkit.errors import TrtkitError, listed, os_reason
from trtkit.plotting import check_picture

__all__ = ["Comparison", "Outputs", "stored"]


@dataclass(frozen=True)
class Comparison:
    """How a report differs from the older one in the file `old`.

    `warnings`: sentences to read the changes with. `slower`: whether the new one is worse, that is
    something of trtkit is slower, missing or wrong, or nothing could be compared.
    """

    old: str
    warnings: tuple[str, ...]
    changes: tuple[Change, ...]
    slower: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outputs:
    """What was asked for, checked before anything is measured: a bad name must not cost the figures.

    `plot`, `report`: files to write, None for none; `old`: the report to compare with, read already.
    """

    plot: Path | None = None
    report: Path | None = None
    old_path: Path | None = None
    old: SavedReport | None = None

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
        picture, page = (None if path is None else Path(path) for path in (plot, report))
        if picture is not None:
            check_picture(picture)
            _check_place(picture)
        if page is not None:
            check_report(page)
            _check_place(page)
        if compare_with is None:
            return cls(picture, page)
        return cls(picture, page, Path(compare_with), read_report(compare_with))

    def compared(self, report: SavedReport) -> Comparison | None:
        """The comparison of a report, in its JSON form, with the older one; None if none was asked."""
        if self.old is None:
            return None
        changes = compare(report, self.old)
        return Comparison(str(self.old_path), warnings(report, self.old), changes, slower(changes))

    def write(self, report: SavedReport) -> tuple[Path, ...]:
        """Draw and write what was asked for of a report in its JSON form; the files. Raises TrtkitError."""
        if self.plot is not None:
            draw_bench(report, self.plot)
        if self.report is not None:
            write_report(report, self.report)
        return tuple(path for path in (self.plot, self.report) if path is not None)


def stored(path: str | Path, measuring: Mapping[str, object]) -> SavedReport:
    """The report in a file, for a run that measures nothing.

    `measuring`: options of measuring by name, none of which may have been given with it. Raises
    TrtkitError when one was, or the file holds no report.
    """
    given = [name for name, value in measuring.items() if value]
    if given:
        raise TrtkitError(
            f"The report in {path} was asked for, which measures nothing, together with "
            f"{listed(given)}; leave one of the two out."
        )
    return read_report(path)


def _check_place(path: Path) -> None:
    """Raise TrtkitError unless a file can be made beside `path`; leaves none behind."""
    if path.is_dir():
        raise TrtkitError(f"A file was asked for in {path}, which is a folder; name a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise not_written(path, os_reason(error)) from error
