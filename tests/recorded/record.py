"""Record what trtkit computes and prints, so that a change which is to change nothing can prove it.

    python -m tests.recorded.record              writes tests/recorded/outputs.json and arrays.npz anew
    python -m tests.recorded.record OUT          writes them to the folder OUT

The commands run one after the other in a workspace in a temporary folder. tests/recorded/test_recorded.py
records again and compares.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import pickle
import re
import runpy
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recorded.commands import COMMANDS, PARTS, Step
from tests.recorded.fingerprint import fingerprint, installed_version
from tests.recorded.logits import arrays
from tests.recorded.normalise import form, printed, written
from tests.recorded.workspace import make_inputs

HERE = Path(__file__).resolve().parent
WIDTH = 118
OUTPUTS, ARRAYS = "outputs.json", "arrays.npz"
# The names of what trtkit keeps in these folders are of no interest, nor is their number.
UNLISTED = ("cache", "other-cache", "training-cache", "user-cache")
OPTION = re.compile(r"(?:^|[ ,])(--?[a-z][a-z0-9-]*)", re.MULTILINE)


def main() -> None:
    out = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HERE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        options = part_of_record("options", folder)
        parts = {part: part_of_record(part, folder) for part in PARTS}
        recorded = part_of_record("arrays", folder)
    out.mkdir(parents=True, exist_ok=True)
    outputs = {"fingerprint": fingerprint(), "options": options, "parts": parts}
    (out / OUTPUTS).write_text(in_lines(outputs) + "\n")
    np.savez_compressed(out / ARRAYS, **recorded)


def part_of_record(part: str, folder: Path) -> dict[str, Any]:
    """The options of every command, the steps of a part by their names, or the arrays by theirs.

    It is made in `folder`, and what it needs before it, unless it is there. Raises RuntimeError with the
    traceback when the recorder itself failed.
    """
    order = ("options", *PARTS, "arrays")
    root = folder / "workspace"
    if not root.exists():
        root.mkdir(parents=True)
        _apart(make_inputs, root, root)
    for name in order[: order.index(part) + 1]:
        result = folder / f"{name}.pickle"
        if not result.exists():
            value = _apart(_attempt, root, name, root)
            result.write_bytes(pickle.dumps(value))
            if name == order[-1]:
                shutil.rmtree(root)
    value = pickle.loads((folder / f"{part}.pickle").read_bytes())
    if isinstance(value, str):
        raise RuntimeError(value)
    return value


def in_lines(value: Any, indent: int = 0) -> str:
    """JSON, with what fits into a line in one line."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) + indent <= WIDTH or not isinstance(value, dict | list):
        return text
    if isinstance(value, list):
        parts = [in_lines(part, indent + 1) for part in value]
    else:
        parts = [f"{json.dumps(key)}: {in_lines(part, indent + 1)}" for key, part in value.items()]
    left, right = "{}" if isinstance(value, dict) else "[]"
    pad = "\n" + " " * (indent + 1)
    return f"{left}{pad}{f',{pad}'.join(parts)}\n{' ' * indent}{right}"


def _apart(function: Callable[..., Any], root: Path, *arguments: Any) -> Any:
    """What `function` returns in a process of its own, whose caches are in the workspace `root`.

    Some settings hold for a whole process: threads, and the pool that the engines share.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TRTKIT_WORKSPACE", "TRTKIT_STORE"):
            patch.delenv(name, raising=False)
        patch.setenv("TRTKIT_CACHE", str(root / "cache"))
        patch.setenv("XDG_CACHE_HOME", str(root / "user-cache"))
        for name, value in (("TRTKIT_GRAPHS", "off"), ("OMP_NUM_THREADS", "1"), ("COLUMNS", "100")):
            patch.setenv(name, value)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()


def _attempt(part: str, root: Path) -> dict[str, Any] | str:
    """The part, or the traceback of what went wrong."""
    os.chdir(root)
    try:
        if part == "options":
            return {name or "trtkit": _options_of(name) for name in COMMANDS}
        if part == "arrays":
            return arrays(root)
        with _simulated_gpu() if part == "gpu" else contextlib.nullcontext():
            present = [s for s in PARTS[part] if s.needs is None or installed_version(s.needs)]
            return {step.name: _run_step(step, root) for step in present}
    except Exception:  # noqa: BLE001
        return f"The part {part} could not be recorded.\n{traceback.format_exc()}"


@contextlib.contextmanager
def _simulated_gpu() -> Iterator[None]:
    from tests.engines.simulated import install

    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        # The simulation has sessions of its own, with which a thread pool of trtkit's is in conflict.
        patch.setattr("trtkit.cli.main.own_process", lambda: None)
        yield


def _run_step(step: Step, root: Path) -> dict[str, Any]:
    if step.before is not None:
        step.before(root)
    before = _files(root)
    code, out, err = run(*step.line)
    value: dict[str, Any] = {"line": " ".join(step.line), "code": code}
    if code == 2 or "Traceback (most recent call last)" in err:
        return value | {"says": _kind_of_error(out, err)}
    if step.unproved and code in (0, 1):
        value["code"] = "0 or 1"
    value["prints"] = prints = printed(out, columns=step.columns)
    after = _files(root)
    files = {name: written(root / name) for name in after if before.get(name) != after[name]}
    value["writes"] = {name: _beside(content, prints) for name, content in files.items()}
    if step.measured:
        value["prints"], value["writes"] = form(prints), form(value["writes"])
    if gone := sorted(before.keys() - after.keys()):
        value["removes"] = gone
    return value


def _beside(content: Any, prints: Any) -> Any:
    """A file's content without what was printed as well, so that it is not recorded twice."""
    if not isinstance(content, dict) or not isinstance(prints, dict):
        return content
    same = [key for key in content if key in prints and content[key] == prints[key]]
    if len(same) < 3:
        return content
    rest = {key: content[key] for key in content if key not in same}
    return {"as printed": ", ".join(same)} | rest


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `python -m trtkit` with these arguments."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    argv, sys.argv = sys.argv, ["trtkit", *arguments]
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            runpy.run_module("trtkit", run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:  # noqa: BLE001
        # As Python itself ends then; the other commands are still to be compared.
        code = 1
        streams[1].write(traceback.format_exc())
    finally:
        sys.argv = argv
    out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    return code, out, err


def _kind_of_error(out: str, err: str) -> str:
    """`one sentence`, `usage`, or what is wrong with it."""
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    if "Traceback" in err:
        return f"a traceback: {lines[-1]}"
    if out:
        return "something on standard output"
    if lines and lines[0].startswith("Usage: "):
        return "usage"
    if len(errors) != 1 or lines[-1] != errors[0] or not errors[0].endswith((".", "?")):
        return "not one sentence at the end of standard error"
    return "one sentence"


def _options_of(command: str) -> list[str]:
    _, text, _ = run(*command.split(), "--help")
    lines = [line.strip() for line in text.partition("Options:")[2].splitlines()]
    found = [name for line in lines if line.startswith("-") for name in OPTION.findall(line[:40])]
    listed = text.partition("Commands:")[2].splitlines()
    return sorted(set(found)) + [line.split()[0] for line in listed if re.match(r"  [a-z]", line)]


def _files(root: Path) -> dict[str, tuple[int, int]]:
    """Every file, with what changes when it is written."""
    states = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and name.parts[0] not in UNLISTED and not path.name.endswith(".lock"):
            state = path.stat()
            states[str(name)] = (state.st_mtime_ns, state.st_ino)
    return states


if __name__ == "__main__":
    main()
