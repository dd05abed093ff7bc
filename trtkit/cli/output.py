"""Printing: tables and JSON to stdout, messages to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from trtkit.serialization import to_plain


def note(message: str) -> None:
    """A message on stderr."""
    typer.echo(message, err=True)


def print_json(value: Any) -> None:
    """Indented JSON. Dataclasses become objects, paths strings, bytes hexadecimal digits."""
    typer.echo(json.dumps(to_plain(value), indent=2))


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """`print_table` of rows with their cells by column, at least one; all rows have the same columns."""
    print_table([*rows[0]], [[*row.values()] for row in rows])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on a terminal; lines of tab-separated fields under a header line when piped."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [list(columns), *cells]:
            typer.echo("\t".join(row))
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
