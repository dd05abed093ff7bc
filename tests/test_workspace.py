"""Finding checkpoints in a workspace."""

from __future__ import annotations

import pytest

from trtkit.errors import TrtkitError
from trtkit.workspace import BEST, Workspace


@pytest.fixture
def place(tmp_path) -> Workspace:
    """With the trainings `cheap` and `good`, and `new`, which has no checkpoint yet."""
    root = tmp_path / "workspace"
    for name in ("cheap", "good"):
        (root / "checkpoints" / name).mkdir(parents=True)
        (root / "checkpoints" / name / BEST).write_bytes(name.encode())
        (root / "checkpoints" / name / "last.safetensors").write_bytes(b"last")
    (root / "checkpoints" / "new").mkdir()
    return Workspace(root)


def test_a_checkpoint_by_its_file(place, tmp_path):
    other = tmp_path / "model.pth"
    other.write_bytes(b"")
    last = place.checkpoints / "cheap" / "last.safetensors"
    for path in (other, last):
        assert place.find_checkpoint(path) == path
        assert place.find_checkpoint(str(path)) == path


def test_a_training_s_best_checkpoint_by_its_folder_or_name(place, tmp_path, monkeypatch):
    best = place.checkpoints / "good" / BEST
    assert place.find_checkpoint("good") == best
    assert place.find_checkpoint(place.checkpoints / "good") == best
    monkeypatch.chdir(place.checkpoints)
    assert place.find_checkpoint("good/").resolve() == best
    # Of another workspace, too.
    assert Workspace(tmp_path).find_checkpoint(str(best.parent)) == best


def test_a_path_comes_before_a_name(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").write_bytes(b"a file")
    assert place.find_checkpoint("good").resolve() == tmp_path / "good"


def refusal(place: Workspace, name) -> str:
    with pytest.raises(TrtkitError) as caught:
        place.find_checkpoint(name)
    return str(caught.value)


def test_a_checkpoint_that_is_not_there_names_the_nearest(place):
    assert refusal(place, "goood") == (
        "Checkpoint `goood` not found; give a file, or the name of a training in "
        f"{place.checkpoints} (available: good)."
    )
    # Nothing is like it: all of them. A training without a checkpoint is none.
    assert refusal(place, "zzz").endswith(f"{place.checkpoints} (available: cheap, good).")
    assert refusal(place, "new").startswith("Checkpoint `new` not found; ")
    assert refusal(place, place.checkpoints / "new").startswith("Checkpoint `")
    assert refusal(place, place.checkpoints).startswith("Checkpoint `")


def test_a_workspace_without_trainings(tmp_path):
    place = Workspace(tmp_path)
    assert refusal(place, "good").endswith(f"{place.checkpoints} (available: none).")


def test_a_name_too_long_for_a_file_is_no_checkpoint(place):
    assert refusal(place, "x" * 300).startswith("Checkpoint `")
