"""Who runs an engine outside `trtkit/engines`: the runner, and the loops that it is measured against."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.test_layers import TREES

RUNNERS = {
    "trtkit.runtime.runner: HostRunner",
    # What the runner on a GPU queues its engines through.
    "trtkit.runtime.device.runs: PreparedRuns",
    # Competitors of the benchmark, without anything of trtkit's: TensorRT's and ONNX Runtime's own calls.
    "trtkit.benchmark.tensorrt_engines: BareLoop",
    "trtkit.benchmark.onnxruntime_networks: BoundSession",
}
LIBRARY_CALLS = {
    "execute_async_v2",
    "execute_async_v3",
    "execute_v2",
    "run_with_iobinding",
    "run_with_ort_values",
}


def runs_of(tree: ast.Module) -> Iterator[str]:
    """The classes and functions of a module that run an engine, by what they call it."""
    engines = set(engine_names(tree))
    for owner in tree.body:
        name = getattr(owner, "name", "")
        if any(is_run(node, engines) for node in ast.walk(owner)):
            yield name


def engine_names(tree: ast.Module) -> Iterator[str]:
    """Variables that hold what a backend loaded, and arguments whose type is an engine."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and loads_engine(node.value):
            yield from (ast.unparse(target) for target in node.targets)
        annotation = node.annotation if isinstance(node, ast.arg) else None
        if annotation is not None and ast.unparse(annotation).endswith("Engine"):
            yield node.arg


def loads_engine(value: ast.expr) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == "load"
        and "backend" in ast.unparse(node.value).lower()
        for node in ast.walk(value)
    )


def is_run(node: ast.AST, engines: set[str]) -> bool:
    if not isinstance(node, ast.Attribute):
        return False
    owner = ast.unparse(node.value)
    if node.attr == "enqueue":
        return "binding" in owner.lower()
    if node.attr == "run":
        name = owner.partition("(")[0]
        named = "engine" in name or "session" in name
        return owner in engines or named or loads_engine(node.value)
    return node.attr in LIBRARY_CALLS


def test_only_the_runner_and_the_bare_loops_run_an_engine() -> None:
    runs = {
        f"{module}: {name}"
        for module, tree in TREES.items()
        if not module.startswith("trtkit.engines")
        for name in runs_of(tree)
    }
    assert runs == RUNNERS


@pytest.mark.parametrize(
    "line",
    [
        "self._engines[stage.name].run(feeds)",
        "net = OnnxRuntimeBackend(exact=True).load(path)\n    net.run({'x': images})",
        "get_backend('auto').load(path).run(feeds)",
        "def inner(net: TensorRTEngine): return net.run(feeds)",
        "step = self._context.execute_async_v3",
        "Graph(stream, placed.binding.enqueue)",
    ],
)
def test_a_run_is_noticed(line: str) -> None:
    assert [*runs_of(ast.parse(f"def measure():\n    {line}"))] == ["measure"]


def test_a_runner_s_run_is_no_engine_s() -> None:
    source = "def measure():\n    model.runner.run([ref], images)\n    runner.enqueue(slot, 4)"
    assert [*runs_of(ast.parse(source))] == []
