"""Checkpoints as people have them: wrapped, prefixed, renamed by libraries, with heads of their own."""

from __future__ import annotations

import argparse
import re
import warnings
from collections import OrderedDict
from enum import Enum
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import trtkit
from trtkit.errors import TrtkitError
from trtkit.models.blocks import GREY_MEAN, GREY_STD, Normalise
from trtkit.models.checkpoint import load, read_checkpoint
from trtkit.models.names import without_ending
from trtkit.preprocessing import LUMA

CLASSES = 5

pytestmark = pytest.mark.usefixtures("thin")


def network(architecture: str = "resnet18", classes: int = CLASSES) -> nn.Module:
    """A network in evaluation mode whose batch norms do something."""
    torch.manual_seed(0)
    made = models.get_model(architecture, weights=None, num_classes=classes)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return made.eval()


def photos(size: int = 64) -> torch.Tensor:
    """Normalised as all networks take them."""
    pixels = torch.randint(0, 256, (2, size, size, 3), generator=torch.Generator().manual_seed(1))
    return Normalise()(pixels.to(torch.uint8))


def saved(tmp_path: Path, content: object, name: str = "model.pth") -> Path:
    path = tmp_path / name
    torch.save(content, path)
    return path


def logits(path: Path, size: int = 64) -> torch.Tensor:
    with torch.inference_mode():
        return load(read_checkpoint(path)).model.network(photos(size))


def check(path: Path, expected: nn.Module, size: int = 64) -> None:
    with torch.inference_mode():
        wanted = expected(photos(size))
    assert wanted.std() > 0
    torch.testing.assert_close(logits(path, size), wanted, rtol=1e-4, atol=1e-5)


def prefixed(state, prefix):
    return OrderedDict((f"{prefix}{name}", value) for name, value in state.items())


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "model.",
        "backbone.",
        "net.encoder.0.",
        "x.",
    ],
)
def test_any_common_prefix_is_dropped(tmp_path, prefix):
    made = network()
    check(saved(tmp_path, prefixed(made.state_dict(), prefix)), made)


WRAPPERS = {
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "pytorch-lightning_version": "2.4.0",
                            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}]},
    "imagenet": lambda s: {"epoch": 3, "arch": "resnet18", "best_acc1": torch.tensor(1.0),
                           "optimizer": {"state": {}, "param_groups": []}, "state_dict": s},
    "tutorial": lambda s: {"epoch": 1, "model_state_dict": s, "loss": 0.5,
                           "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.ones(9)}}}},
    "net": lambda s: {"net": s, "acc": 93.1},
    "weights": lambda s: {"weights": s},
    "nested": lambda s: {"checkpoint": {"model": {"state_dict": prefixed(s, "module.")}}},
    "fastai": lambda s: {"model": s, "opt": {"state": [{"mom": torch.ones(2)}], "hypers": []}},
    "ema-alone": lambda s: {"model_ema": prefixed(s, "module."), "epoch": 3},
    "swa": lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(3)},
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_state_dict_is_found_by_content(tmp_path, wrapper):
    made = network()
    check(saved(tmp_path, WRAPPERS[wrapper](made.state_dict())), made)


@pytest.mark.parametrize("name", ["m.ckpt", "best.pth.tar", "pytorch_model.bin", "m", "7.bak"])
def test_no_ending_is_needed(tmp_path, name):
    made = network()
    check(saved(tmp_path, {"state_dict": made.state_dict()}, name), made)


def test_averages_are_taken_last_and_named(tmp_path):
    made = network()
    halves = {name: value / 2 for name, value in made.state_dict().items()}
    path = saved(tmp_path, {"model_ema": {"module": halves}, "model": made.state_dict()})
    check(path, made)
    (note,) = load(read_checkpoint(path)).notes
    assert note == (
        "model.pth holds several networks: 'model' is taken, 'model_ema.module' is not."
    )


def test_safetensors_are_known_by_their_first_bytes(tmp_path):
    made = network()
    save_file(prefixed(made.state_dict(), "model."), tmp_path / "pytorch_model.bin")
    check(tmp_path / "pytorch_model.bin", made)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_fp32(tmp_path, dtype):
    made = network()
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in made.state_dict().items()}
    loaded = load(read_checkpoint(saved(tmp_path, state))).model.network.state_dict()
    assert loaded.keys() == made.state_dict().keys()
    for name, value in state.items():
        if "num_batches" not in name:
            assert loaded[name].dtype == torch.float32
            torch.testing.assert_close(loaded[name], value.float(), rtol=0, atol=0)


