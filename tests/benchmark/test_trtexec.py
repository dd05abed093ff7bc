"""trtexec by a script in its place: what it is asked, what is read from what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trtkit.benchmark import kinds
from trtkit.benchmark.competitors import load
from trtkit.benchmark.spec import Spec
from trtkit.benchmark.trtexec import (
    batch_seconds,
    batches_per_second,
    precision_flags,
    run_plan,
    shapes_option,
)
from trtkit.bundle import read_manifest
from trtkit.errors import TrtkitError
from trtkit.workspace import Workspace

# What version 8.6 and 10 say at the end.
SAID = """\
[11/21/2025-10:11:12] [I] === Performance summary ===
[11/21/2025-10:11:12] [I] Throughput: 507.399 qps
[11/21/2025-10:11:12] [I] Latency: min = 1.96 ms, max = 1.98 ms, mean = 1.97 ms, median = 1.97 ms, \
percentile(90%) = 1.97 ms
[11/21/2025-10:11:12] [I] Enqueue Time: min = 0.003 ms, max = 0.01 ms, median = 0.004 ms
[11/21/2025-10:11:12] [I] GPU Compute Time: min = 1.9 ms, max = 2.5 ms, mean = 2.1 ms, \
median = 2.0 ms, percentile(99%) = 2.4 ms
[11/21/2025-10:11:12] [I] Total Host Walltime: 3.00355 s
"""
SCRIPT = """#!/bin/sh
echo "$@" >> "{log}"
for option in "$@"; do
  case "$option" in
    --saveEngine=*) echo plan > "${{option#--saveEngine=}}";;
    --onnx=*) test -s "${{option#--onnx=}}" || exit 3;;
  esac
done
cat "{said}"
{after}
"""


@pytest.fixture
def trtexec(tmp_path, monkeypatch):
    """Puts a trtexec on the PATH; gives what it was asked so far, one list of options a call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(kinds, "no_gpu", lambda: None)
    log, said = tmp_path / "log", tmp_path / "said"

    def make(text: str = SAID, after: str = "") -> None:
        said.write_text(text)
        program = folder / "trtexec"
        program.write_text(SCRIPT.format(log=log, said=said, after=after))
        program.chmod(0o755)

    make()
    make.asked = lambda: [line.split() for line in log.read_text().splitlines()]
    return make


@pytest.fixture
def spec(built, tmp_path):
    (tmp_path / "built").mkdir()
    folder = Workspace(built).bundles()[0]
    photos = tuple(f"{number}.jpg" for number in range(12))
    return Spec(
        "trtexec", "compute", str(folder), "resnet34", photos, 8, 1,
        built_dir=str(tmp_path / "built"),
    )  # fmt: skip


def test_the_time_is_the_median_of_the_gpu():
    assert batch_seconds(SAID) == pytest.approx(0.002)
    assert batch_seconds("GPU Compute Time: median = 1.5e-02 ms") == pytest.approx(1.5e-5)
    with pytest.raises(TrtkitError, match="printed no GPU Compute Time"):
        batch_seconds(SAID.replace("GPU Compute Time", "GPU latency"))


def test_the_throughput_is_in_batches():
    assert batches_per_second(SAID) == 507.399
    with pytest.raises(TrtkitError, match="printed no Throughput"):
        batches_per_second("")


def test_another_program_runs_a_plan_for_as_long_as_it_may(trtexec, tmp_path):
    trtexec()
    (tmp_path / "bin" / "trtexec").rename(tmp_path / "bin" / "tensorrt_rtx")
    shapes = shapes_option("image", (None, 64, 64, 3), 8)
    output = run_plan(
        tmp_path / "a.plan", shapes, "--useSpinWait", warm_up=500, seconds=3, program="tensorrt_rtx"
    )
    assert output == SAID
    (options,) = trtexec.asked()
    assert options == [
        f"--loadEngine={tmp_path}/a.plan", "--shapes=image:8x64x64x3", "--warmUp=500", "--duration=3",
        "--iterations=10", "--useCudaGraph", "--noDataTransfers", "--useSpinWait",
    ]  # fmt: skip
    (tmp_path / "bin" / "tensorrt_rtx").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(TrtkitError, match=r"tensorrt_rtx failed \(no end after 0.2 s\); run"):
        run_plan(tmp_path, shapes, warm_up=1, seconds=1, program="tensorrt_rtx", timeout=0.2)


def test_it_builds_once_and_runs_in_each_round(trtexec, spec, tmp_path):
    ready = load(spec)
    # Twelve photos are one batch and a half.
    assert ready.run() == pytest.approx(0.003)
    assert ready.run() == pytest.approx(0.003)
    assert (ready.images, ready.labels()) == (12, [])
    build, first, second = trtexec.asked()
    assert "--fp16" in build and "--int8" not in build
    plan = next(option for option in first if option.startswith("--loadEngine="))
    assert Path(plan.partition("=")[2]).read_text() == "plan\n"
    shapes = next(option for option in build if option.startswith("--shapes="))
    assert shapes.endswith(":8x64x64x3") and shapes in first
    assert first == second and "--useCudaGraph" in first
    # Another process takes what the first one built; another batch size is built for itself.
    load(spec).run()
    load(replace(spec, batch=4)).run()
    assert [any(o.startswith("--onnx") for o in options) for options in trtexec.asked()] == [
        True, False, False, False, True, False,
    ]  # fmt: skip


def test_the_precision_is_the_bundles(built):
    manifest = read_manifest(Workspace(built).bundles()[0])
    options = {"tf32": False}
    assert precision_flags(replace(manifest, precision="fp32", options=options)) == ("--noTF32",)
    assert precision_flags(replace(manifest, precision="fp32", options={"tf32": True})) == ()
    assert precision_flags(replace(manifest, precision="int8"))[:2] == ("--int8", "--fp16")


def test_its_errors_are_told(trtexec, spec):
    trtexec("[11/21/2025-10:11:12] [E] Error[1]: no such layer.\n[E] more\n", "exit 1")
    with pytest.raises(
        TrtkitError, match=r"trtexec failed \(Error\[1\]: no such layer\); run `trtex"
    ):
        load(spec)
    # Nothing of a build that failed is taken for an engine.
    trtexec("", "exit 7")
    with pytest.raises(TrtkitError, match=r"failed \(status 7\)"):
        load(spec)
    trtexec()
    assert load(spec).run() > 0


def test_another_program_of_that_name(trtexec, spec, tmp_path):
    (tmp_path / "bin" / "trtexec").write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(TrtkitError, match="wrote no engine"):
        load(spec)


def test_it_is_for_compute_alone_and_needs_a_folder(trtexec, spec):
    with pytest.raises(
        TrtkitError,
        match="^trtexec runs on random numbers and cannot be measured end to end; measure compute.$",
    ):
        load(replace(spec, measure="end to end"))
    with pytest.raises(
        TrtkitError,
        match="^The engine of trtexec needs a folder, but '' is not one; make it first.$",
    ):
        load(replace(spec, built_dir=""))
