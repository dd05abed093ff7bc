"""The measurements run and report what they measured. How fast anything was is not tested.

They share workspaces: photos, exports and trainings that one test made are there for the next one.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEASURE = ROOT / "scripts" / "measure"
ONE_PROCESS = Path(__file__).with_name("one_process.py")
RESULTS = ROOT / "docs" / "results"
NAMES = (
    "accuracy", "baselines", "chain", "cuts", "endtoend", "features", "int8",
    "int8-accuracy", "int8-calibration", "kills", "memory", "overhead", "overlap", "people", "published",
    "reuse", "saved", "startup", "store", "tracks", "transfer", "tree", "video", "warm",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, full_exports: Path) -> Path:
    """A workspace for the networks as they are, which int8 needs."""
    return with_exports(tmp_path_factory.mktemp("workspace"), full_exports)


@pytest.fixture(scope="module")
def thin_place(tmp_path_factory: pytest.TempPathFactory, exports: Path) -> Path:
    """A workspace for thin networks."""
    return with_exports(tmp_path_factory.mktemp("thin-workspace"), exports)


def with_exports(root: Path, exports: Path, size: int = 64) -> Path:
    """The workspace `root`, where the session's exports, at 64 x 64, stand for those of `size`."""
    (root / "export").mkdir()
    for model in exports.glob("resnet*.onnx"):
        shutil.copy(model, root / "export" / f"{model.stem}-{size}.onnx")
    return root


