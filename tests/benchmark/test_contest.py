"""Contests: who takes part, who is whose baseline, what a figure says."""

from __future__ import annotations

import pytest

from trtkit.benchmark import contest
from trtkit.benchmark.contest import Figure, competitors_of, hold
from trtkit.benchmark.protocol import ContestantFailed, Settings, Turns
from trtkit.bundle import read_manifest
from trtkit.workspace import Workspace

SETTINGS = Settings(warmup=0, least_rounds=1, most_rounds=2, width=1e-9, seconds=60)


@pytest.fixture
def bundle(built):
    folder = Workspace(built).bundles()[0]
    return folder, read_manifest(folder)


class Fake:
    """A worker that takes as long as its name says, and fails as its name says."""

    def __init__(self, name: str, spec: dict) -> None:
        self.name, self.note = name, f"{spec['kind']} on a fake"

    def labels(self) -> list[int]:
        if self.name == "openvino":
            raise ContestantFailed("openvino crashed (SIGSEGV) during load.")
        return [1, 2, 3, 9] if self.name == "torch-compile" else [1, 2, 3, 4]

    def round(self) -> float:
        if self.name == "torch-compile broken":
            raise ContestantFailed("no")
        return {"torch": 0.4, "torch-compile": 0.2, "onnxruntime": 0.1}.get(self.name, 0.05)

    def close(self) -> None:
        return None


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(contest, "WorkerContestant", Fake)
    monkeypatch.setattr(contest, "missing", lambda kind: None)


def specs(bundle, tmp_path, measure="compute"):
    folder, manifest = bundle
    return competitors_of(
        folder, manifest, "resnet18", ("a", "b", "c", "d"), measure=measure, batch=2, threads=2,
        scratch=tmp_path,
    )  # fmt: skip


def test_only_trtkit_has_a_cache_and_only_end_to_end(bundle, tmp_path):
    compute = specs(bundle, tmp_path)
    assert list(compute)[:4] == ["torch", "torch-compile", "onnxruntime", "openvino"]
    assert list(compute)[4:] == ["trtkit fp16 on onnxruntime"]
    whole = specs(bundle, tmp_path, "end to end")
    assert [name.rpartition(" ")[2] for name in list(whole)[4:]] == ["off", "cold", "warm"]
    folders = {spec.cache_dir for name, spec in whole.items() if name.startswith("trtkit")}
    assert len(folders) == 3
    assert all(spec.cache == "off" for name, spec in whole.items() if "trtkit" not in name)


def test_a_contest(fakes, bundle, tmp_path):
    held = hold(bundle[1], specs(bundle, tmp_path), None, SETTINGS, lambda phase, share: None)
    assert (held.baseline, held.rounds, held.stopped) == ("torch", 2, "most rounds")
    by_name = {figure.competitor: figure for figure in held.figures}
    assert by_name["torch"].ratio is None and by_name["torch"].images_per_second == 10
    assert by_name["onnxruntime"].images_per_second == pytest.approx(40)
    # Four times as fast as the baseline, not a fourth of it.
    assert by_name["onnxruntime"].ratio.median == pytest.approx(4)
    assert by_name["onnxruntime"].note == "onnxruntime on a fake"
    assert by_name["openvino"].problem == "openvino crashed (SIGSEGV) during load."
    assert by_name["openvino"].images_per_second is None


def test_other_best_classes_than_the_reference_are_wrong_however_fast(fakes, bundle, tmp_path):
    held = hold(bundle[1], specs(bundle, tmp_path), None, SETTINGS, lambda phase, share: None)
    by_name = {figure.competitor: figure for figure in held.figures}
    assert by_name["torch-compile"].agreement == 0.75 and by_name["torch-compile"].wrong
    assert not by_name["torch"].wrong and not by_name["onnxruntime"].wrong


def test_the_baseline_is_the_one_asked_for_or_the_first_that_loads(fakes, bundle, tmp_path):
    def baseline(asked):
        given = specs(bundle, tmp_path)
        return hold(bundle[1], given, asked, SETTINGS, lambda phase, share: None).baseline

    assert baseline("onnxruntime") == "onnxruntime"
    assert baseline("openvino") == "torch"


def test_what_is_not_installed_is_listed_with_the_command(fakes, bundle, tmp_path, monkeypatch):
    absent = "torch is not installed; pip install 'trtkit[train]'"
    monkeypatch.setattr(contest, "missing", lambda kind: absent if "torch" in kind else None)
    held = hold(bundle[1], specs(bundle, tmp_path), None, SETTINGS, lambda phase, share: None)
    assert held.baseline == "onnxruntime"
    assert [figure.problem for figure in held.figures[:2]] == [absent, absent]


def test_one_that_failed_midway_has_no_figure():
    turns = Turns({"torch": [1.0, 1.0], "x": [1.0]}, {"x": "x died."}, False, "torch", 2, "")
    figure = contest._figure("x", 4, turns, {"x": [1]}, "x died.", "a note")
    assert figure == Figure("x", note="a note", problem="x died.")
