"""Printing: tables and JSON to stdout, messages to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What moves the cursor, sets titles and colours, ends a line, or turns the order of letters: controls,
# separators of lines, marks of direction. And halves of characters, which no encoding has.
_ACTIVE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_QUOTED = re.compile(r'[",\r\n]')
# What begins a formula where a spreadsheet opens a CSV file.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def printable(text: str) -> str:
    r"""`text` on one line, without anything that a terminal acts upon: such characters as escapes.

    Names of files, classes and cameras come from anywhere.

    >>> print(printable("a\x1b]0;title\x07.jpg"))
    a\x1b]0;title\x07.jpg
    """
    return _ACTIVE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def csv_cell(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula: with an apostrophe before such a start."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_line(cells: Iterable[object]) -> str:
    """A line of a CSV file. The csv module leaves a lone carriage return unquoted, which begins a line."""
    texts = (str(cell) for cell in cells)
    return (
        ",".join(
            '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text for text in texts
        )
        + "\n"
    )


def note(message: str) -> None:
    """A message on stderr, on one line."""
    try:
        sys.stderr.write(f"{printable(message)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        # There is no other place for messages. What the stream still holds would fail again at the end.
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115


def put(line: str = "") -> None:
    """A line of the result on stdout."""
    sys.stdout.write(f"{line}\n")


def print_json(value: Any) -> None:
    """Indented JSON. Dataclasses become objects, paths strings, bytes hexadecimal digits."""
    from trtkit.serialization import to_plain

    put(json.dumps(to_plain(value), indent=2))


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """`print_table` of rows with their cells by column, at least one; all rows have the same columns."""
    print_table([*rows[0]], [[*row.values()] for row in rows])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on a terminal; lines of tab-separated fields under a header line when piped."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [list(columns), *cells]:
            put("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
