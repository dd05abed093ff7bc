"""scripts/gpu_acceptance under a simulated GPU: what it writes, skips and says. No time is tested."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

from tests.engines.simulated import install

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_acceptance"
NEW, OLD = "10.3.0", "8.5.3.1"
# Builds take most of the time: one precision, and no more bundles than each test needs.
SHORT = ("* fp32", "* resnet18-unsplit *", "rebuild shared *")
# A Python whose torch takes days, and runs out of memory in the end. It answers as a worker does.
TORCH = """#!{python}
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request is None:
        break
    if request["command"] == "load":
        spec = request["spec"]
        answer = {{"images": spec["batch"], "note": "", "facts": {{"torch": "0.0"}}}}
    elif (spec["model"], spec["batch"]) == ("resnet34", 4):
        answer = {{"error": "failed at round: out of device memory"}}
    else:
        answer = {{"seconds": 1e6}}
    print(json.dumps(answer), flush=True)
"""


@dataclass
class Run:
    """What came of a call of main()."""

    status: int
    file: Path
    simulation: Any

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.file.read_text())
        return content

    def states(self) -> dict[str, str]:
        return {name: record["state"] for name, record in self.content["steps"].items()}

    def result(self, step: str) -> Any:
        return self.content["steps"][step]["result"]


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[..., int]]:
    """main() of the script, loaded as the file is."""
    paths = list(sys.path)
    loader = importlib.machinery.SourceFileLoader("gpu_acceptance", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    yield module.main
    sys.path[:] = paths


def run(
    script: Callable[..., int], file: Path, *options: object, version: str = NEW, **faults: Any
) -> Run:
    """main() with a simulated TensorRT of that version."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        simulation = install(monkeypatch, version, **faults)
        given = ("--out", file, "--models", "small", "--batches", "1,4", *options)
        status = script([str(option) for option in given])
        assert not simulation.cuda.mistakes
        return Run(status, file, simulation)


def place(exports: Path, folder: Path) -> Path:
    """A workspace with the models that the small set takes."""
    (folder / "export").mkdir(parents=True)
    for name in ("resnet18", "resnet34"):
        os.link(exports / f"{name}.onnx", folder / "export" / f"{name}.onnx")
    return folder


