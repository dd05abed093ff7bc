"""A model divided into the front that stays as it is and the back that learns."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from trtkit.errors import TrtkitError
from trtkit.models import weights
from trtkit.models.blocks import Normalise, prefix_digest
from trtkit.training.loop import make_optimizer
from trtkit.training.network import TrainedNetwork, choose_device, penultimate_features
from trtkit.training.options import TrainOptions

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
LABELS = torch.tensor([0, 1, 2, 0])
BLOCKS = 8


@functools.cache
def shell(name: str):
    return weights.random(name, classes=3).model


@functools.cache
def state_of(name: str) -> dict[str, torch.Tensor]:
    """Random weights, made once; with batch norm statistics that are not those of a new layer."""
    state = tensors(shell(name).network)
    generator = torch.Generator().manual_seed(1)
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
        if key.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return state


def network(name: str, frozen: int | None) -> TrainedNetwork:
    model = shell(name)
    model.network.requires_grad_(True)
    model.network.zero_grad()
    model.network.eval()
    model.network.load_state_dict(state_of(name))
    return TrainedNetwork(model, frozen, CPU)


def tensors(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def learn(net: TrainedNetwork, steps: int = 2) -> None:
    optimizer = make_optimizer(net.back, TrainOptions("resnet18", lr=0.01, weight_decay=0.1))
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(net.logits(torch.from_numpy(IMAGES)), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
@pytest.mark.parametrize("frozen", [None, 2, BLOCKS])
def test_logits_are_those_of_the_plain_network(name, frozen):
    net = network(name, frozen)
    plain = net.model.network.eval()
    with torch.inference_mode():
        expected = plain(Normalise()(torch.from_numpy(IMAGES)))
    with net.evaluating():
        logits = net.logits(net.to_device(IMAGES))
        assert logits.dtype == torch.float32
        assert torch.equal(logits, expected)
        # From what the front gives, as the feature store has it.
        maps = net.features(IMAGES)
        assert maps.dtype == np.float32
        # Photos come with their channels last and maps do not: sums are rounded in another order.
        assert torch.allclose(net.logits(net.to_device(maps)), expected, rtol=1e-4, atol=1e-6)
        half = net.logits(net.to_device(maps.astype(np.float16)))
    assert torch.allclose(half, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "frozen"), [("resnet18", 2), ("resnet18", 8), ("vgg11_bn", 3)])
@pytest.mark.parametrize("evaluated", [False, True])
def test_the_front_stays_as_it_is_while_the_back_learns(name, frozen, evaluated):
    net = network(name, frozen)
    net.back.train()
    if name == "vgg11_bn":
        # A hundred million weights that would only take time.
        net.model.network.classifier[0].requires_grad_(False)
    front, back = tensors(net.front), tensors(net.back)
    digest = prefix_digest(net.model, frozen)
    maps = net.features(IMAGES)
    if evaluated:
        with net.evaluating():
            net.logits(net.to_device(IMAGES))
    learn(net)
    if evaluated:
        with net.evaluating():
            net.logits(net.to_device(IMAGES))
        learn(net, 1)
    assert equal(tensors(net.front), front)
    assert prefix_digest(net.model, frozen) == digest
    assert np.array_equal(net.features(IMAGES), maps)
    assert all(value.grad is None and not value.requires_grad for value in net.front.parameters())
    assert not any(module.training for module in net.front.modules())
    after = tensors(net.back)
    learning = {name for name, value in net.back.named_parameters() if value.requires_grad}
    learning |= {name for name in after if "running" in name or "tracked" in name}
    assert {name for name in after if not torch.equal(after[name], back[name])} == learning
    assert len(learning) > 2 * (BLOCKS - frozen)


def test_with_nothing_frozen_all_learns():
    net = network("resnet18", None)
    net.back.train()
    before = tensors(net.model.network)
    learn(net)
    after = tensors(net.model.network)
    assert all(not torch.equal(after[key], before[key]) for key in after)
    assert len(list(net.front.parameters())) == 0
    with net.evaluating():
        np.testing.assert_array_equal(
            net.features(IMAGES), Normalise()(torch.from_numpy(IMAGES)).numpy()
        )


# Models come in evaluation mode.
@pytest.mark.parametrize("frozen", [None, 2, 7])
def test_the_back_of_a_new_network_is_in_training_mode(frozen):
    net = network("resnet18", frozen)
    assert all(module.training for module in net.back.modules())
    statistics = {k: v for k, v in tensors(net.back).items() if "running" in k}
    learn(net, 1)
    assert all(not torch.equal(tensors(net.back)[key], statistics[key]) for key in statistics)


def test_evaluating_changes_nothing_and_goes_back_to_training():
    net = network("resnet18", 2)
    before = tensors(net.model.network)
    with net.evaluating():
        assert not any(module.training for module in net.back.modules())
        assert not net.logits(net.to_device(IMAGES)).requires_grad
    assert equal(tensors(net.model.network), before)
    assert all(module.training for module in net.back.modules())
    assert not any(module.training for module in net.front.modules())
    with pytest.raises(ZeroDivisionError), net.evaluating():
        raise ZeroDivisionError
    assert all(module.training for module in net.back.modules())
    assert net.logits(net.to_device(IMAGES)).requires_grad


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("vgg11_bn", 4096)])
def test_penultimate_features_are_the_last_layer_s_input(name, width):
    net = network(name, BLOCKS)
    module = penultimate_features(net)
    with torch.inference_mode():
        features = module(torch.from_numpy(IMAGES))
        assert features.shape == (4, width)
        last = [m for m in net.model.network.modules() if isinstance(m, torch.nn.Linear)][-1]
        expected = net.model.network.eval()(Normalise()(torch.from_numpy(IMAGES)))
        assert torch.equal(last(features), expected)


def test_mixed_precision_is_for_gpus_alone():
    assert not TrainedNetwork(shell("resnet18"), 2, CPU, mixed=True).mixed


def test_devices(monkeypatch):
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "gpu", "tpu", "", "mps"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(TrtkitError) as caught:
        choose_device(name)
    assert str(caught.value) == (
        f"--device {name} cannot be used with torch {torch.__version__} here; available: cpu."
    )


def test_a_device_that_computes_nothing_is_refused():
    with pytest.raises(TrtkitError, match="--device meta cannot be used"):
        choose_device("meta")
