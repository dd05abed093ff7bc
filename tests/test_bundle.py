"""Publishing bundles, also by several builds at once."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from trtkit import publishing
from trtkit.bundle import MANIFEST, Manifest, check_files, read_manifest
from trtkit.errors import TrtkitError
from trtkit.identity import file_digest
from trtkit.preprocessing import Preprocessing
from trtkit.stages import Stage, StageInput, StageOutput


def stage(folder: Path, name: str, content: str, parent: str | None = None) -> Stage:
    """A stage whose engine file, in `folder`, holds `content`."""
    path = folder / f"{name}-{content}.onnx"
    path.write_text(content)
    return Stage(
        name=name, id=content.encode().hex(), role="head", parent=parent, file=path.name,
        digest=file_digest(path),
        inputs=(StageInput("x", "float32", (None, 3), None if parent is None else "y"),),
        outputs=(StageOutput("y", "float32", (None, 2), "logits"),), classes=("cat", "dog"),
    )  # fmt: skip


def manifest(*stages: Stage) -> Manifest:
    return Manifest(
        name="b", build_id="0", cut=0, precision="fp32", computes="fp32", backend="onnxruntime",
        backend_version="1", trtkit_version="1", created="now", batch=(1, 2, 3),
        preprocessing=Preprocessing(), stages=stages, weights={"m": "random seed 0"},
        verified={"source": "generated"},
    )  # fmt: skip


def publish(engines: Path, content: str) -> Manifest:
    with publishing.staging(engines) as staged:
        built = manifest(stage(staged, "a", content), stage(staged, "b", content))
        publishing.publish(engines / "b", staged, built)
    return built


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    built = publish(tmp_path, "one")
    assert read_manifest(tmp_path / "b") == built


def test_publishing_replaces_the_old_files(tmp_path):
    publish(tmp_path, "one")
    publish(tmp_path, "two")
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert names == {"a-two.onnx", "b-two.onnx", MANIFEST}
    assert sorted(path.name for path in tmp_path.iterdir()) == [publishing.LOCK, "b"]


def test_builds_of_one_bundle_at_once_leave_one_of_them(tmp_path):
    for number in range(25):
        start = threading.Barrier(4)

        def build(content: str, start: threading.Barrier = start) -> None:
            with publishing.staging(tmp_path) as staged:
                built = manifest(*(stage(staged, f"s{i}", content) for i in range(6)))
                start.wait()
                publishing.publish(tmp_path / "b", staged, built)

        threads = [threading.Thread(target=build, args=(f"{number}{letter}",)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = read_manifest(tmp_path / "b")
        check_files(tmp_path / "b", found.stages)
        assert len(list((tmp_path / "b").iterdir())) == 7


def test_a_lock_file_of_a_dead_build_does_not_matter(tmp_path):
    (tmp_path / publishing.LOCK).write_text("999999999")
    built = publish(tmp_path, "one")
    assert read_manifest(tmp_path / "b") == built


def test_any_user_of_a_shared_folder_may_take_the_lock(tmp_path):
    publish(tmp_path, "one")
    assert stat.S_IMODE((tmp_path / publishing.LOCK).stat().st_mode) == 0o666


def test_publishing_waits_for_another_process(tmp_path):
    code = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / publishing.LOCK)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == b"held\n"
        thread = threading.Thread(target=publish, args=(tmp_path, "one"))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert not (tmp_path / "b").exists()
        other.kill()
        thread.join(30)
    read_manifest(tmp_path / "b")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), NotImplementedError("no flock")]
)
def test_a_folder_that_cannot_be_locked_is_an_error(tmp_path, monkeypatch, error):
    def refuse(self):
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    reason = "Permission denied" if isinstance(error, OSError) else "no flock"
    with pytest.raises(TrtkitError, match=rf"cannot be written \({reason}\); free space there"):
        publish(tmp_path, "one")
    assert list(tmp_path.iterdir()) == []


def test_staging_is_removed_whatever_happens(tmp_path):
    with pytest.raises(RuntimeError), publishing.staging(tmp_path) as staged:
        (staged / "half").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_killed_builds_left_is_swept_away(tmp_path):
    with publishing.staging(tmp_path) as dead:
        pass
    dead.mkdir()
    # The lock of a dead process is free.
    (dead / ".lock").touch()
    with publishing.staging(tmp_path) as other, publishing.staging(tmp_path):
        assert not dead.exists()
        assert other.exists()


def test_tails_and_paths(tmp_path):
    prefix = replace(stage(tmp_path, "prefix", "p"), role="prefix", classes=None)
    one = stage(tmp_path, "one", "1", "prefix")
    two = stage(tmp_path, "two", "2", "prefix")
    built = manifest(prefix, one, two)
    assert built.tails == (one, two)
    assert built.tail() == one
    assert built.path_to(built.tail("two")) == (prefix, two)
    with pytest.raises(TrtkitError, match="Tail `tow` not found in bundle b; available: two"):
        built.tail("tow")


def test_what_a_manifest_says_of_scores_and_names_is_read_back(tmp_path):
    publish(tmp_path, "one")
    path = tmp_path / "b" / MANIFEST
    text = edited(tmp_path / "b").read_text(encoding="utf-8")
    # A bundle of an earlier version says nothing of scores, and names as the files had them.
    assert read_manifest(tmp_path / "b").tails[0].scoring == "softmax"
    text = text.replace('"cat"', '"\\ufeffcafe\\u0301"').replace(
        '"scores": null', '"scores": "sigmoid"'
    )
    path.write_text(text, encoding="utf-8")
    tail = read_manifest(tmp_path / "b").tails[0]
    assert (tail.classes, tail.scoring) == (("caf\u00e9", "dog"), "sigmoid")


def edited(folder: Path, **changed: object) -> Path:
    """The manifest as an earlier version without seals would have written it, with other values."""
    path = folder / MANIFEST
    value = {**json.loads(path.read_text()), **changed}
    del value["seal"]
    path.write_text(json.dumps(value))
    return path


def test_a_manifest_that_was_changed_is_refused(tmp_path):
    publish(tmp_path, "one")
    path = tmp_path / "b" / MANIFEST
    path.write_text(path.read_text().replace('"resize": 256', '"resize": 257'))
    with pytest.raises(
        TrtkitError,
        match=r"bundle.json cannot be read \(it was damaged or changed after trtkit wrote it",
    ):
        read_manifest(tmp_path / "b")


def test_no_single_bit_of_a_manifest_changes_its_meaning(tmp_path):
    built = publish(tmp_path, "one")
    path = tmp_path / "b" / MANIFEST
    data = path.read_bytes()
    draw = random.Random(3)
    for _ in range(300):
        at, bit = draw.randrange(len(data)), draw.randrange(8)
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        with suppress(TrtkitError):
            assert read_manifest(tmp_path / "b") == built


def test_a_manifest_of_an_earlier_version_has_no_seal(tmp_path):
    built = publish(tmp_path, "one")
    edited(tmp_path / "b")
    assert read_manifest(tmp_path / "b") == built


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"batch": [0, 1, 2]}, "batches of 0, 1 and 2"),
        ({"batch": [4, 2, 8]}, "batches of 4, 2 and 8"),
        ({"cut": -1}, "the cut -1"),
        ({"preprocessing": {"height": 0, "width": 1, "resize": 9}}, "cannot be cropped"),
    ],
)
def test_values_that_no_build_writes_are_refused(tmp_path, changed, reason):
    publish(tmp_path, "one")
    edited(tmp_path / "b", **changed)
    with pytest.raises(TrtkitError, match=reason):
        read_manifest(tmp_path / "b")


def test_an_id_that_is_no_digest_is_refused(tmp_path):
    publish(tmp_path, "one")
    stages = json.loads((tmp_path / "b" / MANIFEST).read_text())["stages"]
    stages[0]["id"] = "../x"
    edited(tmp_path / "b", stages=stages)
    with pytest.raises(TrtkitError, match="the id '../x' of stage a is not hexadecimal"):
        read_manifest(tmp_path / "b")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "it is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a link"),
        (lambda path: path.mkdir(), "Is a directory"),
    ],
)
def test_an_engine_is_a_regular_file_of_the_bundle(tmp_path, make, reason):
    built = publish(tmp_path, "one")
    path = tmp_path / "b" / built.stages[0].file
    path.unlink()
    make(path)
    with pytest.raises(TrtkitError, match=rf"{path.name} of stage a cannot be read \({reason}"):
        check_files(tmp_path / "b", built.stages)
    path.with_name(MANIFEST).unlink()
    make(path.with_name(MANIFEST))
    with pytest.raises(TrtkitError, match="bundle.json cannot be read|no bundle in"):
        read_manifest(tmp_path / "b")