@pytest.fixture(scope="module")
def whole(
    script: Callable[..., int], exports: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run of nearly everything, with a torch that only pretends."""
    root = tmp_path_factory.mktemp("acceptance")
    python = root / "python"
    python.write_text(TORCH.format(python=sys.executable))
    python.chmod(0o755)
    workspace = place(exports, root / "workspace")
    options = ("--workspace", workspace, "--torch-python", python, "--markdown", root / "page.md")
    return run(script, root / "results.json", *options, "--skip", *SHORT)


@pytest.mark.slow
def test_the_file_holds_every_step(whole: Run) -> None:
    assert whole.status == 0
    content, states = whole.content, whole.states()
    done = {name for name, state in states.items() if state == "done"}
    assert {"environment", "export resnet18", "export resnet34", "build shared fp16"} <= done
    assert {"compute resnet34 fp16", "host time", "loops", "torch shared fp16"} <= done
    assert {"parity shared fp16", "rebuild resnet34-unsplit fp16"} <= done
    assert {"end to end", "leaks"} <= done
    assert "no quantized export" in content["left_out"]["build shared int8"]
    assert content["left_out"]["compute resnet34 fp32"] == "--skip names it"
    assert set(states) - done == set(content["left_out"])
    assert content["identity"]["library"] == f"tensorrt {NEW}"
    assert content["steps"]["environment"]["result"]["card"] == "Simulated GPU"
    assert all(record["date"] for name, record in content["steps"].items() if name in done)


@pytest.mark.slow
def test_what_each_step_measured(whole: Run) -> None:
    built = whole.result("build shared fp16")
    assert [stage["name"] for stage in built["stages"]] == ["prefix", "resnet18", "resnet34"]
    assert all(
        stage["inspector"]["fp16"] == stage["inspector"]["heavy"] for stage in built["stages"]
    )
    compute = whole.result("compute resnet34 fp16")
    assert [(row["batch"], row["graphs"]) for row in compute["rows"]] == [
        (1, True), (4, True), (1, False), (4, False)
    ]  # fmt: skip
    assert whole.result("host time")["graphs_recorded"] > 0
    assert all(row["trtexec_images_per_second"] is None for row in whole.result("loops")["rows"])
    parity = whole.result("parity shared fp16")["rows"]
    assert {row["tail"] for row in parity} == {"resnet18", "resnet34"}
    assert all(row["relative_error"] < 1e-2 for row in parity)
    assert whole.result("leaks")["lost_bytes"] == 0
    assert whole.result("rebuild resnet34-unsplit fp16")["warm_builder_seconds"] > 0


@pytest.mark.slow
def test_each_cache_mode_is_what_it_says(whole: Run) -> None:
    result = whole.result("end to end")
    assert len(result["rows"]) == 2 * 4
    for row in result["rows"]:
        warm = row["mode"].startswith("warm")
        assert row["hits"] == (result["photos"] if warm else 0)
        assert row["misses"] == (result["photos"] if row["mode"] == "cold" else 0)
        on_card = row["mode"] == "warm, GPU tier"
        assert row["resident_hits"] == (result["photos"] if on_card else 0)


@pytest.mark.slow
def test_targets_are_stated_and_left_empty_where_nothing_was_measured(whole: Run) -> None:
    targets = {target["what"]: target for target in whole.content["targets"]}
    # The pretended torch takes days, and runs out of memory in the end.
    faster = "Times faster than torch eager fp32, resnet18 fp16, batch 1"
    assert targets[faster]["met"] is True
    short = targets["Times faster than torch eager fp32, resnet34 fp16, batch 4"]
    assert (short["measured"], short["met"], short["verdict"]) == ("", None, "not measured")
    missing = targets["Times faster than torch eager fp32, resnet18 int8"]
    assert (missing["measured"], missing["met"], missing["verdict"]) == ("", None, "left out")
    assert targets["Parity, relative error, resnet34 fp16"]["met"] is True
    page = (whole.file.parent / "page.md").read_text()
    for target in targets.values():
        assert f"| {target['what']} | {target['must_be']} | {target['measured']} |" in page
    assert "no quantized export" in page and "Simulated GPU" in page


@pytest.mark.slow
def test_finished_steps_are_not_done_again(
    script: Callable[..., int], whole: Run, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    shutil.copy(whole.file, file)
    workspace = whole.file.parent / "workspace"
    again = run(script, file, "--workspace", workspace, "--skip", *SHORT)
    assert again.status == 0
    assert again.simulation.library.builds == []
    assert {
        name: record for name, record in again.content["steps"].items() if record["result"]
    } == {name: record for name, record in whole.content["steps"].items() if record["result"]}
    assert len(again.content["runs"]) == 2


@pytest.mark.slow
def test_results_of_another_machine_are_not_mixed(
    script: Callable[..., int], whole: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = whole.file.read_text()
    other = run(script, whole.file, "--minutes", 0, version=OLD, device_name="Another GPU")
    assert other.status == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0 and "--fresh" in message
    assert f"tensorrt {NEW} there, tensorrt 8.5.3" in message and "Another GPU here" in message
    assert whole.file.read_text() == before


@pytest.mark.slow
def test_an_old_tensorrt(script: Callable[..., int], exports: Path, tmp_path: Path) -> None:
    workspace = place(exports, tmp_path / "workspace")
    skip = (*SHORT, "parity *", "rebuild *", "torch *", "end to end")
    options = ("--workspace", workspace, "--batches", "1", "--skip", *skip)
    done = run(script, tmp_path / "results.json", *options, version=OLD)
    assert done.status == 0
    compute = done.result("compute resnet34 fp16")
    # Contexts cannot share a profile there, so nothing can be recorded.
    assert compute["graphs_recorded"] is False
    assert [row["graphs"] for row in compute["rows"]] == [False]
    assert done.result("loops")["graphs_recorded"] == 0
    assert done.result("leaks")["lost_bytes"] == 0


def test_a_failing_step_does_not_stop_the_others(
    script: Callable[..., int], exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = place(exports, tmp_path / "workspace")
    file = tmp_path / "results.json"
    skip = (*SHORT, "build *-unsplit *")
    failed = run(script, file, "--workspace", workspace, "--skip", *skip, fail_build=True)
    assert failed.status == 1
    states, steps = failed.states(), failed.content["steps"]
    assert [name for name, state in states.items() if state == "failed"] == ["build shared fp16"]
    reason = steps["build shared fp16"]["reason"]
    assert f"tensorrt {NEW}" in reason and "prefix" in reason and reason.count("\n") == 0
    assert states["export resnet34"] == "done"
    assert "'build shared fp16', which failed" in steps["leaks"]["reason"]
    printed = capsys.readouterr().out
    assert f"Failed:\n  build shared fp16: {reason}\n" in printed
    # It stays on record until it is done.
    later = run(script, file, "--workspace", workspace, "--minutes", 0)
    assert later.status == 1
    assert later.states()["build shared fp16"] == "failed"


def test_out_of_time(
    script: Callable[..., int], exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = place(exports, tmp_path / "workspace")
    done = run(script, tmp_path / "results.json", "--workspace", workspace, "--minutes", 0)
    assert done.status == 0
    assert set(done.states().values()) == {"left out"}
    assert done.content["left_out"]["environment"] == "the time was up"
    assert "Left out:\n  environment: the time was up" in capsys.readouterr().out
    assert all(target["measured"] == "" for target in done.content["targets"])


@pytest.mark.parametrize(
    ("faults", "named"),
    [
        ({"no_device": True}, "the NVIDIA driver finds no GPU"),
        ({"import_error": "libnvinfer.so.10: cannot open"}, "libnvinfer.so.10"),
    ],
)
def test_what_is_missing_is_named(
    script: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    faults: dict[str, Any],
    named: str,
) -> None:
    file = tmp_path / "results.json"
    assert run(script, file, **faults).status == 2
    message = capsys.readouterr().err.strip()
    assert named in message and message.count("\n") == 0
    assert not file.exists()


def test_models_that_cannot_be_exported(
    script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    assert run(script, tmp_path / "results.json", "--torch-python", python).status == 2
    message = capsys.readouterr().err.strip()
    assert "resnet18, resnet34" in message and "--torch-python" in message
    assert message.count("\n") == 0
