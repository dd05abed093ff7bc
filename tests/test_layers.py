"""The import graph of the package: rooms are layers, nothing goes in circles, privates stay private.

Imports inside functions and under TYPE_CHECKING count like those at the top of a file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "trtkit"

# From top to bottom: a room imports those below it, never one above.
ROOMS = (
    "cli",
    "api",
    "video",
    "building",
    "benchmark",
    "costs",
    "training",
    "quantization",
    "evaluation",
    "runtime",
    "store",
    "photos",
    "engines",
    "graph",
    "models",
    "shared",
)
# Modules of the top level that start the program instead of being shared by it.
STARTERS = ("trtkit.__main__", "trtkit.launch", "trtkit")


def module_of(path: Path) -> str:
    parts = ["trtkit", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """(module, name) of each import from the package; name is None for a whole module."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "trtkit"
        ):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, None) if inner in MODULES else (node.module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "trtkit":
                    yield alias.name, None


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "shared"


TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in MODULES.items()}
GRAPH = {
    module: {target for target, _ in imports_of(tree)} - {module} for module, tree in TREES.items()
}


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports that go from a room to one above it."""
    rank = {room: number for number, room in enumerate(ROOMS)}
    return [
        f"{module} imports {target}"
        for module, targets in graph.items()
        if module not in STARTERS
        for target in sorted(targets)
        if target not in STARTERS and rank[room_of(target)] < rank[room_of(module)]
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of an import circle, the first again at the end; empty when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def privates(trees: dict[str, ast.Module]) -> list[str]:
    """Uses of a name with one leading underscore that belongs to another module of the package."""
    uses = []
    for module, tree in trees.items():
        aliases = {}
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("trtkit"):
                continue
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    uses.append(f"{module} imports {node.module}.{alias.name}")
                if f"{node.module}.{alias.name}" in MODULES:
                    aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        uses += [
            f"{module} uses {aliases[node.value.id]}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
        ]
    return uses


def test_every_package_is_a_room() -> None:
    packages = {path.name for path in ROOT.iterdir() if any(path.glob("*.py"))}
    assert packages == set(ROOMS) - {"shared"}


def test_a_room_imports_only_rooms_below_it() -> None:
    assert upward(GRAPH) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    # The top-level package imports its functions on first use, so it takes part in no circle.
    assert circle({module: targets - {"trtkit"} for module, targets in GRAPH.items()}) == []


def test_no_module_uses_private_names_of_another() -> None:
    assert privates(TREES) == []


@pytest.mark.parametrize("room", ["store", "photos"])
def test_an_upward_import_is_noticed(room: str) -> None:
    graph = {f"trtkit.{room}.files": {"trtkit.runtime.pipeline"}, "trtkit.runtime.pipeline": set()}
    assert upward(graph) == [f"trtkit.{room}.files imports trtkit.runtime.pipeline"]


def test_a_circle_is_noticed() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_a_private_import_is_noticed() -> None:
    source = "from trtkit.graph import files\nfrom trtkit.bundle import _x\nfiles._read()\nfiles.__doc__\n"
    assert privates({"trtkit.new": ast.parse(source)}) == [
        "trtkit.new imports trtkit.bundle._x",
        "trtkit.new uses trtkit.graph.files._read",
    ]
