"""Reading checkpoints of every kind, and refusing what is not one."""

from __future__ import annotations

import json
import os
import pickle
import random
from contextlib import suppress

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tests.thin import thin_networks
from trtkit.errors import TrtkitError
from trtkit.models import checkpoint, weights
from trtkit.models.checkpoint import load, read_checkpoint, save_checkpoint
from trtkit.models.matching import matched_network
from trtkit.preprocessing import Preprocessing
from trtkit.serialization import to_plain


@pytest.fixture(scope="module")
def model():
    return weights.random("resnet18", seed=5, classes=3).model


def same_weights(a, b) -> bool:
    mine, other = a.network.state_dict(), b.network.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


def test_safetensors_round_trip(tmp_path, model):
    path = tmp_path / "cheap.safetensors"
    save_checkpoint(path, model, ["cat", "dog", "owl"], Preprocessing.for_image_size(96))
    found = load(read_checkpoint(path))
    assert same_weights(found.model, model)
    assert found.model.architecture == "resnet18"
    assert found.classes == ["cat", "dog", "owl"]
    assert found.preprocessing == Preprocessing(96, 96, 110)
    assert found.source == "checkpoint cheap.safetensors"


def test_what_a_checkpoint_says_of_itself(tmp_path, model):
    path = tmp_path / "best.safetensors"
    about = {
        "name": "chéap 2",
        "mode": "freeze",
        "metrics": {"top1": 1 / 3, "epoch": 7},
        "prefix": None,
        "dataset": {"classes": ["ä", "b", "c"], "train": 12},
    }
    save_checkpoint(path, model, ["ä", "b", "c"], Preprocessing(), about)
    found = read_checkpoint(path)
    assert found.metadata == {
        "architecture": "resnet18",
        "classes": ["ä", "b", "c"],
        "preprocessing": to_plain(Preprocessing()),
        **about,
    }
    assert same_weights(load(found).model, model)
    # Whoever is told of the weights hears the training's name, all of whose files are called alike.
    assert load(found).source == "checkpoint chéap 2 (best.safetensors)"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_checkpoint_has_the_user_s_own_mode(tmp_path, model, umask, mode):
    path = tmp_path / "best.safetensors"
    before = os.umask(umask)
    try:
        # Over an older one, too.
        for _ in range(2):
            save_checkpoint(path, model, ["a", "b", "c"], Preprocessing())
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, model, monkeypatch):
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, model, ["a", "b", "c"], Preprocessing())
    old = path.read_bytes()

    def full(state, file, metadata):
        file.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)\nand more")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrtkitError) as caught:
        save_checkpoint(path, model, ["x", "y", "z"], Preprocessing())
    assert str(caught.value) == (
        f"{path} cannot be written (I/O error: No space left on device (os error 28)); free space "
        "there, mend its permissions or choose another folder."
    )
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_a_state_dict_is_recognised_by_its_shapes(tmp_path, model, wrap):
    path = tmp_path / "model.pth"
    torch.save(wrap(model.network.state_dict()), path)
    found = load(read_checkpoint(path))
    assert found.model.architecture == "resnet18"
    assert found.model.classes == 3
    assert same_weights(found.model, model)


def test_data_parallel_prefixes_are_dropped(tmp_path, model):
    path = tmp_path / "parallel.pt"
    torch.save({f"module.{k}": v for k, v in model.network.state_dict().items()}, path)
    assert same_weights(load(read_checkpoint(path)).model, model)


def test_an_old_file_without_batch_counters_loads(tmp_path, model):
    path = tmp_path / "old.pth"
    state = {k: v for k, v in model.network.state_dict().items() if "num_batches" not in k}
    torch.save(state, path)
    assert torch.equal(load(read_checkpoint(path)).model.network.fc.weight, model.network.fc.weight)


@pytest.mark.parametrize(
    "name", ["resnet34", "resnet152", "vgg13_bn", "resnext50_32x4d", "resnext101_64x4d", "wide_resnet101_2"]
)  # fmt: skip
def test_an_architecture_is_known_by_its_shapes(name):
    from trtkit.models.architectures import create

    state = create(name, 7, device="meta").network.state_dict()
    matched = matched_network(state, None, "it").model
    assert (matched.architecture, matched.classes) == (name, 7)


def test_another_architecture_is_refused_with_what_it_is(tmp_path, model):
    path = tmp_path / "r18.pth"
    torch.save(model.network.state_dict(), path)
    with pytest.raises(TrtkitError, match=r"does not fit resnet50: .* it holds a resnet18"):
        load(read_checkpoint(path), "resnet50")
    with pytest.raises(TrtkitError, match=r"does not fit vgg11: .* it holds a resnet18"):
        load(read_checkpoint(path), "vgg11")


def test_tensors_of_no_known_architecture(tmp_path):
    path = tmp_path / "odd.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(TrtkitError, match="fits no architecture of trtkit"):
        load(read_checkpoint(path))


class Attack:
    def __reduce__(self):
        return (open, ("attacked", "w"))


