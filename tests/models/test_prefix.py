"""One model's first blocks in another: the same bits, and known by them."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtkit.errors import TrtkitError
from trtkit.models import weights
from trtkit.models.architectures import create
from trtkit.models.blocks import BlockModel, copy_prefix, freeze, prefix_digest
from trtkit.models.weights import with_classes


def odd(name: str, seed: int, classes: int = 3) -> BlockModel:
    """Random weights with batch norms that have learned something."""
    model = weights.random(name, seed, classes=classes).model
    generator = torch.Generator().manual_seed(seed)
    for key, value in model.network.state_dict().items():
        if "running" in key:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        if key.endswith("num_batches_tracked"):
            value.fill_(7 + seed)
    return model


def tensors(model: BlockModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.network.state_dict().items()}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize(
    ("source", "target", "cut"),
    [("resnet18", "resnet34", 2), ("resnet34", "resnet18", 1), ("resnet18", "resnet18", 8)],
)
def test_the_prefix_is_copied_bit_for_bit_and_nothing_else(source, target, cut):
    cheap, model = odd(source, 1), odd(target, 2, classes=4)
    before, given_ = tensors(model), tensors(cheap)
    assert prefix_digest(cheap, cut) != prefix_digest(model, cut)
    copy_prefix(cheap, model, cut)
    after = tensors(model)
    copied = set(model.prefix_state(cut))
    assert {"conv1.weight", "bn1.running_var", "bn1.num_batches_tracked"} <= copied
    assert "layer1.0.bn2.running_mean" in copied
    for name in after:
        assert same_bits(after[name], given_[name] if name in copied else before[name])
    assert prefix_digest(cheap, cut) == prefix_digest(model, cut)
    assert prefix_digest(cheap, cut) == prefix_digest(model, cut)
    # A copy and not a view: what the one learns the other does not know.
    with torch.no_grad():
        cheap.network.conv1.weight.zero_()
    assert same_bits(model.network.conv1.weight.detach(), after["conv1.weight"])


def test_odd_values_keep_their_bits():
    cheap, model = odd("resnet18", 1), odd("resnet34", 2)
    with torch.no_grad():
        cheap.network.bn1.weight[:3] = torch.tensor([-0.0, float("nan"), 1e-45])
    copy_prefix(cheap, model, 1)
    assert same_bits(model.network.bn1.weight.detach(), cheap.network.bn1.weight.detach())


def test_a_vgg_has_no_stem():
    cheap, model = create("vgg11", 2), create("vgg11", 2)
    first = cheap.network.features[0].weight
    assert not torch.equal(first, model.network.features[0].weight)
    copy_prefix(cheap, model, 1)
    assert torch.equal(first, model.network.features[0].weight)
    assert not torch.equal(cheap.network.features[3].weight, model.network.features[3].weight)
    assert prefix_digest(cheap, 1) == prefix_digest(model, 1)
    assert prefix_digest(cheap, 2) != prefix_digest(model, 2)


@pytest.mark.parametrize(
    ("source", "target", "cut", "sentence"),
    [
        (
            "resnet18", "resnet50", 1,
            "A resnet50 cannot take the prefix of a resnet18, because the two share no blocks; "
            "choose two architectures of one family, such as resnet50 and resnet152.",
        ),
        (
            "vgg16", "resnet18", 0,
            "A resnet18 cannot take the prefix of a vgg16, because the two share no blocks; "
            "choose two architectures of one family, such as resnet50 and resnet152.",
        ),
        *[
            (
                "resnet18", "resnet34", cut,
                f"A resnet34 and a resnet18 cannot share a prefix up to cut {cut}, only their "
                "first 2 blocks; choose a cut from 1 to 2.",
            )
            for cut in (-1, 0, 3, 99)
        ],
        (
            "resnet18", "resnet18", 9,
            "A resnet18 and a resnet18 cannot share a prefix up to cut 9, only their first 8 "
            "blocks; choose a cut from 1 to 8.",
        ),
    ],
)  # fmt: skip
def test_what_is_not_shared_is_refused(source, target, cut, sentence):
    cheap, model = create(source, 2, "meta"), create(target, 2, "meta")
    with pytest.raises(TrtkitError) as caught:
        copy_prefix(cheap, model, cut)
    assert str(caught.value) == sentence


@functools.cache
def known() -> tuple[BlockModel, tuple[str, ...]]:
    model = odd("resnet18", 3)
    return model, tuple(prefix_digest(model, cut) for cut in range(9))


def test_digests_of_every_cut_differ():
    _, digests = known()
    assert len(set(digests)) == 9
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in digests)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_one_bit_of_one_weight_is_another_prefix(data):
    model, digests = known()
    name = data.draw(st.sampled_from(sorted(model.network.state_dict())))
    value = model.network.state_dict()[name]
    content = value.numpy().reshape(-1).view("uint8")
    place = data.draw(st.integers(0, len(content) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    content[place] ^= bit
    try:
        changed = [prefix_digest(model, cut) != digests[cut] for cut in (0, 2, 8)]
    finally:
        content[place] ^= bit
    assert changed == [name in model.prefix_state(cut) for cut in (0, 2, 8)]
    assert prefix_digest(model, 8) == digests[8]


def test_the_digest_is_that_of_the_content_wherever_it_lies():
    _, digests = known()
    other = odd("resnet18", 3, classes=9)
    other.network.requires_grad_(False)
    other.network.train()
    assert prefix_digest(other, 8) == digests[8]
    assert prefix_digest(with_classes(other, 4, 5), 8) == digests[8]
    other.network.to(memory_format=torch.channels_last)
    assert prefix_digest(other, 8) == digests[8]


def test_the_digest_knows_the_structure():
    model = odd("resnet18", 3)
    before = prefix_digest(model, 2)
    model.network.layer1[0].conv1.stride = (2, 2)
    assert prefix_digest(model, 2) != before


def test_frozen_modules_learn_nothing_and_keep_their_statistics():
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).train()
    freeze(layer)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert not layer(torch.randn(2, 3, 8, 8)).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
