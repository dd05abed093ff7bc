"""A foreign model is tried in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

import trtkit
from tests.graph.onnx_graphs import classifier
from trtkit.building import probe
from trtkit.errors import TrtkitError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "foreign.onnx"
    onnx.save(classifier(), path)
    return path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What workers answered."""
    received: list[dict[str, Any]] = []

    class Listening(probe.Worker):
        def receive(self, *, timeout: float | None = None) -> dict[str, Any]:
            received.append(super().receive(timeout=timeout))
            return received[-1]

    monkeypatch.setattr(probe, "Worker", Listening)
    return received


def test_a_sound_model_passes(model: Path, answers: list[dict[str, Any]]) -> None:
    probe.try_out(model)
    assert answers == [{}]


def test_what_is_refused_with_an_error_is_left_to_the_caller(
    tmp_path: Path, answers: list[dict[str, Any]]
) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    probe.try_out(path)
    assert answers == [{}]


def test_a_model_that_ends_the_process_is_refused(model: Path, tmp_path: Path) -> None:
    graph = onnx.load(model)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "pads":
                # ONNX Runtime 1.24 reads behind its end.
                attribute.ints[:] = [1]
    onnx.save(graph, model)
    with pytest.raises(TrtkitError, match="foreign.onnx"):
        trtkit.export(model, workspace=tmp_path)
    assert not (tmp_path / "export" / "foreign.onnx").exists()


def test_a_model_without_an_end_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.001)
    with pytest.raises(
        TrtkitError,
        match=r"foreign.onnx cannot be run: ONNX Runtime did not answer within 0.001 s; export the model",
    ):
        probe.try_out(model)


def test_a_crash_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crashing(probe.Worker):
        def send(self, message):
            self._process.kill()
            self._process.wait()

    monkeypatch.setattr(probe, "Worker", Crashing)
    with pytest.raises(TrtkitError, match=r"ONNX Runtime was killed \(SIGKILL"):
        probe.try_out(model)
