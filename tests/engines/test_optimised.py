"""Optimised graphs that are kept: the same bits, sooner; never a damaged or another one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import trtkit
from tests.graph.onnx_graphs import classifier
from tests.graph.test_quantize import measured, photos
from trtkit.atomic import SCRATCH_PREFIX
from trtkit.engines import optimised
from trtkit.engines.base import StageBuild
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.engines.optimised import GRAPH, MOST_BYTES, RECORD, WEIGHTS, KeptGraphs
from trtkit.errors import TrtkitError
from trtkit.graph.quantize import UNSIGNED, kernel_edges, quantize_graph
from trtkit.identity import file_digest

SIZE = 32


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTKIT_GRAPHS", str(tmp_path / "graphs"))
    return tmp_path / "graphs"


def wide() -> onnx.ModelProto:
    """With convolutions wide enough that ONNX Runtime blocks their layout."""
    random = np.random.default_rng(3)
    model = classifier(size=SIZE)
    for each, shape in (("w1", (32, 3, 3, 3)), ("w2", (32, 32, 3, 3)), ("fc", (5, 32))):
        (weight,) = [value for value in model.graph.initializer if value.name == each]
        drawn = random.standard_normal(shape).astype(np.float32) * 0.1
        weight.CopyFrom(onnx.numpy_helper.from_array(drawn, each))
    return model


def engine_file(folder: Path, precision: str) -> Path:
    graph = wide()
    if precision == "int8":
        value = photos(size=SIZE)
        graph, _ = quantize_graph(
            graph, measured(graph, value), kernel_edges(graph.graph), UNSIGNED
        )
    path = folder / f"{precision}.onnx"
    stage = StageBuild("m", graph, precision, True, True)
    OnnxRuntimeBackend().build(stage, path, folder)
    return path


def load(path: Path, **options: Any) -> Any:
    return OnnxRuntimeBackend(**options).load(path, digest=file_digest(path))


def output(engine: Any) -> np.ndarray:
    return np.array(engine.run({"x": photos(4, SIZE)})["g"].numpy())


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that sessions are made of."""
    made: list[str] = []
    make = onnxruntime.InferenceSession

    def session(path: str, *arguments: Any, **options: Any) -> Any:
        made.append(path)
        return make(path, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return made


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_second_load_is_of_what_the_first_kept_and_computes_the_same_bits(
    tmp_path: Path, folder: Path, sessions: list[str], precision: str
) -> None:
    path = engine_file(tmp_path, precision)
    plain = output(OnnxRuntimeBackend().load(path))
    assert entries(folder) == [], "it was not asked to keep anything"
    sessions.clear()
    first, second = (load(path) for _ in range(2))
    (kept,) = entries(folder)
    assert sessions == [str(path), str(kept / GRAPH)]
    assert (second.inputs, second.outputs) == (first.inputs, first.outputs)
    assert np.array_equal(output(first), plain)
    assert np.array_equal(output(second), plain)
    # The weights are not in the graph, so that they need not be read to be parsed.
    assert (kept / WEIGHTS).stat().st_size >= 32 * 32 * 9
    assert (kept / GRAPH).stat().st_size < 20_000
    # Nothing of it is worked on again.
    operators = {
        node.op_type for node in onnx.load(kept / GRAPH, load_external_data=False).graph.node
    }
    assert operators & ({"QLinearConv"} if precision == "int8" else {"Conv", "FusedConv"})


def test_a_graph_depends_on_all_that_it_was_made_by(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = engine_file(tmp_path, "int8")
    quantized = output(load(path))
    assert not np.array_equal(output(load(path, exact=True)), quantized)
    assert len(entries(folder)) == 2
    monkeypatch.setattr("trtkit.engines.onnxruntime.processor_features", lambda: "another one")
    load(path)
    assert len(entries(folder)) == 3
    monkeypatch.setattr(onnxruntime, "__version__", "99.0")
    load(path)
    assert len(entries(folder)) == 4
    load(engine_file(tmp_path, "fp32"))
    assert len(entries(folder)) == 5


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: changed(kept / GRAPH),
        lambda kept: changed(kept / WEIGHTS),
        lambda kept: (kept / WEIGHTS).unlink(),
        lambda kept: os.truncate(kept / WEIGHTS, 100),
        lambda kept: (kept / RECORD).write_text("{"),
        lambda kept: (kept / RECORD).unlink(),
        shutil.rmtree,
    ],
)
def test_a_damaged_graph_is_made_again(
    tmp_path: Path, folder: Path, sessions: list[str], damage: Callable[[Path], None]
) -> None:
    path = engine_file(tmp_path, "fp32")
    expected = output(load(path))
    (kept,) = entries(folder)
    damage(kept)
    sessions.clear()
    assert np.array_equal(output(load(path)), expected)
    assert sessions == [str(path)]
    load(path)
    assert sessions == [str(path), str(kept / GRAPH)]


