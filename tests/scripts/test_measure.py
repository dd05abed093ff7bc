"""The measuring scripts run and write what they measured. How fast anything was is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trtkit.engines.registry import can_build

MEASURE = Path(__file__).resolve().parents[2] / "scripts" / "measure"
SCRIPTS = sorted(
    path.stem
    for path in MEASURE.glob("*.py")
    if path.stem not in ("common", "subjects", "trainings") and not path.stem.startswith("video_")
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
    assert len(SCRIPTS) == 19


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
        "cuts", tmp_path, "--models", "resnet18", "--image-size", 64, "--photos", 2, "--rounds", 2,
        "--workspace", tmp_path / "workspace",
    )  # fmt: skip
    found = result["resnet18-64"]
    assert list(found["measured"]) == [str(cut) for cut in range(1, 9)]
    assert all(0 < each["warm"] < each["cold"] for each in list(found["measured"].values())[4:])
    assert all(len(each) == 2 for each in found["rounds"].values())
    assert 0 <= found["chosen"] <= 8
    # Two are beside the others: how far profile and measurement are from themselves.
    assert [target["met"] is None for target in result["targets"]].count(True) == 2
    assert len(result["targets"]) == 5
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


@pytest.mark.slow
def test_int8(tmp_path: Path) -> None:
    pytest.importorskip("modelopt", reason="NVIDIA ModelOpt is not installed")
    result = measured(
        "int8", tmp_path, "--model", "resnet18", "--image-size", 64, "--cut", 2, "--batch", 2,
        "--images", 8, "--photos", 2, "--rounds", 1,
    )  # fmt: skip
    kernels = result["forms"]["convolutions"]
    assert kernels["fp32, as trtkit builds it"] == [0, 20]
    assert kernels["int8, as trtkit builds it"] == [20, 20]
    assert len(kernels) == 5
    maps = result["feature_maps"]
    assert {name: found["dtype"] for name, found in maps.items()} == {
        "int8": "uint8", "fp16": "float16", "fp32": "float32",
    }  # fmt: skip
    assert maps["fp32"]["bytes"] == 2 * maps["fp16"]["bytes"] == 4 * maps["int8"]["bytes"]
    assert maps["int8"]["kept"]["none"] > maps["int8"]["kept"]["zstd"] > 0
    assert 0 < maps["int8"]["zeros"] < 1
    met = [target["met"] for target in result["targets"]]
    # The first is how fast it is.
    assert met[1:] == [True] * (3 if can_build("tensorrt-rtx") else 1)


@pytest.mark.slow
def test_int8_calibration(tmp_path: Path) -> None:
    pytest.importorskip("modelopt", reason="NVIDIA ModelOpt is not installed")
    result = measured(
        "int8_calibration", tmp_path, "--model", "resnet18", "--image-size", 64, "--few", 4,
        "--many", 8,
    )  # fmt: skip
    assert [found["photos"] for found in result["calibration"].values()] == [4, 8]
    for found in result["calibration"].values():
        assert 0 < found["largest"] <= found["peak"]
        assert found["seconds"] > 0


@pytest.mark.slow
def test_int8_accuracy(tmp_path: Path) -> None:
    pytest.importorskip("modelopt", reason="NVIDIA ModelOpt is not installed")
    result = measured(
        "int8_accuracy", tmp_path, "--architectures", "resnet18", "--image-size", 32, "--cut", 2,
        "--count", 10, "--epochs", 1, "--renderings", 2, "--images", 12, "--min-agreement", 0,
    )  # fmt: skip
    assert result["photos"] == {"train": 60, "calibration": 40, "test": 40}
    scores = result["models"]["resnet18"]
    assert scores["fp32"]["images"] == scores["fp16"]["images"] == 40
    assert scores["fp32"]["agreement"] is None and scores["fp16"]["agreement"] > 0.9
    assert scores["fp32"]["gate"] is None and scores["fp16"]["gate"] is None
    assert len(scores) == 4
    for score, target in zip(list(scores.values())[2:], result["targets"], strict=True):
        # One of few held-out photos that is lost is more than a point of top-1.
        if score["refused"] is None:
            assert (score["images"], score["gate"]["images"]) == (40, 28)
            assert 0 <= score["gate"]["kept_flops_share"] < 1
        assert target["met"] == (score["refused"] is None)


@pytest.mark.slow
def test_video(tmp_path: Path) -> None:
    result = measured(
        "video", tmp_path, "--workspace", tmp_path, "--image-size", 32, "--crops", 20, "--epochs", 1,
        "--seconds", 12, "--size", "320x240", "--density", 2, "--reached", 0.2, "--sample", 200,
        "--objects", 500, "--ingests", 1, "--kills", 2, "--rounds", 1,
    )  # fmt: skip
    found = result["found"]["the expensive model on everything"]
    assert 0 < found["recall"] <= 1 and 0 < found["precision"] <= 1
    assert result["ingest"]["frames"] == 360
    assert result["counts"]["objects"] == result["ingest"]["objects"]
    ratios = result["results"]["A question, mean of 10 classes, cut 2"]["ratios"]
    assert set(ratios) == {"everything", "candidates", "feature maps", "clusters", "remembered"}
    assert ratios["remembered"] < 1 < ratios["everything"]
    for seconds in result["first"].values():
        assert 0 < len(seconds) <= 10 and min(seconds) > 0
    assert [*result["first"]] == ["kept", "off"]
    assert result["kills"] == {"kills": 2, "ingests": result["kills"]["ingests"], "equal": True}
