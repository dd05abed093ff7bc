"""The state of a training on disk: going on from it is as if nothing had happened."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trtkit.errors import TrtkitError
from trtkit.models import checkpoint
from trtkit.models import weights as model_weights
from trtkit.models.checkpoint import save_checkpoint
from trtkit.preprocessing import Preprocessing
from trtkit.serialization import from_plain, to_plain
from trtkit.training.loop import make_optimizer
from trtkit.training.options import TrainOptions
from trtkit.training.state import Epoch, Progress, Trainee, load_state, save_state

INPUTS = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
EPOCH = Epoch(1, 0.01, 2.5, 0.25, 1 / 3, 0.75, 1.0, 12.5, 80.1, 0.125)


def trainee(optimizer: str, seed: int = 0, channels: int = 5) -> Trainee:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(),
        nn.Linear(36 * channels, 4),
    )  # fmt: skip
    options = TrainOptions("resnet18", optimizer=optimizer, weight_decay=0.1)
    return Trainee(network, make_optimizer(network, options), torch.amp.GradScaler(enabled=False))


def step(one: Trainee) -> None:
    one.network.train()
    loss = nn.functional.cross_entropy(one.network(INPUTS), LABELS)
    one.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    one.optimizer.step()


def content(one: Trainee) -> dict[str, bytes]:
    """Every tensor of weights, statistics and optimizer, bit for bit."""
    tensors = dict(one.network.state_dict())
    for index, values in one.optimizer.state_dict()["state"].items():
        tensors.update({f"{index}.{name}": value for name, value in values.items()})
    return {
        name: f"{value.dtype} {tuple(value.shape)} ".encode() + value.numpy().tobytes()
        for name, value in tensors.items()
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_step_after_loading_is_the_step_without_a_break(tmp_path, optimizer, before):
    path = tmp_path / "resume.safetensors"
    first = trainee(optimizer)
    for _ in range(before):
        step(first)
    progress = Progress(epoch=2, step=before, images=6 * before, loss=1 / 3, epochs=[EPOCH])
    save_state(path, first, progress)
    saved = content(first)
    other = trainee(optimizer, seed=1)
    # Loading leaves nothing of what was there.
    step(other)
    step(other)
    assert content(other) != saved
    assert load_state(path, other) == progress
    assert content(other) == saved
    for _ in range(3):
        step(first)
        step(other)
        assert content(other) == content(first)
    assert content(first) != saved
    assert len(saved) > len(first.network.state_dict()) or before == 0


def test_the_learning_rate_is_the_training_s_own_and_not_the_file_s(tmp_path):
    first, other = trainee("sgd"), trainee("sgd")
    for group in first.optimizer.param_groups:
        group["lr"] = 7.0
    save_state(tmp_path / "state.safetensors", first, Progress())
    load_state(tmp_path / "state.safetensors", other)
    assert [group["lr"] for group in other.optimizer.param_groups] == [0.01, 0.01]
    assert [group["weight_decay"] for group in other.optimizer.param_groups] == [0.1, 0.0]


def test_a_new_state_replaces_the_old_one_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    one = trainee("sgd")
    save_state(path, one, Progress(epoch=1))
    step(one)
    save_state(path, one, Progress(epoch=2))
    old = path.read_bytes()

    def torn(state, file, metadata):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", torn)
    with pytest.raises(TrtkitError, match=r"state\.safetensors cannot be written \(No space left"):
        save_state(path, one, Progress(epoch=3))
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert load_state(path, trainee("sgd")).epoch == 2


def refusal(path, one: Trainee) -> str:
    with pytest.raises(TrtkitError) as caught:
        load_state(path, one)
    return str(caught.value)


def test_another_model_s_state_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, trainee("sgd", channels=6), Progress())
    message = refusal(path, trainee("sgd"))
    assert message.startswith(f"{path} is not the state of this training (")
    assert message.endswith("); remove it to begin the training anew.")


def test_the_refusal_is_one_sentence(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, trainee("sgd", channels=6), Progress())
    message = refusal(path, trainee("sgd"))
    assert "\n" not in message
    assert len(message) < 400


def test_a_checkpoint_is_no_state(tmp_path):
    path = tmp_path / "best.safetensors"
    model = model_weights.random("resnet18", classes=2).model
    save_checkpoint(path, model, ["a", "b"], Preprocessing())
    assert "is not the state of this training" in refusal(path, trainee("sgd"))


def test_a_state_without_progress_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    one = trainee("sgd")
    tensors = {f"model.{name}": value for name, value in one.network.state_dict().items()}
    checkpoint.write_tensors(path, tensors, {"scaler": {}})
    assert "is not the state of this training ('progress')" in refusal(path, one)


@pytest.mark.parametrize("keep", [0, 9, 500])
def test_a_state_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "state.safetensors"
    save_state(path, trainee("sgd"), Progress())
    path.write_bytes(path.read_bytes()[:keep])
    what = "is not " if keep else "is empty"
    assert f"state.safetensors {what}" in refusal(path, trainee("sgd"))


def test_a_state_of_a_cpu_goes_on_in_mixed_precision(tmp_path):
    path = tmp_path / "state.safetensors"
    one = trainee("sgd")
    step(one)
    save_state(path, one, Progress(step=1))
    other = trainee("sgd")
    mixed = Trainee(other.network, other.optimizer, torch.amp.GradScaler("cpu", enabled=True))
    assert load_state(path, mixed).step == 1
    assert mixed.scaler.is_enabled()


def test_the_scaler_s_state_comes_back(tmp_path):
    path = tmp_path / "state.safetensors"
    one, other = trainee("sgd"), trainee("sgd")
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for scale in (1024.0, 8.0)]
    save_state(path, Trainee(one.network, one.optimizer, scalers[0]), Progress())
    load_state(path, Trainee(other.network, other.optimizer, scalers[1]))
    assert scalers[1].get_scale() == 1024.0
    # And one that computes in full precision does without.
    assert load_state(path, trainee("sgd")) == Progress()


shares = st.floats(0, 1)
positive = st.floats(0, 1e9)
epochs = st.builds(
    Epoch, st.integers(1, 99), positive, positive, shares, positive, shares, shares, positive,
    positive, shares,
)  # fmt: skip


@given(
    st.builds(
        Progress,
        epoch=st.integers(1, 99),
        step=st.integers(0, 10**6),
        images=st.integers(0, 10**9),
        loss=positive,
        correct=st.integers(0, 10**9),
        seconds=positive,
        waited=positive,
        epochs=st.lists(epochs, max_size=4),
    )
)
@settings(deadline=None)
def test_progress_comes_back_from_json(progress):
    assert from_plain(json.loads(json.dumps(to_plain(progress))), Progress) == progress


def test_the_best_epoch_has_the_best_top1_and_then_the_least_loss():
    def epoch(number: int, top1: float, loss: float) -> Epoch:
        return Epoch(number, 0.1, 1.0, 0.5, loss, top1, 1.0, 1.0, 1.0, 0.0)

    progress = Progress(step=3, images=9, loss=2.0, correct=4, seconds=1.5, waited=0.5)
    assert progress.best is None
    best = []
    for ended in (epoch(1, 0.5, 1.0), epoch(2, 0.5, 0.9), epoch(3, 0.4, 0.1), epoch(4, 0.5, 0.9)):
        progress.end_epoch(ended)
        best.append(progress.best.epoch)
    assert best == [1, 2, 2, 2]
    assert progress == Progress(epoch=5, epochs=progress.epochs)