def run(*words: object, script: Path = MEASURE) -> str:
    command = [sys.executable, str(script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(name: str, place: Path, *options: object, networks: str = "") -> dict[str, Any]:
    """Its result; with `networks` trtkit's commands do not run in processes of their own."""
    file = place / "result.json"
    file.unlink(missing_ok=True)
    words = (name, *options, "--out", file, "--workspace", place)
    printed = run(networks, *words, script=ONE_PROCESS) if networks else run(*words)
    result: dict[str, Any] = json.loads(file.read_text())[name]
    page = file.with_suffix(".md").read_text()
    assert result["figures"]
    for figure in result["figures"]:
        row = f"| {figure['what']} | {figure['measured']} | {figure['compared']} | {figure['target']} |"
        assert row in printed and row in page
        assert (figure["met"] is None) == (not figure["target"])
    for timing in result.get("results", {}).values():
        assert timing["ratios"][timing["base"]] == 1
        assert {*timing["medians"]} == {*timing["p10_p90"]} == {*timing["samples"]}
    assert result["cpu"] and result["cores"] and result["packages"] and result["date"]
    assert "--out" not in result["command"] and "--workspace" not in result["command"]
    assert result["command"].startswith(f"python scripts/measure {name}")
    return result


def met(result: dict[str, Any]) -> list[bool | None]:
    return [figure["met"] for figure in result["figures"]]


def test_all_cases_are_known() -> None:
    usage = subprocess.run([sys.executable, MEASURE], capture_output=True, text=True, check=False)
    assert usage.returncode == 1
    listed = usage.stderr.strip().rstrip(".").partition("NAME is `all` or one of ")[2]
    assert sorted(listed.split(", ")) == sorted(NAMES)
    assert "--quick" in run("all", "--help")


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str) -> None:
    printed = run(name, "--help")
    assert f"usage: python scripts/measure {name}" in printed
    assert "--out" in printed and "--workspace" in printed


def test_pages_say_what_their_json_records_and_commands_on_record_can_be_repeated() -> None:
    code = f"""
import json, shlex, sys
from pathlib import Path
sys.path.insert(0, {str(MEASURE)!r})
from case import load_cases, parser_of
from report import markdown
cases = load_cases()
for file in sorted(Path({str(RESULTS)!r}).glob("*.json")):
    runs = json.loads(file.read_text())
    assert markdown(runs) in file.with_suffix(".md").read_text(), file
    for run in runs.values():
        words = shlex.split(run["command"])
        assert words[:3] == ["python", "scripts/measure", file.stem], words
        parser_of(file.stem).parse_args(words[3:])
print(len(cases))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(len(NAMES))), done.stderr


def test_every_case_has_a_page_that_the_table_of_results_lists() -> None:
    table = (RESULTS / "README.md").read_text()
    for name in NAMES:
        (first, *_) = json.loads((RESULTS / f"{name}.json").read_text()).values()
        rows = [line for line in table.splitlines() if f"({name}.md)" in line]
        assert rows and any(first["date"][:10] in row for row in rows), name
        page = (RESULTS / f"{name}.md").read_text()
        tables = [line for line in page.splitlines() if line.startswith("| ---")]
        assert len(tables) == 1 and page.count("<!-- figures -->") == 1
    assert all(path.stat().st_size < 300_000 for path in RESULTS.iterdir())


def test_quick_options_are_those_of_the_case() -> None:
    code = f"""
import shlex, sys
sys.path.insert(0, {str(MEASURE)!r})
from case import load_cases, parser_of
for name, measure in load_cases().items():
    parser_of(name).parse_args(shlex.split(measure.quick))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_takes_the_place_of_the_one_with_its_label_and_prose_stays(tmp_path: Path) -> None:
    file, page = tmp_path / "startup.json", tmp_path / "startup.md"
    run("startup", "--rounds", 1, "--out", file)
    before, mark, rest = page.read_text().partition("<!-- figures -->")
    page.write_text(f"{before}What it is about.\n\n{mark}{rest}\n## Notes\n\nIt was noisy.\n")
    run("startup", "--rounds", 2, "--out", file, "--label", "again")
    runs = json.loads(file.read_text())
    assert [*runs] == ["startup", "again"]
    assert [shlex.split(own["command"])[-1] for own in runs.values()] == ["1", "2"]
    text = page.read_text()
    assert "What it is about.\n\n<!-- figures -->" in text
    assert text.endswith("<!-- end of figures -->\n\n## Notes\n\nIt was noisy.\n")
    assert "\nagain:\n" in text and "| again | one process: trtkit --help |" in text


def test_startup(place: Path) -> None:
    timing = measured("startup", place, "--rounds", 1)["results"]["one process"]
    assert timing["base"] == "python -c 'import typer, rich.console'"
    assert timing["medians"]["trtkit --help"] > 0


@pytest.mark.slow
def test_tree(thin_place: Path) -> None:
    small = ("--models", "resnet18", "resnet34", "--cut", 2, "--image-size", 64, "--batch", 2)
    few = ("--photos", 4, "--rounds", 1, "--tails", 2)
    result = measured("tree", thin_place, *small, *few, networks="thin")
    together, whole, threads, own = result["results"].values()
    assert [*together["medians"]] == ["engines alone", "one pass"]
    assert [*whole["medians"]] == ["one pass", "whole models"]
    assert [*threads["medians"]] == ["batches of 8", "8 threads"]
    assert [*own["medians"]] == ["warm in memory", "warm from the store"]
    assert [value is not None for value in met(result)].count(True) >= 5


@pytest.mark.slow
def test_cases_share_a_workspace(tmp_path: Path, exports: Path) -> None:
    place = with_exports(tmp_path, exports, 224)
    small = ("--model", "resnet18", "--cut", 2, "--rounds", 1)
    chain = measured("chain", place, *small, "--batch", 1, "--precision", "fp16", networks="thin")
    (timing,) = chain["results"].values()
    assert [*timing["medians"]] == ["unsplit", "chain", "unsplit again"]
    exported = (place / "export" / "resnet18-224.onnx").stat().st_mtime_ns
    few = ("--photos", 4, "--batch", 2)
    warm = measured("warm", place, *small, *few, networks="thin")
    (timing,) = warm["results"].values()
    assert [*timing["medians"]] == ["tail alone", "warm", "off", "cold"]
    assert [value is not None for value in met(warm)] == [False, True, False, False]
    ended = measured("endtoend", place, *small, *few, networks="thin")
    (timing,) = ended["results"].values()
    decoding, engines, _, both = timing["samples"].values()
    assert both == [decoding[0] + engines[0]]
    saved = measured("saved", place, *small, *few, networks="thin")["saved"]["2"]
    assert saved["compute"] < 1 and 0 < saved["flops_share"] < 1 and saved["published"] is None
    assert (place / "export" / "resnet18-224.onnx").stat().st_mtime_ns == exported


@pytest.mark.slow
def test_store(place: Path) -> None:
    result = measured("store", place, "--entries", 8, "--rounds", 1)
    assert [*result["results"]] == [
        f"8 entries, {what}"
        for what in ("write", "cold read, all", "cold read, 1 in 8", "warm read")
    ]
    assert result["times_smaller"]["zstd"] > result["times_smaller"]["none"] > 0.9
    assert 0.55 < result["relu_zeros"] < 0.65
    assert [value is not None for value in met(result)].count(True) == 2


@pytest.mark.slow
def test_memory(place: Path) -> None:
    result = measured("memory", place, "--few", 5, "--many", 10, "--rounds", 1)
    assert [title.rpartition(" ")[2] for title in result["results"]] == ["off", "cold", "warm"]
    for timing in result["results"].values():
        assert timing["unit"] == "bytes" and timing["medians"]["5 photos"] > 20 * 2**20


@pytest.mark.slow
def test_accuracy(thin_place: Path) -> None:
    result = measured(
        "accuracy", thin_place, "--architectures", "resnet18", "--photos", 2, networks="thin"
    )
    cuts = result["architectures"]["resnet18"]["cuts"]
    assert [cut["cut"] for cut in cuts] == list(range(9))
    assert met(result) == [None, True, True]


@pytest.mark.slow
def test_transfer(thin_place: Path) -> None:
    small = ("--architectures", "resnet18", "--runs", 1, "--epochs", 1, "--adapt-epochs", 1)
    result = measured("transfer", thin_place, *small, "--count", 10, networks="thin")
    (modes,) = result["runs"]["resnet18"]
    assert len(modes) == 6 and all(0 <= mode["top1"] <= 1 for mode in modes.values())
    assert all(mode["seconds"] > 0 for mode in modes.values())
    assert result["figures"][4]["what"] == "resnet18, bottleneck, plain: top-1"


@pytest.mark.slow
def test_cuts(thin_place: Path) -> None:
    small = ("--models", "resnet18", "--image-size", 64, "--photos", 2, "--rounds", 2)
    result = measured("cuts", thin_place, *small, networks="thin")
    model = result["resnet18-64"]
    assert [*model["measured"]] == [str(cut) for cut in range(1, 9)] == [*model["predicted"]]
    assert all(min(cut["warm"], cut["cold"]) > 0 for cut in model["measured"].values())
    assert all(len(cut["warm"]) == len(cut["cold"]) == 2 for cut in model["rounds"].values())
    assert 0 <= model["chosen"] <= 8 and model["why"]
    # Two controls: how far profile and measurement are from themselves.
    controls = [False, False, True, True, False]
    assert [value is None for value in met(result)] == [True] * 8 + controls
    chosen = [figure for figure in result["figures"][:8] if "`--cut auto`" in figure["what"]]
    assert len(chosen) == (1 if model["chosen"] else 0)


@pytest.mark.slow
def test_an_empty_engine_takes_next_to_nothing(place: Path) -> None:
    (timing,) = measured("overhead", place, "--rounds", 3, "--photos", 2)["results"].values()
    seconds = timing["samples"]
    assert len(seconds["empty engine"]) == len(seconds["resnet18 at 32 x 32"]) == 3
    assert max(seconds["empty engine"]) < min(seconds["resnet18 at 32 x 32"])


@pytest.mark.slow
def test_two_runs_overlap_or_not(place: Path) -> None:
    small = ("--rounds", 1, "--photos", 2, "--seconds", 0.2, "--image-size", 32)
    result = measured("overlap", place, *small)
    ((first, second),) = result["pairs"]
    overlap = first[0] <= second[2] and second[0] <= first[2]
    assert result["figures"][-1]["measured"] == f"{int(overlap)} of 1"


@pytest.mark.slow
def test_int8(place: Path) -> None:
    pytest.importorskip("modelopt", reason="NVIDIA ModelOpt is not installed")
    small = ("--model", "resnet18", "--image-size", 64, "--cut", 2, "--batch", 2)
    result = measured("int8", place, *small, "--photos", 2, "--rounds", 1)
    kernels = result["forms"]["convolutions"]
    assert kernels["fp32, as trtkit builds it"] == [0, 20]
    assert kernels["int8, as trtkit builds it"] == [20, 20]
    assert len(kernels) == 4
    maps = result["feature_maps"]
    assert {name: own["dtype"] for name, own in maps.items()} == {
        "int8": "uint8", "fp16": "float16", "fp32": "float32",
    }  # fmt: skip
    assert maps["fp32"]["bytes"] == 2 * maps["fp16"]["bytes"] == 4 * maps["int8"]["bytes"]
    assert maps["int8"]["kept"]["none"] > maps["int8"]["kept"]["zstd"] > 0
    assert 0 < maps["int8"]["zeros"] < 1
    # How fast it is, and the bytes of the int8 map.
    targets = [value for value in met(result) if value is not None]
    assert len(targets) == 2 and targets[1]


@pytest.mark.slow
def test_int8_calibration(place: Path) -> None:
    pytest.importorskip("modelopt", reason="NVIDIA ModelOpt is not installed")
    small = ("--model", "resnet18", "--image-size", 64, "--few", 4, "--many", 8)
    result = measured("int8-calibration", place, *small)
    assert [own["photos"] for own in result["calibration"].values()] == [4, 8]
    for own in result["calibration"].values():
        assert 0 < own["largest"] <= own["peak"]
        assert own["seconds"] > 0


@pytest.mark.slow
def test_int8_accuracy(place: Path) -> None:
    pytest.importorskip("modelopt", reason="NVIDIA ModelOpt is not installed")
    small = ("--architectures", "resnet18", "--image-size", 32, "--cut", 2, "--count", 10)
    trained = ("--epochs", 1, "--renderings", 2, "--images", 12, "--min-agreement", 0)
    result = measured("int8-accuracy", place, *small, *trained, networks="full")
    assert result["photos"] == {"train": 60, "calibration": 40, "test": 40}
    scores = result["models"]["resnet18"]
    assert [*scores] == ["fp32", "fp16", "int8", "int8 in TensorRT's form"]
    assert all(score["images"] == 40 for score in scores.values())
    assert scores["fp32"]["agreement"] is None and scores["fp16"]["agreement"] > 0.9
    assert scores["fp32"]["gate"] is None and scores["fp16"]["gate"] is None
    for score in list(scores.values())[2:]:
        assert score["gate"]["images"] == 28
        assert 0 <= score["gate"]["kept_flops_share"] < 1
    assert met(result) == [None, None, True, True]


def test_tracks_say_which_judge_they_need(tmp_path: Path) -> None:
    # Stands before the real one, where there is one.
    (tmp_path / "motmetrics.py").write_text("raise ImportError")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(MEASURE), "tracks"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and not done.stdout
    assert "pip install --group tracks" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_tracks(place: Path) -> None:
    pytest.importorskip("motmetrics", reason="motmetrics is not installed")
    small = ("--size", "320x240", "--seconds", 6, "--most-switches", 10)
    result = measured("tracks", place, *small, networks="thin")
    score, frames = result["score"], result["ingest"]["frames"]
    assert 0 < score["people_with_track"] <= score["people"] == len(score["shares"])
    assert score["boxes"] > score["misses"] and 0 < score["idf1"] <= 1
    assert frames == 180 and len(result["on_boxes"]) == 5
    # Only what has a target was judged.
    assert [value is not None for value in met(result)].count(True) == 3


def video(place: Path, *parts: str) -> dict[str, Any]:
    trained = ("--image-size", 32, "--crops", 20, "--epochs", 1, "--reached", 0.2, "--sample", 200)
    # So many objects that `tune` can prove something.
    clip = ("--seconds", 20, "--size", "480x360", "--density", 1, "--ingests", 1)
    rest = ("--objects", 500, "--rounds", 1)
    return measured("video", place, *trained, *clip, *rest, "--parts", *parts, networks="thin")


@pytest.mark.slow
def test_video_questions(thin_place: Path) -> None:
    result = video(thin_place, "ingest", "questions")
    accuracy = result["found"]["the expensive model on everything"]
    assert 0 < accuracy["recall"] <= 1 and 0 < accuracy["precision"] <= 1
    assert result["ingest"]["frames"] == 600
    assert result["counts"]["objects"] == result["ingest"]["objects"]
    ratios = result["results"]["a question, mean of 10 classes, cut 2"]["ratios"]
    assert {*ratios} == {"everything", "candidates", "feature maps", "clusters", "remembered"}
    assert ratios["remembered"] < 1 < ratios["everything"]


@pytest.mark.slow
def test_video_first_answer(thin_place: Path) -> None:
    result = video(thin_place, "first")
    for seconds in result["first"].values():
        assert 0 < len(seconds) <= 10 and min(seconds) > 0
    assert [*result["first"]] == ["kept", "off"]


@pytest.mark.slow
def test_kills(place: Path) -> None:
    result = measured("kills", place, "--kills", 2, "--seconds", 6, networks="thin")
    kills = result["kills"]
    assert (kills["kills"], kills["equal"]) == (2, True) and met(result) == [True]
    assert kills["objects"] > 0 and kills["ingests"] >= 1


@pytest.mark.slow
def test_people(thin_place: Path) -> None:
    small = ("--image-size", 32, "--crops", 20, "--epochs", 1, "--rounds", 2, "--before", 10_000)
    result = measured("people", thin_place, *small, networks="thin")
    question = result["question"]
    assert question["objects"] <= result["ingest"]["objects"]
    assert question["pictures"] >= question["objects"]
