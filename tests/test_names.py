"""Names and sizes: one meaning for each type name, no names that say nothing, short files and functions."""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for room in ("trtkit", "scripts")
    for path in (ROOT / room).rglob("*")
    if path.suffix == ".py"
    or (path.is_file() and not path.suffix and b"python" in path.read_bytes().partition(b"\n")[0])
)
MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 60
# Participles and places that leave open what a variable holds.
VAGUE = frozenset(
    (
        "found", "each", "said", "told", "asked", "mine", "theirs", "wish", "seen", "taken", "given",
        "elsewhere", "beside", "doubts", "shown",
    )
)  # fmt: skip
# Fields that programs read as keys of JSON, which are never renamed.
JSON_KEYS = {
    ("trtkit/video/tuning/options.py", "found"),
    ("trtkit/video/tuning/tune.py", "asked"),
}


def parsed() -> Iterator[tuple[str, ast.Module]]:
    for path in FILES:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def bound_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that the code gives to something, and the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name is not None:
            yield node.name, node.lineno
        elif isinstance(node, ast.alias) and node.asname is not None:
            yield node.asname, node.lineno


def own_lines(function: ast.FunctionDef, file: str) -> int:
    """The function's lines; in a command's module without its signature, which declares the options."""
    first = function.body[0].lineno if file.startswith("trtkit/cli/") else function.lineno
    return (function.end_lineno or first) - first + 1


def test_a_type_name_has_one_meaning() -> None:
    places = collections.defaultdict(list)
    for file, tree in parsed():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(file)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_names_say_what_they_hold() -> None:
    vague = [
        f"{file}:{line} {name}"
        for file, tree in parsed()
        for name, line in bound_names(tree)
        if name.strip("_").lower() in VAGUE and (file, name) not in JSON_KEYS
    ]
    assert vague == []


@pytest.mark.parametrize(
    "code",
    [
        "found = 1", "def each(): ...", "class _Wish: ...", "def show(told): ...", "self.asked = 1",
        "x = [seen for seen in y]", "import mine as theirs", "for _, (_, given) in x: ...",
    ],
)  # fmt: skip
def test_vague_names_are_noticed_wherever_they_are_bound(code: str) -> None:
    assert {name.strip("_").lower() for name, _ in bound_names(ast.parse(code))} & VAGUE


def test_files_are_short() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {file: count for file, count in lines.items() if count > MOST_FILE_LINES} == {}


def test_functions_are_short() -> None:
    long = {
        f"{file}:{node.lineno} {node.name}": own_lines(node, file)
        for file, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and own_lines(node, file) > MOST_FUNCTION_LINES
    }
    assert long == {}
