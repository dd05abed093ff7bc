"""Publishing bundles, also by several builds at once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from trtkit import bundle
from trtkit.bundle import Manifest, Stage, check_files, read_manifest
from trtkit.errors import TrtkitError
from trtkit.identity import file_digest
from trtkit.preprocessing import Preprocessing
from trtkit.tensors import TensorSpec

SPEC = TensorSpec("x", "float32", (None, 3))


def stage(folder: Path, name: str, content: str, parent: str | None = None) -> Stage:
    """A stage whose engine file, in `folder`, holds `content`."""
    path = folder / f"{name}-{content}.onnx"
    path.write_text(content)
    return Stage(
        name, content, parent, path.name, file_digest(path), (SPEC,), (SPEC,), ("cat", "dog")
    )


def manifest(*stages: Stage) -> Manifest:
    return Manifest(
        name="b", build_id="0", cut=0, precision="fp32", computes="fp32", backend="onnxruntime",
        backend_version="1", trtkit_version="1", created="now", batch=(1, 2, 3),
        preprocessing=Preprocessing(), stages=stages, weights={"m": "random seed 0"},
        verified={"source": "generated"},
    )  # fmt: skip


def publish(engines: Path, content: str) -> Manifest:
    with bundle.staging(engines) as staged:
        built = manifest(stage(staged, "a", content), stage(staged, "b", content))
        bundle.publish(engines / "b", staged, built)
    return built


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    built = publish(tmp_path, "one")
    assert read_manifest(tmp_path / "b") == built


def test_publishing_replaces_the_old_files(tmp_path):
    publish(tmp_path, "one")
    publish(tmp_path, "two")
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert names == {"a-two.onnx", "b-two.onnx", bundle.MANIFEST}
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_builds_of_one_bundle_at_once_leave_one_of_them(tmp_path):
    for number in range(25):
        start = threading.Barrier(4)

        def build(content: str, start: threading.Barrier = start) -> None:
            with bundle.staging(tmp_path) as staged:
                built = manifest(*(stage(staged, f"s{i}", content) for i in range(6)))
                start.wait()
                bundle.publish(tmp_path / "b", staged, built)

        threads = [threading.Thread(target=build, args=(f"{number}{letter}",)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = read_manifest(tmp_path / "b")
        check_files(tmp_path / "b", found.stages)
        assert len(list((tmp_path / "b").iterdir())) == 7


def test_staging_is_removed_whatever_happens(tmp_path):
    with pytest.raises(RuntimeError), bundle.staging(tmp_path) as staged:
        (staged / "half").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_killed_builds_left_is_swept_away(tmp_path):
    dead = tmp_path / f"{bundle.STAGING_PREFIX}999999999-x"
    dead.mkdir()
    with bundle.staging(tmp_path) as other, bundle.staging(tmp_path):
        assert not dead.exists()
        assert other.exists()


def test_tails_and_paths(tmp_path):
    prefix = replace(stage(tmp_path, "prefix", "p"), classes=None)
    one = stage(tmp_path, "one", "1", "prefix")
    two = stage(tmp_path, "two", "2", "prefix")
    built = manifest(prefix, one, two)
    assert built.tails == (one, two)
    assert built.tail() == one
    assert built.path_to(built.tail("two")) == (prefix, two)
    with pytest.raises(TrtkitError, match="no tail 'tow' in the bundle b; there is two"):
        built.tail("tow")
