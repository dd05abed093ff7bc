"""Damaged files give a sentence or the same answer. `scripts/fuzz` damages more of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import CASES, Target, damaged, flipped, make_workspace, run

# Cases that take as long for each damaged file, and how many files they damage.
GROUPS = {
    "images video checkpoint manifest export ranges": 80,
    "index footage": 40,
    "onnx": 25,
}
FLIPS = "checkpoint manifest export ranges index footage"


@pytest.fixture(scope="module")
def place(make_once: Callable[..., Path]) -> Path:
    return make_once("fuzz", make_workspace)


def fuzz(place: Path, *words: object) -> str:
    """In a process of its own, which a library may crash."""
    line = [sys.executable, "-m", "tests.fuzz", *words, "--workspace", place]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_all_cases_are_in_a_group() -> None:
    assert sorted(" ".join(GROUPS).split()) == sorted(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("cases", GROUPS)
def test_damaged_files(cases: str, place: Path) -> None:
    lines = fuzz(place, *cases.split(), "--count", GROUPS[cases]).splitlines()
    assert len(lines) == len(cases.split()) and all("sentence" in line for line in lines)


@pytest.mark.slow
def test_flipped_bits(place: Path) -> None:
    lines = fuzz(place, *FLIPS.split(), "--flips", "--count", 25).splitlines()
    assert [line.split(":")[0] for line in lines] == FLIPS.split()
    for line in lines:
        # Every damaged file was answered in one of the two ways that are right.
        counts = [part.split() for part in line.partition(":")[2].split(",")]
        assert sum(int(count) for count, _ in counts) == 25
        assert {outcome for _, outcome in counts} <= {"same", "sentence"}


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
