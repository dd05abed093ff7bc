"""Damaged files give a sentence or the same answer. `scripts/fuzz` damages more of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import CASES, Target, damaged, flipped, make_workspace, run

# How many files each case damages: what a few seconds suffice for.
COUNTS = {
    "images": 300, "onnx": 40, "checkpoint": 20, "manifest": 100, "export": 60, "ranges": 100,
    "index": 20, "footage": 20, "video": 200,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(make_once: Callable[..., Path]) -> Path:
    return make_once("fuzz", make_workspace)


def fuzz(place: Path, *words: object) -> str:
    """In a process of its own, which a library may crash."""
    line = [sys.executable, "-m", "tests.fuzz", *words, "--workspace", place]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_all_cases_have_a_count() -> None:
    assert [*COUNTS] == [*CASES]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES])
def test_damaged_files(case: str, place: Path) -> None:
    assert "sentence" in fuzz(place, case, "--count", COUNTS[case])


def test_another_answer_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "digits"
    file.write_text("0123456789" * 10)
    monkeypatch.setitem(CASES, "digits", lambda root: iter([Target(file, file.read_bytes)]))
    with pytest.raises(RuntimeError, match="digits, damage 0 of seed 0: another answer"):
        run("digits", tmp_path, seconds=5)


def test_damage_is_repeatable() -> None:
    from random import Random

    data = bytes(range(256)) * 8
    for damage in (flipped, damaged):
        first, second = ([damage(data, Random(seed)) for seed in range(50)] for _ in range(2))
        assert first == second and data not in first and len(set(first)) > 40