def from_torchvision(name: str) -> str:
    """Hugging Face's name of a torchvision ResNet's tensor."""
    kinds = {"conv": "convolution", "bn": "normalization"}
    if name.startswith("fc."):
        return name.replace("fc.", "classifier.1.")
    if match := re.fullmatch(r"(conv|bn)1\.(.*)", name):
        return f"resnet.embedder.embedder.{kinds[match[1]]}.{match[2]}"
    stage, block, rest = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", name).groups()
    place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}"
    if match := re.fullmatch(r"downsample\.([01])\.(.*)", rest):
        return f"{place}.shortcut.{['convolution', 'normalization'][int(match[1])]}.{match[2]}"
    kind, number, leaf = re.fullmatch(r"(conv|bn)(\d)\.(.*)", rest).groups()
    return f"{place}.layer.{int(number) - 1}.{kinds[kind]}.{leaf}"


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_the_names_of_transformers(tmp_path, architecture):
    made = network(architecture)
    state = {from_torchvision(name): value for name, value in made.state_dict().items()}
    assert "resnet.encoder.stages.1.layers.0.shortcut.normalization.running_var" in state
    save_file(state, tmp_path / "model.safetensors")
    check(tmp_path / "model.safetensors", made)


class ConcatPooling(nn.Module):
    """As fastai writes it."""

    def forward(self, x):
        largest = nn.functional.adaptive_max_pool2d(x, 1)
        return torch.cat([largest, nn.functional.adaptive_avg_pool2d(x, 1)], 1)


def fastai(made: nn.Module, channels: int) -> nn.Module:
    """What fastai's vision_learner makes of a torchvision network."""
    body = nn.Sequential(*list(made.children())[:-2])
    head = nn.Sequential(
        ConcatPooling(), nn.Flatten(), nn.BatchNorm1d(2 * channels), nn.Dropout(0.25),
        nn.Linear(2 * channels, 16, bias=False), nn.ReLU(), nn.BatchNorm1d(16), nn.Dropout(),
        nn.Linear(16, CLASSES, bias=False),
    )  # fmt: skip
    for module in head:
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return nn.Sequential(body, head).eval()


@pytest.mark.parametrize(("architecture", "channels"), [("resnet18", 64), ("vgg11_bn", 64)])
def test_the_names_and_the_head_of_fastai(tmp_path, architecture, channels):
    whole = fastai(network(architecture), channels)
    path = saved(tmp_path, {"model": whole.state_dict(), "opt": {"hypers": [{"lr": 1e-3}]}})
    check(path, whole)
    assert load(read_checkpoint(path)).model.architecture == architecture


def test_the_names_of_timm_s_vgg(tmp_path):
    made = network("vgg11")
    state = dict(made.state_dict())
    channels = 64
    renamed = {name: value for name, value in state.items() if name.startswith("features")}
    first, second = state["classifier.0.weight"], state["classifier.3.weight"]
    renamed |= {
        "pre_logits.fc1.weight": first.reshape(len(first), channels, 7, 7),
        "pre_logits.fc1.bias": state["classifier.0.bias"],
        "pre_logits.fc2.weight": second[:, :, None, None],
        "pre_logits.fc2.bias": state["classifier.3.bias"],
        "head.fc.weight": state["classifier.6.weight"],
        "head.fc.bias": state["classifier.6.bias"],
    }
    check(saved(tmp_path, renamed), made)


def test_the_children_of_a_network_in_a_sequence(tmp_path):
    made = network()
    features = nn.Sequential(*list(made.children())[:-1])
    state = prefixed(features.state_dict(), "features.")
    check(saved(tmp_path, state | prefixed(made.fc.state_dict(), "head.")), made)


