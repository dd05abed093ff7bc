"""The measuring scripts run and write what they measured. How fast anything was is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MEASURE = Path(__file__).resolve().parents[2] / "scripts" / "measure"
SCRIPTS = sorted(
    path.stem
    for path in MEASURE.glob("*.py")
    if path.stem not in ("common", "subjects", "trainings")
)


def run(script: str, *options: object) -> str:
    command = [sys.executable, str(MEASURE / f"{script}.py"), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(script: str, tmp_path: Path, *options: object) -> dict[str, Any]:
    file = tmp_path / "result.json"
    printed = run(script, *options, "--json", file)
    result: dict[str, Any] = json.loads(file.read_text())
    for target in result["targets"]:
        assert f"target: {target['target']}  measured: {target['measured']}" in printed
    for table in result["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert result["cpu"] and result["cores"] and result["packages"] and result["command"]
    return result


def test_all_scripts_are_known() -> None:
    assert len(SCRIPTS) == 15


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str) -> None:
    assert "usage:" in run(script, "--help")


def test_startup(tmp_path: Path) -> None:
    result = measured("startup", tmp_path, "--rounds", 1)
    timing = result["results"]["One process"]
    assert timing["ratios"][timing["base"]] == 1
    assert timing["medians"]["trtkit --help"] > 0


@pytest.mark.slow
def test_chain_and_warm_share_a_workspace(tmp_path: Path) -> None:
    place = tmp_path / "workspace"
    small = ("--model", "resnet18", "--cut", 2, "--rounds", 1, "--workspace", place)
    chain = measured("chain", tmp_path, *small, "--batch", 1, "--precision", "fp16")
    assert set(next(iter(chain["results"].values()))["medians"]) == {
        "unsplit",
        "chain",
        "unsplit again",
    }
    exported = (place / "export" / "resnet18-224.onnx").stat().st_mtime_ns
    warm = measured("warm", tmp_path, *small, "--photos", 4, "--batch", 2)
    assert len(warm["targets"]) == 1
    assert (place / "export" / "resnet18-224.onnx").stat().st_mtime_ns == exported


@pytest.mark.slow
def test_accuracy(tmp_path: Path) -> None:
    result = measured("accuracy", tmp_path, "--architectures", "resnet18", "--photos", 2)
    cuts = result["architectures"]["resnet18"]["cuts"]
    assert [cut["cut"] for cut in cuts] == list(range(9))
    assert all(target["met"] for target in result["targets"])


@pytest.mark.slow
def test_transfer(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    small = ("--architectures", "resnet18", "--runs", 1, "--epochs", 1, "--adapt-epochs", 1)
    result = measured("transfer", tmp_path, *small, "--count", 10, "--markdown", page)
    (modes,) = result["runs"]["resnet18"]
    assert len(modes) == 6 and all(0 <= mode["top1"] <= 1 for mode in modes.values())
    assert all(mode["seconds"] > 0 for mode in modes.values())
    assert "| resnet18 | bottleneck |" in page.read_text()
    assert "--workspace" not in page.read_text().splitlines()[4]


@pytest.mark.slow
def test_cuts(tmp_path: Path) -> None:
    result = measured(
        "cuts", tmp_path, "--models", "resnet18", "--image-size", 64, "--photos", 2, "--rounds", 1,
        "--workspace", tmp_path / "workspace",
    )  # fmt: skip
    found = result["resnet18-64"]
    assert list(found["measured"]) == [str(cut) for cut in range(1, 9)]
    assert all(0 < each["warm"] < each["cold"] for each in list(found["measured"].values())[4:])
    assert 0 <= found["chosen"] <= 8
    assert len(result["targets"]) == 3
    rows = result["tables"][0]["rows"]
    assert [row[-1] for row in rows].count("chosen") == (1 if found["chosen"] else 0)


@pytest.mark.slow
def test_an_empty_engine_takes_next_to_nothing(tmp_path: Path) -> None:
    result = measured("overhead", tmp_path, "--rounds", 3, "--photos", 2)
    seconds = result["samples"]
    assert len(seconds["empty engine"]) == len(seconds["resnet18 at 32 x 32"]) == 3
    assert max(seconds["empty engine"]) < min(seconds["resnet18 at 32 x 32"])


@pytest.mark.slow
def test_two_runs_overlap_or_not(tmp_path: Path) -> None:
    result = measured(
        "overlap", tmp_path, "--rounds", 1, "--photos", 2, "--seconds", 0.2, "--image-size", 32
    )
    ((first, second),) = result["pairs"]
    overlap = first[0] <= second[2] and second[0] <= first[2]
    assert result["targets"][0]["measured"] == f"{int(overlap)} of 1"
