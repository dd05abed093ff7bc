"""Contests: who takes part, who is whose baseline, what a figure says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from trtkit.benchmark import clocks, contest
from trtkit.benchmark.clocks import Reading
from trtkit.benchmark.contest import competitors_of, hold
from trtkit.benchmark.kinds import BASELINES, CPU_BASELINES
from trtkit.benchmark.protocol import ContestantFailed, ProtocolSettings, Turns
from trtkit.benchmark.results import Figure
from trtkit.bundle import read_manifest
from trtkit.workspace import Workspace

SETTINGS = ProtocolSettings(warmup=0, least_rounds=1, most_rounds=2, width=1e-9, seconds=60)


@pytest.fixture
def bundle(built):
    folder = Workspace(built).bundles()[0]
    return folder, read_manifest(folder)


class Fake:
    """A worker that takes as long as its name says, and fails as its name says."""

    pid = None
    broken: frozenset[str] = frozenset()
    interrupting: str | None = None
    made: ClassVar[list[Fake]] = []

    def __init__(self, name: str, spec: dict, *, timeout: float, cores: int) -> None:
        self.name, self.note = name, f"{spec['kind']} on a fake"
        self.timeout, self.cores = timeout, cores
        self.closed = False
        self.made.append(self)

    def labels(self) -> list[int]:
        if self.name == self.interrupting:
            raise KeyboardInterrupt
        if self.name == "openvino" or self.name in self.broken:
            raise ContestantFailed(f"{self.name} crashed (SIGSEGV) during load.")
        if self.name.startswith("trtexec"):
            return []
        return [1, 2, 3, 9] if self.name == "torch-compile" else [1, 2, 3, 4]

    def round(self) -> float:
        return {"torch": 0.4, "torch-compile": 0.2, "onnxruntime": 0.1}.get(self.name, 0.05)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(contest, "WorkerContestant", Fake)
    monkeypatch.setattr(contest, "missing", lambda kind: None)
    monkeypatch.setattr(Fake, "made", [])
    return Fake


def specs(bundle, tmp_path, measure="compute", others=(), baselines=CPU_BASELINES):
    return competitors_of(
        [bundle, *others], "resnet18", ("a", "b", "c", "d"), baselines=baselines, measure=measure,
        batch=2, threads=2, scratch=tmp_path, built=tmp_path / "built",
    )  # fmt: skip


def held(bundle, tmp_path, baseline=None, **what):
    return hold(specs(bundle, tmp_path, **what), baseline, SETTINGS)


def test_only_trtkit_has_a_cache_and_only_end_to_end(bundle, tmp_path):
    compute = specs(bundle, tmp_path)
    assert list(compute)[:4] == ["torch", "torch-compile", "onnxruntime", "openvino"]
    assert list(compute)[4:] == ["trtkit fp16 on onnxruntime"]
    whole = specs(bundle, tmp_path, "end to end")
    assert [name.rpartition(" ")[2] for name in list(whole)[4:]] == ["off", "cold", "warm"]
    folders = {spec.cache_dir for name, spec in whole.items() if name.startswith("trtkit")}
    assert len(folders) == 3
    assert all(spec.cache == "off" for name, spec in whole.items() if "trtkit" not in name)


def test_baselines_run_what_is_not_quantized(bundle, tmp_path):
    folder, manifest = bundle
    int8 = (tmp_path / "int8", replace(manifest, name="int8", precision="int8"))
    mixed = specs(int8, tmp_path, others=[bundle])
    assert mixed["torch"].bundle == mixed["onnxruntime"].bundle == str(folder)
    assert mixed["trtkit int8 on onnxruntime"].bundle == str(tmp_path / "int8")
    # There is no other.
    assert specs(int8, tmp_path)["onnxruntime"].bundle == str(tmp_path / "int8")


def test_a_contest(fakes, bundle, tmp_path):
    ended = held(bundle, tmp_path)
    assert (ended.baseline, ended.rounds, ended.stopped) == ("torch", 2, "most rounds")
    by_name = {figure.competitor: figure for figure in ended.figures}
    assert by_name["torch"].ratio is None and by_name["torch"].images_per_second == 10
    assert by_name["onnxruntime"].images_per_second == pytest.approx(40)
    # Four times as fast as the baseline, not a fourth of it.
    assert by_name["onnxruntime"].ratio.median == pytest.approx(4)
    assert by_name["onnxruntime"].note == "onnxruntime on a fake"
    assert by_name["openvino"].problem == "openvino crashed (SIGSEGV) during load."
    assert by_name["openvino"].images_per_second is None


def test_other_best_classes_than_the_reference_are_wrong_however_fast(fakes, bundle, tmp_path):
    ended = held(bundle, tmp_path)
    by_name = {figure.competitor: figure for figure in ended.figures}
    assert by_name["torch-compile"].agreement == 0.75 and by_name["torch-compile"].wrong
    assert not by_name["torch"].wrong and not by_name["onnxruntime"].wrong


def test_the_baseline_is_the_one_asked_for_or_the_first_that_loads(fakes, bundle, tmp_path):
    assert held(bundle, tmp_path, "onnxruntime").baseline == "onnxruntime"
    assert held(bundle, tmp_path, "openvino").baseline == "torch"
    built_one = held(bundle, tmp_path, "tensorrt", baselines=BASELINES)
    assert built_one.baseline == "tensorrt fp16"


def test_what_is_not_installed_is_listed_with_the_command(fakes, bundle, tmp_path, monkeypatch):
    absent = "torch is not installed; pip install 'trtkit[train]'"
    monkeypatch.setattr(contest, "missing", lambda kind: absent if "torch" in kind else None)
    ended = held(bundle, tmp_path)
    assert ended.baseline == "onnxruntime"
    assert [figure.problem for figure in ended.figures[:2]] == [absent, absent]


def test_one_that_failed_midway_has_no_figure():
    turns = Turns({"torch": [1.0, 1.0], "x": [1.0]}, {"x": "x died."}, False, "torch", 2, "")
    entrants = contest._Entrants([SimpleNamespace(name="x", note="a note")], {"x": [1]})
    figure = contest._figure("x", 4, turns, entrants)
    assert figure == Figure("x", note="a note", problem="x died.")


def test_when_nothing_loads_the_contest_says_why(fakes, bundle, tmp_path, monkeypatch):
    names = specs(bundle, tmp_path)
    monkeypatch.setattr(fakes, "broken", frozenset(names))
    ended = held(bundle, tmp_path)
    assert (ended.stopped, ended.rounds, ended.baseline) == ("nothing could be loaded", 0, "torch")
    assert [figure.problem for figure in ended.figures] == [
        f"{name} crashed (SIGSEGV) during load." for name in names
    ]
    assert ended.clocks is None
    assert len(fakes.made) == 5 and all(one.closed for one in fakes.made)


def test_ctrl_c_while_they_are_loaded_closes_all(fakes, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(fakes, "interrupting", "onnxruntime")
    with pytest.raises(KeyboardInterrupt):
        held(bundle, tmp_path)
    assert [one.name for one in fakes.made] == ["torch", "torch-compile", "onnxruntime"]
    assert all(one.closed for one in fakes.made)


def test_ctrl_c_while_they_are_closed_loses_nothing(fakes, bundle, tmp_path, monkeypatch):
    def interrupted(self):
        self.closed = True
        raise KeyboardInterrupt

    monkeypatch.setattr(fakes, "close", interrupted)
    ended = held(bundle, tmp_path)
    assert (ended.stopped, ended.rounds) == ("interrupted", 2)
    assert all(one.closed for one in fakes.made)


def test_ctrl_c_while_the_clocks_are_read_loses_nothing(fakes, bundle, tmp_path, monkeypatch):
    answers = iter([Reading(0.0)])

    def read(cores, sessions):
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(clocks, "read", read)
    ended = held(bundle, tmp_path)
    assert (ended.stopped, ended.rounds, ended.clocks) == ("interrupted", 2, None)


def test_the_clocks_are_read_before_and_after(fakes, bundle, tmp_path, monkeypatch):
    order = []
    answers = iter([Reading(0.0, cpu_mhz=3000.0), Reading(9.0, cpu_mhz=2000.0)])

    def read(cores, sessions):
        order.append("read")
        return next(answers)

    monkeypatch.setattr(clocks, "read", read)
    monkeypatch.setattr(fakes, "round", lambda self: order.append("round") or 0.1)
    ended = held(bundle, tmp_path)
    assert (order[0], order[-1], set(order[1:-1])) == ("read", "read", {"round"})
    assert (ended.clocks.before.cpu_mhz, ended.clocks.after.cpu_mhz) == (3000.0, 2000.0)
    assert ended.clocks.warnings == ("the processor's clock went from 3000 to 2000 MHz.",)


def test_precisions_of_a_model_are_in_turns_with_each_other(fakes, bundle, tmp_path):
    folder, manifest = bundle
    other = (folder.parent / "other-fp32", replace(manifest, precision="fp32", name="other-fp32"))
    compute = specs(bundle, tmp_path, others=[other])
    assert list(compute)[4:] == ["trtkit fp16 on onnxruntime", "trtkit fp32 on onnxruntime"]
    assert [Path(spec.bundle).name for spec in compute.values()][3:] == [
        folder.name, folder.name, "other-fp32",
    ]  # fmt: skip
    ended = held(bundle, tmp_path, others=[other])
    assert ended.bundle == folder.name and ended.bundles == (folder.name, "other-fp32")
    assert [figure.bundle for figure in ended.figures] == [""] * 4 + list(ended.bundles)
    assert [figure.agreement for figure in ended.figures[4:]] == [1, 1]
    whole = specs(bundle, tmp_path, "end to end", others=[other])
    assert len({spec.cache_dir for spec in whole.values() if spec.kind == "trtkit"}) == 6


def test_bundles_of_one_precision_are_told_apart_by_name(bundle, tmp_path):
    folder, manifest = bundle
    other = (folder.parent / "later", replace(manifest, cut=1, name="later"))
    assert list(specs(bundle, tmp_path, others=[other]))[4:] == [
        f"trtkit fp16 on onnxruntime ({folder.name})", "trtkit fp16 on onnxruntime (later)",
    ]  # fmt: skip


def test_engines_without_a_split_are_built_in_each_precision(fakes, bundle, tmp_path):
    folder, manifest = bundle
    other = (folder.parent / "other-fp32", replace(manifest, precision="fp32", name="other-fp32"))
    compute = specs(bundle, tmp_path, others=[other], baselines=BASELINES)
    assert list(compute)[8:12] == ["tensorrt fp16", "tensorrt fp32", "trtexec fp16", "trtexec fp32"]
    assert [Path(spec.bundle).name for spec in compute.values()][8:10] == [
        folder.name,
        "other-fp32",
    ]
    assert {spec.built_dir for spec in compute.values()} == {str(tmp_path / "built")}
    # It runs on numbers of its own, so that it is no part of what begins with files.
    whole = specs(bundle, tmp_path, "end to end", others=[other], baselines=BASELINES)
    assert [name for name in whole if name.startswith("trtexec")] == []
    ended = held(bundle, tmp_path, baselines=BASELINES)
    trtexec = next(figure for figure in ended.figures if figure.competitor == "trtexec fp16")
    assert trtexec.agreement is None and not trtexec.wrong and trtexec.images_per_second == 80
    patient = {one.name for one in fakes.made if one.timeout > 600}
    assert patient == {"tensorrt fp16", "trtexec fp16"}
    assert {one.cores for one in fakes.made} == {2}