HEADS = {
    "dropout": lambda n: nn.Sequential(nn.Dropout(), nn.Linear(n, CLASSES)),
    "no bias": lambda n: nn.Linear(n, CLASSES, bias=False),
    "two layers": lambda n: nn.Sequential(nn.Linear(n, 16), nn.ReLU(), nn.Dropout(),
                                          nn.Linear(16, CLASSES)),
    "no activation": lambda n: nn.Sequential(nn.Linear(n, 16), nn.Linear(16, CLASSES)),
    "norm": lambda n: nn.Sequential(nn.BatchNorm1d(n), nn.Linear(n, CLASSES)),
    "norm behind": lambda n: nn.Sequential(nn.Linear(n, 16), nn.BatchNorm1d(16), nn.ReLU(),
                                           nn.Linear(16, CLASSES)),
    "three layers": lambda n: nn.Sequential(nn.Linear(n, 16), nn.ReLU(), nn.Linear(16, 8),
                                            nn.ReLU(), nn.Linear(8, CLASSES)),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_heads_of_other_layers(tmp_path, head):
    made = network()
    torch.manual_seed(1)
    made.fc = HEADS[head](made.fc.in_features)
    for module in made.fc.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    made.eval()
    check(saved(tmp_path, made.state_dict()), made)


def test_counters_of_batches_are_kept(tmp_path):
    made = network()
    made.bn1.num_batches_tracked.fill_(7)
    path = saved(tmp_path, prefixed(made.state_dict(), "module."))
    loaded = load(read_checkpoint(path)).model.network.state_dict()
    assert loaded.keys() == made.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in made.state_dict().items())


def test_a_vgg_with_a_last_layer_in_a_sequence(tmp_path):
    made = network("vgg11")
    made.classifier[6] = nn.Sequential(nn.Dropout(), made.classifier[6])
    check(saved(tmp_path, made.eval().state_dict()), made)


def test_a_vgg_with_one_layer_behind_its_mean(tmp_path):
    made = network("vgg11")
    made.avgpool, made.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(64, CLASSES)
    check(saved(tmp_path, made.state_dict()), made)


def test_tensors_of_a_loss_are_ignored_and_named(tmp_path):
    made = network()
    losses = {"criterion.weight": torch.ones(CLASSES), "loss_fn.centers": torch.ones(CLASSES, 64)}
    path = saved(tmp_path, made.state_dict() | losses)
    check(path, made)
    (note,) = load(read_checkpoint(path)).notes
    assert note.endswith("are ignored: criterion.weight, loss_fn.centers.")


def test_grey_networks_take_grey(tmp_path):
    made = network()
    made.conv1 = nn.Conv2d(1, made.conv1.out_channels, 7, stride=2, padding=3, bias=False)
    path = saved(tmp_path, made.state_dict())
    pixels = torch.randint(0, 256, (2, 64, 64, 3), generator=torch.Generator().manual_seed(1))
    grey = (pixels * torch.tensor(LUMA)).sum(3)[:, None] / 255
    with torch.inference_mode():
        expected = made((grey - GREY_MEAN) / GREY_STD)
    torch.testing.assert_close(logits(path), expected, rtol=1e-4, atol=1e-4)
    assert "takes one channel" in load(read_checkpoint(path)).notes[0]


def test_the_fourth_channel_is_opacity(tmp_path):
    made = network()
    made.conv1 = nn.Conv2d(4, made.conv1.out_channels, 7, stride=2, padding=3, bias=False)
    path = saved(tmp_path, made.state_dict())
    x = photos()
    with torch.inference_mode():
        expected = made(torch.cat([x, torch.ones(2, 1, 64, 64)], 1))
    torch.testing.assert_close(logits(path), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["grey", "opaque", "fastai"])
def test_other_forms_are_exported_as_torch_computes_them(tmp_path, form):
    made = network()
    if form in ("grey", "opaque"):
        channels = 1 if form == "grey" else 4
        made.conv1 = nn.Conv2d(
            channels, made.conv1.out_channels, 7, stride=2, padding=3, bias=False
        )
    else:
        made = fastai(made, 64)
    path = saved(tmp_path, made.state_dict(), f"{form} model.pth.tar")
    report = trtkit.export(path, image_size=64, workspace=tmp_path)
    assert (report.name, report.architecture, report.classes) == (
        f"{form} model",
        "resnet18",
        CLASSES,
    )
    assert report.opset == 17 and report.verified.relative_error < 1e-4


class Level(Enum):
    LOW = 1


class Settings:
    def __init__(self) -> None:
        self.level, self.path, self.more = Level.LOW, Path("x"), argparse.Namespace(lr=1)


