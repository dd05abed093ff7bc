"""trtkit train as people type it, and what survives when it is killed or interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import trtkit as trtkit_package
from trtkit.models.checkpoint import read_checkpoint

SMALL = (
    "--arch", "resnet18", "--weights", "random", "--image-size", "32", "--epochs", "4",
    "--augmentation", "light", "--no-flip",
)  # fmt: skip


def started(data: Path, *options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trtkit", "train", str(data), *map(str, options)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def after_epoch(process: subprocess.Popen[str]) -> None:
    """Return once an epoch has ended."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch "):
            return
    raise AssertionError("no epoch ended")


def tensors(checkpoint: Path) -> dict[str, bytes]:
    return {
        name: value.numpy().tobytes() for name, value in read_checkpoint(checkpoint).state.items()
    }


@pytest.fixture
def one_thread(monkeypatch):
    """torch computes with one thread in this process and in those that it starts: the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_killed_at_any_moment_it_resumes_to_the_same_weights(trtkit, digits, tmp_path):
    place = ("--workspace", tmp_path)
    assert trtkit("train", digits, *SMALL, "--name", "unbroken", *place).code == 0
    given: tuple[object, ...] = SMALL
    for delay in (0.0, 0.35):
        process = started(digits, *given, "--name", "killed", *place)
        after_epoch(process)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.communicate()
        given = ("--resume",)
    resumed = trtkit("train", digits, "--resume", "--name", "killed", *place)
    assert resumed.code == 0
    # It went on, and did not begin anew.
    assert "epoch 1/4" not in resumed.err
    folder = tmp_path / "checkpoints"
    for file in ("last.safetensors", "best.safetensors"):
        assert tensors(folder / "killed" / file) == tensors(folder / "unbroken" / file)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_and_says_how_to_resume(digits, tmp_path, number):
    process = started(digits, *SMALL, "--name", "mine", "--workspace", tmp_path)
    after_epoch(process)
    process.send_signal(number)
    out, told = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert told.splitlines()[-1] == (
        f"The training mine was interrupted; `trtkit train {digits} --name mine --resume` goes on "
        "with it."
    )
    assert "Traceback" not in told
    state = read_checkpoint(tmp_path / "checkpoints" / "mine" / "resume.safetensors")
    assert state.metadata["progress"]["epoch"] >= 2


def test_what_it_prints(trtkit, digits, tmp_path):
    options = (
        "--arch", "resnet18", "--weights", "random", "--image-size", "32", "--epochs", "1",
        "--workspace", tmp_path,
    )  # fmt: skip
    ended = trtkit("train", digits, *options)
    assert ended.code == 0
    header, row = (line.split("\t") for line in ended.out.splitlines())
    assert header[:3] == ["training", "architecture", "mode"]
    checkpoint = tmp_path / "checkpoints" / "resnet18" / "best.safetensors"
    assert row[:4] == ["resnet18", "resnet18", "finetune", "4"] and row[-1] == str(checkpoint)
    assert ended.err.startswith(
        "4 classes: 0, 1, 2, 3.\n64 photos to train on and 16 to validate on (4:1, seed 0).\n"
    )
    assert "epoch 1/1: loss " in ended.err and " images/s, " in ended.err
    assert ended.err.splitlines()[-1] == f"Next: trtkit export {checkpoint}"

    again = trtkit("train", digits, "--arch", "resnet18", "--resume", "--json", *options[-2:])
    assert again.code == 0 and "has ended already: nothing was done" in again.err
    metrics = json.loads(again.out)
    assert metrics["up_to_date"] is True and metrics["options"]["epochs"] == 1
    assert row[4] == f"{metrics['top1']:.1%}"


@pytest.mark.usefixtures("thin")
def test_the_rate_with_and_without_the_feature_store_is_told(trtkit, digits, cheap, tmp_path):
    shutil.copytree(cheap / "checkpoints", tmp_path / "checkpoints")
    ended = trtkit(
        "train", digits, "--arch", "resnet34", "--weights", "random", "--prefix-from", "cheap",
        "--cut", "2", "--epochs", "1", "--workspace", tmp_path,
    )  # fmt: skip
    assert ended.code == 0
    assert "80 computed in " in ended.err
    assert " images/s from the feature store; through the frozen blocks every epoch " in ended.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "Error: Training needs an architecture; give --arch"),
        (("--arch", "resnet18", "--lr", "0"), "Error: --lr 0.0 is out of range; give more than 0."),
        (("--arch", "resnet18", "--cut", "2"), "Error: --cut 2 needs --prefix-from"),
        (("--arch", "resnet18", "--device", "cuda"), "Error: --device cuda cannot be used"),
        (("--arch", "resnet18", "--device", "gpu"), "Error: --device gpu is unknown"),
        (("--arch", "resnet18", "--cache-size", "much"), "'much' is not a size for the cache"),
        (("--arch", "resnet18", "--name", "../x"), "cannot be the name"),
        (("--resume",), "Error: --resume needs the name of a training"),
    ],
)
def test_bad_options(trtkit, digits, tmp_path, options, sentence):
    weights = () if "--resume" in options else ("--weights", "random", "--image-size", "32")
    ended = trtkit("train", digits, *options, *weights, "--workspace", tmp_path)
    assert ended.code == 2
    assert sentence in ended.err
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("nowhere", "--arch", "resnet18"), "Error: There is no folder nowhere;"),
        ((".", "--arch", "resnet18"), "Error: . has no class folders;"),
        (("data", "--arch", "resnet5"), "Error: Architecture 'resnet5' not found; did you mean"),
        (
            ("data", "--arch", "resnet18", "--weights", "no.pth"),
            "Error: Checkpoint `no.pth` not found",
        ),
    ],
)
def test_a_request_that_makes_no_sense_ends_before_torch_is_imported(
    digits, tmp_path, monkeypatch, options, sentence
):
    (tmp_path / "empty").mkdir()
    data, *rest = options
    data = digits if data == "data" else data
    # Whoever imports torch fails with a traceback.
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "torch.py").write_text("raise SystemError('torch was imported')")
    paths = [str(tmp_path / "blocked"), str(Path(trtkit_package.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    command = [sys.executable, "-m", "trtkit", "train", str(data), *rest]
    ended = subprocess.run(
        command, cwd=tmp_path / "empty", capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(sentence) and len(ended.stderr.splitlines()) == 1


def test_classes_and_options_without_effect_are_told_first(trtkit, digits, tmp_path):
    ended = trtkit(
        "train", digits, "--arch", "resnet18", "--weights", "random", "--image-size", "32",
        "--mode", "bottleneck", "--epochs", "2", "--augment", "2", "--augmentation", "none",
        "--workspace", tmp_path,
    )  # fmt: skip
    assert ended.code == 0
    first, *warnings = ended.err.splitlines()[:3]
    names = sorted(folder.name for folder in digits.iterdir())
    assert first == f"{len(names)} classes: {', '.join(names)}."
    assert [line.split(" because ")[0] for line in warnings] == [
        "Warning: --augment has no effect",
        "Warning: --epochs has no effect with --mode bottleneck, which is fitted in one go.",
    ]


def test_bad_data(trtkit, tmp_path):
    ended = trtkit("train", tmp_path / "nothing", "--arch", "resnet18", "--workspace", tmp_path)
    assert ended.code == 2 and "nothing" in ended.err
    (tmp_path / "data" / "one").mkdir(parents=True)
    ended = trtkit("train", tmp_path / "data", "--arch", "resnet18", "--workspace", tmp_path)
    assert ended.code == 2 and len(ended.err.splitlines()) == 1
