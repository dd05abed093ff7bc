"""Stem, blocks and head; what two models share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtkit.errors import TrtkitError
from trtkit.models import weights
from trtkit.models.architectures import as_blocks, create
from trtkit.models.blocks import prefix_digest, shared_blocks
from trtkit.models.names import ARCHITECTURES

BLOCKS = {
    "resnet18": 8, "resnet34": 16, "resnet50": 16, "resnet101": 33, "resnet152": 50,
    "resnext50_32x4d": 16, "resnext101_32x8d": 33, "resnext101_64x4d": 33,
    "wide_resnet50_2": 16, "wide_resnet101_2": 33,
    "vgg11": 8, "vgg11_bn": 8, "vgg13": 10, "vgg13_bn": 10,
    "vgg16": 13, "vgg16_bn": 13, "vgg19": 16, "vgg19_bn": 16,
}  # fmt: skip


def structure(name: str):
    return create(name, device="meta")


def test_every_architecture_has_its_number_of_blocks():
    assert {name: len(structure(name).blocks) for name in ARCHITECTURES} == BLOCKS


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11", "vgg13_bn"])
def test_stem_blocks_and_head_are_the_network(name):
    model = weights.random(name, classes=10).model
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        y = model.stem(x)
        for block in model.blocks:
            y = block.module(y)
        assert torch.equal(model.head(y), model.network(x))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parts_hold_every_parameter_once(name):
    model = structure(name)
    head = {key for key in model.network.state_dict() if key.startswith(("fc.", "classifier."))}
    owned = [*model.stem_parameters, *(p for block in model.blocks for p in block.parameters)]
    assert len(owned) == len(set(owned))
    assert set(owned) | head == set(model.network.state_dict())


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [
        ("resnet18", "resnet34", 2),
        ("resnet50", "resnet152", 7),
        ("resnet50", "resnet101", 13),
        ("resnet101", "resnet152", 7),
        ("resnet50", "resnet50", 16),
        # VGG-13 has a second convolution before the first pooling, VGG-11 has not.
        ("vgg11", "vgg13", 0),
        ("vgg16", "vgg19", 6),
        ("vgg16", "vgg16_bn", 0),
        ("resnet18", "resnet50", 0),
        ("resnet18", "vgg11", 0),
    ],
)
def test_shared_blocks(a, b, count):
    assert shared_blocks(structure(a), structure(b)) == count
    assert shared_blocks(structure(b), structure(a)) == count


@given(st.sampled_from(ARCHITECTURES), st.sampled_from(ARCHITECTURES))
@settings(max_examples=15, deadline=None)
def test_shared_blocks_have_tensors_of_the_same_shapes(a, b):
    one, other = structure(a), structure(b)
    cut = shared_blocks(one, other)
    shapes = [
        {name: value.shape for name, value in model.prefix_state(cut).items()}
        for model in (one, other)
    ]
    if cut:
        assert shapes[0] == shapes[1]


def test_the_same_seed_gives_the_same_shared_weights_and_another_does_not():
    one = weights.random("resnet18", seed=3).model
    same, other = (weights.random("resnet34", seed=seed).model for seed in (3, 4))
    assert prefix_digest(one, 2) == prefix_digest(same, 2) != prefix_digest(other, 2)


def test_one_bit_is_a_difference():
    one = weights.random("resnet18").model
    other = weights.random("resnet34").model
    with torch.no_grad():
        bias = other.network.layer1[1].bn2.bias
        bias[5] = -0.0  # equal to 0.0 as a number, not as bits
    assert prefix_digest(one, 1) == prefix_digest(other, 1)
    assert prefix_digest(one, 2) != prefix_digest(other, 2)


def test_a_cut_out_of_range_says_the_range():
    with pytest.raises(
        TrtkitError, match="resnet50 has blocks 1 to 16 and no cut 17; choose one of those"
    ):
        structure("resnet50").prefix_state(17)


def test_an_unknown_architecture_names_the_nearest():
    with pytest.raises(
        TrtkitError, match="Architecture 'resnet5' not found; did you mean resnet50"
    ):
        create("resnet5")


def test_a_network_of_another_family_is_refused():
    with pytest.raises(
        TrtkitError, match=r"A Linear cannot be divided into blocks, .* give the \.onnx file"
    ):
        as_blocks("linear", torch.nn.Linear(1, 1))
