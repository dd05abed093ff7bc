"""The base install is enough for help, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import trtkit

HEAVY = (
    "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "safetensors", "cv2", "PIL",
    "simplejpeg", "numpy", "sklearn", "matplotlib", "tensorrt", "lz4", "zstandard", "sqlite3", "av",
    "pyarrow", "msgspec", "jinja2",
    "rich.console",
)  # fmt: skip
COMMANDS = (
    [], ["doctor"], ["train"], ["export"], ["cuts"], ["build"], ["infer"], ["evaluate"],
    ["bench"], ["profile"], ["ingest"], ["query"], ["tune"],
    ["cache"], ["cache", "info"], ["cache", "verify"], ["cache", "clear"],
    ["store"], ["store", "info"], ["store", "verify"], ["store", "compact"], ["store", "export"],
)  # fmt: skip

# Makes every heavy package unimportable, so that the help must do without it.
HELP = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r} or name in {heavy!r}:
            raise ImportError(f"{{name}} was imported for help")
sys.meta_path.insert(0, Refuse())
sys.argv = ["trtkit", *{arguments!r}, "--help"]
from trtkit.cli.main import run
run()
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda a: " ".join(a) or "trtkit")
def test_help_needs_nothing_heavy(arguments):
    ended = python(HELP.format(heavy=HEAVY, arguments=arguments))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Usage: trtkit")


def test_every_command_is_among_those_tested():
    from trtkit.cli.main import app

    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    names |= {group.name for group in app.registered_groups}
    assert names == {arguments[0] for arguments in COMMANDS if arguments}


BASE = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {
            "torch", "torchvision", "onnx", "onnxscript", "safetensors", "sklearn", "matplotlib",
            "modelopt",
        }:
            raise ImportError(f"{name} is no part of the base install")
sys.meta_path.insert(0, Refuse())
"""


def test_a_bundle_runs_without_torch_and_onnx(built, tmp_path):
    from tests.pictures import write_photos

    write_photos(tmp_path / "photos", count=2, size=(80, 80))
    ended = python(
        BASE
        + f"""
import trtkit
with trtkit.open_bundle(workspace={str(built)!r}) as pipeline:
    print([len(result.predictions) for result in pipeline.infer([{str(tmp_path / "photos")!r}])])
"""
    )
    assert ended.stdout == "[5, 5]\n", ended.stderr


def modules() -> list[str]:
    root = Path(trtkit.__file__).parent
    return [
        m.name for m in pkgutil.walk_packages([str(root)], "trtkit.") if "__main__" not in m.name
    ]


def test_every_module_of_the_base_install_imports_without_the_extras():
    needs_extras = ("trtkit.graph.", "trtkit.models.", "trtkit.training.", "trtkit.costs.")
    # What a request for int8 says is read without onnx; what carries it out is not.
    needs_extras += tuple(
        f"trtkit.quantization.{name}"
        for name in ("accuracy", "calibrate", "quantizer", "search", "worker")
    )
    names = [n for n in modules() if not n.startswith(needs_extras)]
    assert len(names) > 30
    ended = python(BASE + f"for name in {names!r}: importlib.import_module(name)")
    assert ended.returncode == 0, ended.stderr


def test_what_the_package_offers_is_there():
    for name in trtkit.__all__:
        assert getattr(trtkit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trtkit.nothing  # type: ignore[attr-defined]


LAYERS = (
    "cli", "api", "profiling", "benchmark", "training", "quantization", "evaluation", "runtime",
    "engines", "graph", "models",
)  # fmt: skip


def test_a_lower_layer_never_imports_a_higher_one():
    import ast

    root = Path(trtkit.__file__).parent
    wrong = []
    for level, layer in enumerate(LAYERS):
        higher = LAYERS[:level]
        for path in (root / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module:
                    target = node.module.split(".")
                    if target[0] == "trtkit" and len(target) > 1 and target[1] in higher:
                        wrong.append(f"{path.relative_to(root)}: {node.module}")
    assert wrong == []
