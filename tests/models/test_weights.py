"""Random and ImageNet weights."""

from __future__ import annotations

import urllib.error

import pytest
import torch

from trtkit.errors import TrtkitError
from trtkit.models import weights
from trtkit.preprocessing import Preprocessing


def test_random_weights_depend_on_the_seed_alone():
    first, again, other = (weights.random("resnet18", seed=seed).model for seed in (7, 7, 8))
    state = first.network.state_dict()
    assert all(
        torch.equal(value, again.network.state_dict()[name]) for name, value in state.items()
    )
    assert not torch.equal(state["fc.weight"], other.network.state_dict()["fc.weight"])


def test_random_weights_are_pinned():
    # A change here changes every prefix id: an export of an older version would no longer share.
    weight = weights.random("resnet18", seed=0).model.network.conv1.weight
    assert weight[0, 0, 0, :3].tolist() == pytest.approx(PINNED, abs=0)


PINNED = [-0.008525815792381763, 0.006537803448736668, 0.006158014293760061]


def test_random_activations_stay_in_the_range_of_fp16():
    model = weights.random("resnet152").model
    with torch.inference_mode():
        x = model.stem(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        for block in model.blocks:
            x = block.module(x)
            assert 0.01 < float(x.abs().max()) < 1000


def test_imagenet_without_a_network_says_what_to_do(monkeypatch):
    def refuse(*args, **options):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(weights.models, "get_model", refuse)
    with pytest.raises(TrtkitError, match=r"could not be downloaded .*no route.* --weights random"):
        weights.imagenet("resnet50")


def test_imagenet_brings_classes_and_preprocessing(monkeypatch):
    real = weights.models.get_model
    monkeypatch.setattr(weights.models, "get_model", lambda name, weights: real(name, weights=None))
    found = weights.imagenet("resnet50")
    assert found.source == "imagenet IMAGENET1K_V2"
    assert found.preprocessing == Preprocessing(224, 224, 232)
    assert found.classes is not None
    assert (len(found.classes), found.classes[0]) == (1000, "tench")


def test_nan_weights_are_named():
    model = weights.random("resnet18").model
    with torch.no_grad():
        model.network.layer2[0].conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrtkitError, match=r"layer2\.0\.conv1\.weight of resnet18 holds NaN"):
        weights.check_finite(model)