def test_a_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    torch.save({"weight": Attack()}, path)
    with pytest.raises(TrtkitError, match="something other than a state dict"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(TrtkitError, match="without executing code"):
        read_checkpoint(path)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
@pytest.mark.parametrize("keep", [0, 7, 1000])
def test_a_truncated_file_is_one_sentence(tmp_path, model, name, keep):
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(model.network.state_dict(), path)
    else:
        save_checkpoint(path, model, ["a", "b", "c"], Preprocessing())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrtkitError, match=name) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_something_else_than_tensors(tmp_path):
    path = tmp_path / "list.pt"
    torch.save([1, 2, 3], path)
    with pytest.raises(TrtkitError, match="holds something other than a state dict"):
        read_checkpoint(path)


def test_a_missing_file():
    with pytest.raises(TrtkitError, match=r"Checkpoint nowhere\.pth not found"):
        read_checkpoint(__import__("pathlib").Path("nowhere.pth"))


@pytest.mark.parametrize(
    "names",
    [
        {"class_to_idx": {"owl": 2, "cat": 0, "dog": 1}},
        {"meta": {"categories": ["cat", "dog", "owl"]}},
        {"hyper_parameters": {"class_names": ("cat", "dog", "owl")}},
    ],
)
def test_class_names_beside_the_weights_are_read(tmp_path, model, names):
    path = tmp_path / "ckpt.pth"
    torch.save({"state_dict": model.network.state_dict(), "epoch": 3, **names}, path)
    assert load(read_checkpoint(path)).classes == ["cat", "dog", "owl"]


def test_one_output_means_two_classes(tmp_path):
    single = weights.random("resnet18", seed=5, classes=1).model
    path = tmp_path / "binary.pth"
    torch.save(single.network.state_dict(), path)
    images = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        expected = torch.sigmoid(single.network(images))[:, 0]
        pair = load(read_checkpoint(path)).model
        assert pair.classes == 2
        scores = torch.softmax(pair.network(images), dim=1)
    assert float(expected.max() - expected.min()) > 1e-3
    torch.testing.assert_close(scores, torch.stack([1 - expected, expected], dim=1))


@pytest.fixture(scope="module")
def thin_model():
    with thin_networks(16):
        return weights.random("resnet18", seed=5, classes=3).model


def damaged_copies(data: bytes, count: int, seed: int):
    """`data` with one bit turned, most of them in the header, `count` times."""
    draw = random.Random(seed)
    head = 8 + int.from_bytes(data[:8], "little")
    for number in range(count):
        at, bit = draw.randrange(head if number % 4 else len(data)), draw.randrange(8)
        yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_no_single_bit_of_a_checkpoint_changes_a_weight_or_a_class(tmp_path, thin_model):
    path = tmp_path / "best.safetensors"
    classes = ["cat", "dog", "owl"]
    save_checkpoint(path, thin_model, classes, Preprocessing.for_image_size(96))
    refused = 0
    with thin_networks(16):
        for damaged in damaged_copies(path.read_bytes(), 200, seed=4):
            path.write_bytes(damaged)
            try:
                found = load(read_checkpoint(path))
            except TrtkitError:
                refused += 1
                continue
            assert same_weights(found.model, thin_model)
            assert (found.classes, found.preprocessing) == (classes, Preprocessing(96, 96, 110))
    assert refused > 190


def test_damage_without_a_seal_is_one_sentence_or_none(tmp_path, thin_model):
    path = tmp_path / "foreign.safetensors"
    about = {
        "architecture": "resnet18",
        "classes": ["a", "b", "c"],
        "preprocessing": {"resize": 300},
    }
    state = {name: value.contiguous() for name, value in thin_model.network.state_dict().items()}
    save_file(state, path, {"trtkit": json.dumps(about)})
    with thin_networks(16):
        for damaged in damaged_copies(path.read_bytes(), 150, seed=5):
            path.write_bytes(damaged)
            with suppress(TrtkitError):
                load(read_checkpoint(path))


@pytest.mark.parametrize(
    "about",
    ["[]", "[" * 100_000, '{"classes": [1, 2, 3]}', '{"preprocessing": {"resize": "wide"}}'],
)
def test_metadata_of_another_kind_are_one_sentence(tmp_path, thin_model, about):
    path = tmp_path / "odd.safetensors"
    state = {name: value.contiguous() for name, value in thin_model.network.state_dict().items()}
    save_file(state, path, {"trtkit": about})
    with (
        thin_networks(16),
        pytest.raises(TrtkitError, match="save the checkpoint anew|save it anew"),
    ):
        load(read_checkpoint(path))


def test_equal_checkpoints_are_equal_files(tmp_path):
    with thin_networks():
        model = weights.random("resnet18", classes=2).model
    files = [tmp_path / f"{number}.safetensors" for number in range(6)]
    for file in files:
        save_checkpoint(file, model, ["a", "b"], Preprocessing(), {"seed": 1})
    assert len({file.read_bytes() for file in files}) == 1
    assert "trtkit.seal" not in read_checkpoint(files[0]).metadata
