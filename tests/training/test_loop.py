"""The learning rate at each step, which weights decay, and the weights of the classes."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from trtkit.models import weights
from trtkit.models.blocks import freeze
from trtkit.training.loop import class_weights, make_optimizer, rate_share, set_rate
from trtkit.training.options import TrainOptions


@st.composite
def schedules(draw) -> tuple[int, int]:
    """Steps, and those of them that warm up."""
    steps = draw(st.integers(1, 3000))
    return steps, draw(st.integers(0, steps))


@given(schedules())
@settings(deadline=None)
def test_the_rate_rises_and_then_falls_and_is_never_zero(schedule):
    steps, warmup = schedule
    shares = [rate_share(step, steps, warmup) for step in range(steps)]
    assert 0 < min(shares) <= max(shares) <= 1
    assert all(a < b for a, b in pairwise(shares[:warmup]))
    falling = shares[warmup:]
    assert all(a > b for a, b in pairwise(falling))
    if falling:
        assert falling[0] == 1
    if warmup:
        # The step to the top is one of the warm-up's own.
        assert 1 - shares[warmup - 1] == pytest.approx(1 / (warmup + 1))


@given(schedules())
@settings(deadline=None)
def test_there_is_no_jump(schedule):
    steps, warmup = schedule
    shares = np.array([rate_share(step, steps, warmup) for step in range(steps)])
    steepest = max(1 / (warmup + 1), math.pi / 2 / max(1, steps - warmup))
    assert np.abs(np.diff(shares)).max(initial=0) <= steepest + 1e-12


def test_half_way_down_the_cosine_is_at_a_half():
    assert rate_share(60, 110, 10) == pytest.approx(0.5)
    assert rate_share(35, 110, 10) == pytest.approx((1 + math.sqrt(0.5)) / 2)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200))
@settings(deadline=None)
def test_class_weights_are_scikit_learn_s_balanced_ones(labels):
    labels += range(7)
    expected = compute_class_weight("balanced", classes=np.arange(7), y=labels)
    factors = class_weights(iter(labels), 7)
    assert factors == pytest.approx(expected.tolist(), rel=1e-12)
    assert np.mean([factors[label] for label in labels]) == pytest.approx(1)


def test_classes_of_one_size_weigh_one():
    assert class_weights([2, 0, 1, 1, 0, 2], 3) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("frozen", [0, 5])
def test_weights_decay_but_biases_and_batch_norms_do_not(name, frozen):
    model = weights.random("resnet18", classes=3).model
    for block in model.blocks[:frozen]:
        freeze(block.module)
    options = TrainOptions("resnet18", optimizer=name, lr=0.25, weight_decay=0.5)
    optimizer = make_optimizer(model.network, options)
    decay = {id(v): g["weight_decay"] for g in optimizer.param_groups for v in g["params"]}
    expected = {}
    for module in model.network.modules():
        for kind, value in module.named_parameters(recurse=False):
            plain = kind == "weight" and isinstance(module, nn.Conv2d | nn.Linear)
            if value.requires_grad:
                expected[id(value)] = 0.5 if plain else 0.0
    assert decay == expected
    assert len(decay) == 62 - 6 * frozen - 3 * sum(n in (2, 4) for n in range(frozen))
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_asked_for(name, kind):
    layer = nn.Linear(3, 2)
    optimizer = make_optimizer(layer, TrainOptions("resnet18", optimizer=name))
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == {"sgd": 0.01, "adamw": 3e-4}[name]
    if name == "sgd":
        assert all(g["momentum"] == 0.9 and g["nesterov"] for g in optimizer.param_groups)
    set_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_alone_shrinks_the_weight_and_leaves_the_bias(name):
    layer = nn.Linear(3, 2)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    options = TrainOptions("resnet18", optimizer=name, lr=0.1, weight_decay=0.5)
    optimizer = make_optimizer(layer, options)
    for value in layer.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    assert torch.equal(layer.bias, before["bias"])
    # Of SGD with Nesterov momentum the first step counts 1.9 times.
    factor = 1 - 0.1 * 0.5 * (1.9 if name == "sgd" else 1)
    assert torch.allclose(layer.weight, before["weight"] * factor, rtol=1e-6)
