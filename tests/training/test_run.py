"""The folder of a training."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from trtkit.errors import TrtkitError
from trtkit.serialization import to_plain, write_json
from trtkit.training.options import TrainOptions
from trtkit.training.run import Run
from trtkit.workspace import Workspace

RECORD = {"trtkit": "0.1.0", "options": to_plain(TrainOptions("resnet18", epochs=3))}


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path)


def refusal(call, *arguments) -> str:
    with pytest.raises(TrtkitError) as caught:
        call(*arguments)
    return str(caught.value)


def test_a_run_is_found_again_as_it_was_begun(place):
    run = Run.create(place, "mine", RECORD)
    again = Run.open(place, "mine")
    assert again == run and again.options == TrainOptions("resnet18", epochs=3)
    assert again.folder == place.checkpoints / "mine" and again.metrics is None


def test_a_name_is_used_once(place):
    Run.create(place, "mine", RECORD)
    assert "Training `mine` already exists in" in refusal(Run.create, place, "mine", RECORD)


def test_what_is_not_there_or_broken(place):
    assert refusal(Run.open, place, "mine").endswith("available: none.")
    run = Run.create(place, "mine", RECORD)
    assert "available: mine." in refusal(Run.open, place, "other")
    (run.folder / "run.json").write_text("{")
    assert "run.json cannot be read" in refusal(Run.open, place, "mine")


def test_options_of_another_version_say_so(place):
    later = {"trtkit": "9.0", "options": {**RECORD["options"], "schedule": "step"}}
    run = Run.create(place, "mine", later)
    message = refusal(lambda: run.options)
    assert "another version of trtkit" in message and "with trtkit 9.0" in message


def test_only_finished_metrics_count(place):
    run = Run.create(place, "mine", RECORD)
    (run.folder / "metrics.json").write_text(json.dumps({"top1": 0.5}))
    assert run.metrics is None
    write_json(run.folder / "metrics.json", {"finished": True, "top1": 0.5})
    assert run.metrics == {"finished": True, "top1": 0.5}


def test_a_training_runs_in_one_process_at_a_time(place):
    run = Run.create(place, "mine", RECORD)
    program = (
        "import sys\n"
        "from trtkit.training.run import Run\n"
        "from trtkit.workspace import Workspace\n"
        "with Run.open(Workspace(__import__('pathlib').Path(sys.argv[1])), 'mine').locked():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(place.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(TrtkitError, match="mine is running in another process"), run.locked():
        pass
    other.communicate()
    with run.locked():
        pass
