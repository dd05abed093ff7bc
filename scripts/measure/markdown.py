"""Tables and targets of the measurements as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "**NOT met**"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines: list[Sequence[str]] = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