def test_objects_around_the_tensors_are_read_as_dicts_and_not_made(tmp_path):
    made = network()
    path = saved(tmp_path, {"args": Settings(), "model": made.state_dict(), "hparams": made})
    Settings.__setstate__ = Settings.__init__ = lambda *_: pytest.fail("the class was used")
    check(path, made)


def test_a_network_saved_whole_is_read_without_its_class(tmp_path):
    made = network()
    check(saved(tmp_path, made), made)
    check(saved(tmp_path, {"model": nn.DataParallel(made), "epoch": 3}), made)


def test_a_network_that_fits_none_is_compared_with_the_nearest(tmp_path):
    state = network().state_dict()
    state["layer1.0.se.weight"] = torch.ones(3)
    del state["layer4.1.bn2.bias"]
    path = saved(tmp_path, state)
    with pytest.raises(TrtkitError) as caught:
        load(read_checkpoint(path))
    assert str(caught.value) == (
        f"{path} fits no architecture of trtkit; it is nearest to resnet18, but layer1.0.se.weight is 3 "
        "there and missing in resnet18, layer4.1.bn2.bias is missing there and 64 in resnet18; export "
        "the model to ONNX yourself and give the .onnx."
    )


def test_a_layer_between_blocks_and_head_is_not_dropped(tmp_path):
    state = {**network().state_dict(), "attention.weight": torch.ones(64, 64, 1, 1)}
    with pytest.raises(
        TrtkitError, match=r"nearest to resnet18, but attention.weight, which is in"
    ):
        load(read_checkpoint(saved(tmp_path, state)))


def test_blocks_without_a_last_layer_are_no_classifier(tmp_path):
    state = {n: v for n, v in network().state_dict().items() if not n.startswith("fc.")}
    with pytest.raises(TrtkitError, match="the blocks of a resnet18 without the layer that gives"):
        load(read_checkpoint(saved(tmp_path, state)))


def test_names_that_no_network_has_are_named(tmp_path):
    with pytest.raises(
        TrtkitError, match=r"its first tensors are stem.a, stem.b; export the model"
    ):
        load(read_checkpoint(saved(tmp_path, {"stem.a": torch.ones(2), "stem.b": torch.ones(2)})))


def script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(path)


def cut_short(path: Path) -> None:
    torch.save({"a": torch.ones(5000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


def damaged(path: Path) -> None:
    torch.save({"a": torch.ones(5000)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(b"data.pkl")
    content[place + 60 : place + 90] = bytes(30)
    path.write_bytes(content)


WRONG = {
    "lfs": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\n"),
            "is a Git LFS pointer, not the file that it stands for; run `git lfs pull`"),
    "page": (lambda p: p.write_text("\n<!DOCTYPE html><html><body>Log in</body>"),
             "is a web page"),
    "empty": (Path.touch, "is empty; copy or download it again"),
    "script": (script, "is TorchScript, a program with its weights; save it with"),
    "cut": (cut_short, "is cut short"),
    "damaged": (damaged, "is cut short or damaged|cannot be read without executing code"),
    "text": (lambda p: p.write_text("epoch,loss\n"), "is no checkpoint of PyTorch"),
    "hdf5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is HDF5, such as Keras"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_checkpoint_is_named(tmp_path, kind):
    name = "model.ckpt"
    make, message = WRONG[kind]
    make(tmp_path / name)
    with pytest.raises(TrtkitError, match=message) as caught:
        trtkit.export(tmp_path / name, workspace=tmp_path)
    sentence = str(caught.value)
    assert "weights_only" not in sentence and "arbitrary code" not in sentence
    assert "\n" not in sentence


def test_a_missing_training_is_no_bad_name(tmp_path):
    with pytest.raises(TrtkitError, match=r"There is no file or folder checkpoints/nope;"):
        trtkit.export("checkpoints/nope", workspace=tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(TrtkitError, match=r"is a folder without a best\.safetensors"):
        trtkit.export(tmp_path / "folder", workspace=tmp_path)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("a.pth.tar", "a"),
        ("a.b.ckpt", "a.b"),
        ("pytorch_model.bin", "pytorch_model"),
        ("a.7", "a.7"),
    ],
)
def test_names_without_their_endings(name, bare):
    assert without_ending(name) == bare