def test_a_graph_that_cannot_be_loaded_is_forgotten(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = engine_file(tmp_path, "fp32")
    expected = output(load(path))
    (kept,) = entries(folder)
    (kept / GRAPH).write_bytes(b"not onnx")
    digests = {name: file_digest(kept / name) for name in (GRAPH, WEIGHTS)}
    (kept / RECORD).write_text(json.dumps(digests))
    assert np.array_equal(output(load(path)), expected)
    assert entries(folder) == []


def test_a_damaged_engine_says_so_and_keeps_nothing(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"not onnx")
    with pytest.raises(TrtkitError, match=r"cannot load .*bad\.onnx .* build the bundle again"):
        load(path)
    assert entries(folder) == []


def test_off_keeps_nothing(
    tmp_path: Path, sessions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTKIT_GRAPHS", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    path = engine_file(tmp_path, "fp32")
    sessions.clear()
    for _ in range(2):
        load(path)
    assert sessions == [str(path)] * 2
    assert not (tmp_path / "xdg").exists()


def test_the_usual_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRTKIT_GRAPHS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert KeptGraphs.usual() == KeptGraphs(tmp_path / "trtkit" / "graphs")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert KeptGraphs.usual() == KeptGraphs(tmp_path / ".cache" / "trtkit" / "graphs")


def test_without_room_or_leave_to_write_it_loads_all_the_same(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = engine_file(tmp_path, "fp32")
    expected = output(OnnxRuntimeBackend().load(path))
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)._replace(free=MOST_BYTES - 1)
        patch.setattr(shutil, "disk_usage", lambda where: usage)
        assert np.array_equal(output(load(path)), expected)
    assert entries(folder) == []
    folder.rmdir()
    folder.write_text("a file where the folder should be")
    assert np.array_equal(output(load(path)), expected)


def kept(graphs: KeptGraphs, key: str, size: int) -> None:
    def write(path: Path) -> bool:
        path.write_bytes(bytes(size))
        return True

    assert graphs.keep(key, write)


def test_those_unused_longest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = KeptGraphs(tmp_path)
    for age, key in enumerate("cab"):
        kept(graphs, key, 1000)
        os.utime(tmp_path / key, (1e9 + age, 1e9 + age))
    assert graphs.find("c") == tmp_path / "c" / GRAPH
    monkeypatch.setattr(optimised, "MOST_BYTES", 3600)
    kept(graphs, "d", 1000)
    # With what is beside each graph three are below the limit.
    assert {path.name for path in entries(tmp_path)} == {"b", "c", "d"}
    monkeypatch.setattr(optimised, "MOST_BYTES", 10)
    kept(graphs, "e", 1000)
    assert [path.name for path in entries(tmp_path)] == ["e"]


def test_what_a_killed_load_left_goes_after_a_while(tmp_path: Path) -> None:
    graphs = KeptGraphs(tmp_path)
    for name, age in ((f"{SCRATCH_PREFIX}old", 2e9), (f"{SCRATCH_PREFIX}new", 0)):
        (tmp_path / name).mkdir()
        stamp = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (stamp, stamp))
    kept(graphs, "a", 10)
    assert [path.name for path in entries(tmp_path)] == [f"{SCRATCH_PREFIX}new", "a"]


def test_the_faster_of_two_is_kept(tmp_path: Path) -> None:
    graphs = KeptGraphs(tmp_path)

    def slow(path: Path) -> str:
        kept(graphs, "a", 10)
        path.write_bytes(bytes(20))
        return "loaded"

    assert graphs.keep("a", slow) == "loaded"
    assert (tmp_path / "a" / GRAPH).stat().st_size == 10
    assert graphs.find("a") is not None
    assert [path.name for path in entries(tmp_path)] == ["a"]


def test_a_build_keeps_the_graphs_that_its_bundle_is_loaded_from(
    exports: Path, digits: Path, tmp_path: Path, folder: Path, sessions: list[str]
) -> None:
    (tmp_path / "export").symlink_to(exports)
    trtkit.build(["resnet18"], cut=2, precision="fp32", workspace=tmp_path)
    assert len(entries(folder)) == 2
    sessions.clear()
    (bundle,) = (path for path in (tmp_path / "engines").iterdir() if path.name[0] != ".")
    with trtkit.open_bundle(bundle) as pipeline:
        (found,) = pipeline.infer([min(digits.rglob("*.*"))])
    assert found.error is None
    assert len(sessions) == 2
    assert all(path.startswith(str(folder)) for path in sessions)
