"""The last layer of a model, and another one for other classes."""

from __future__ import annotations

import functools

import pytest
import torch

from trtkit.errors import TrtkitError
from trtkit.models import weights
from trtkit.models.blocks import last_linear, penultimate
from trtkit.models.weights import with_classes

LAST = {"resnet18": "fc", "vgg11": "classifier.6"}
WIDTH = {"resnet18": 512, "vgg11": 4096}
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@functools.cache
def model_of(name: str):
    """Random weights with biases that are not 0. Copied before it is changed: `heads` are light."""
    model = weights.random(name, classes=5).model
    with torch.no_grad():
        _, layer = last_linear(model)
        layer.bias.copy_(torch.arange(5.0))
    return model


def tensors(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.network.state_dict().items()}


@pytest.mark.parametrize("name", LAST)
def test_the_last_layer_gives_the_logits(name):
    model = model_of(name)
    found, layer = last_linear(model)
    assert (found, layer.in_features) == (LAST[name], WIDTH[name])
    assert layer is model.network.get_submodule(LAST[name])
    assert layer.out_features == model.classes


@pytest.mark.parametrize("name", LAST)
def test_penultimate_features_and_the_last_layer_are_the_head(name):
    model = model_of(name)
    model.network.eval()
    with torch.inference_mode():
        maps = model.stem(X)
        for block in model.blocks:
            maps = block.module(maps)
        features = penultimate(model)(maps)
        assert features.shape == (2, WIDTH[name])
        assert torch.equal(last_linear(model)[1](features), model.head(maps))
        assert torch.equal(model.head(maps), model.network(X))


@pytest.mark.parametrize("name", LAST)
def test_a_head_for_other_classes_leaves_the_rest_alone(name):
    model = model_of(name)
    before = tensors(model)
    made = with_classes(model, 3, seed=4)
    try:
        after = tensors(made)
        assert (made.classes, made.architecture) == (3, name)
        assert made.network is model.network
        last = {f"{LAST[name]}.weight", f"{LAST[name]}.bias"}
        assert list(after) == list(before)
        assert all(torch.equal(after[key], before[key]) for key in set(after) - last)
        weight, bias = (after[f"{LAST[name]}.{leaf}"] for leaf in ("weight", "bias"))
        assert (weight.shape, bias.shape) == ((3, WIDTH[name]), (3,))
        assert torch.equal(bias, torch.zeros(3))
        assert float(weight.std()) == pytest.approx(WIDTH[name] ** -0.5, rel=0.1)
        assert last_linear(made)[1].weight.requires_grad
        # The view as blocks has the new layer, too.
        network = made.network.eval()
        with torch.inference_mode():
            maps = made.stem(X)
            for block in made.blocks:
                maps = block.module(maps)
            assert torch.equal(made.head(maps), network(X))
            assert torch.equal(last_linear(made)[1](penultimate(made)(maps)), network(X))
    finally:
        # The module is shared with the other tests.
        holder, _, leaf = LAST[name].rpartition(".")
        layer = torch.nn.Linear(WIDTH[name], 5)
        layer.load_state_dict({k: before[f"{LAST[name]}.{k}"] for k in ("weight", "bias")})
        setattr(model.network.get_submodule(holder), leaf, layer)


def test_a_head_depends_on_its_seed_alone():
    def made(seed: int) -> torch.Tensor:
        torch.manual_seed(seed + 9)
        model = weights.random("resnet18", 1, classes=5).model
        return with_classes(model, 3, seed).network.fc.weight

    first, again, other = made(0), made(0), made(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # The same as that of random weights of that seed.
    assert torch.equal(first, weights.random("resnet18", 0, classes=3).model.network.fc.weight)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(classes):
    model = weights.random("resnet18", classes=5).model
    with pytest.raises(TrtkitError) as caught:
        with_classes(model, classes, 0)
    assert str(caught.value) == f"A classifier needs two classes or more, not {classes}."
    assert model.network.fc.out_features == 5
