"""Networks rebuilt from their exports compute what those compute."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
import torch

import trtkit
from trtkit.benchmark.network import layer_weights
from trtkit.benchmark.onnxruntime_networks import onnxruntime_network
from trtkit.errors import TrtkitError
from trtkit.graph.card import ModelCard
from trtkit.graph.export import export_graph
from trtkit.models import weights as model_weights
from trtkit.models.blocks import Normalise
from trtkit.models.rebuild import network_from_weights, recognise
from trtkit.preprocessing import Preprocessing


def disturb(network, seed=0):
    """Statistics, gains and biases as a training leaves them, so that folding changes everything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
                module.weight.mul_(
                    torch.empty_like(module.weight).uniform_(0.5, 1.5, generator=generator)
                )
                module.bias.uniform_(-0.2, 0.2, generator=generator)
            elif getattr(module, "bias", None) is not None:
                module.bias.uniform_(-0.2, 0.2, generator=generator)


def exported(architecture, classes=5):
    """The graph of a network whose batch norms and biases are not trivial."""
    model = model_weights.random(architecture, classes=classes).model
    disturb(model.network)
    image = Preprocessing(height=64, width=64, resize=64)
    return export_graph(model, ModelCard(architecture, "", list("abcde"), image, []))


def check_rebuilt(graph):
    """The network of the graph's weights, which computes what the graph does."""
    card = ModelCard.read_from(graph, "it")
    weights = layer_weights(graph)
    assert recognise(weights, len(card.classes)) == card.architecture
    model = network_from_weights(card.architecture, len(card.classes), weights)
    image = card.preprocessing
    shape = (4, image.height, image.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with torch.inference_mode():
        logits = model.network(Normalise()(torch.from_numpy(images))).numpy()
    expected = onnxruntime_network(graph, 1).logits(images)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    assert len({row.tobytes() for row in expected}) == 4
    return model


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("architecture", ["resnet50", "vgg11_bn"])
def test_the_logits_are_the_exports(architecture):
    check_logits(architecture)


@pytest.mark.slow
def test_the_logits_of_a_network_with_all_its_channels_are_the_exports():
    check_logits("resnet18")


def check_logits(architecture):
    model = check_rebuilt(exported(architecture))
    original = model_weights.random(architecture, classes=5).model.network
    # All the layers of the real network, which take their time whatever their values.
    assert not model.network.training
    assert repr(model.network) == repr(original)
    state, wanted = model.network.state_dict(), original.state_dict()
    assert {name: (v.shape, v.dtype) for name, v in state.items()} == {
        name: (v.shape, v.dtype) for name, v in wanted.items()
    }


def test_biases_that_the_export_leaves_out_are_zero(full_exports):
    graph = onnx.load(full_exports / "resnet18.onnx")
    assert "fc.bias" not in {value.name for value in graph.graph.initializer}
    assert not check_rebuilt(graph).network.fc.bias.any()


@pytest.mark.usefixtures("thin")
def test_a_trained_network_is_rebuilt(cheap, tmp_path):
    checkpoint = cheap / "checkpoints" / "cheap" / "best.safetensors"
    report = trtkit.export(str(checkpoint), name="cheap", workspace=tmp_path)
    model = check_rebuilt(onnx.load(report.path))
    assert model.network.bn1.bias.any()


@functools.cache
def small():
    """Weights as an export of a resnet18 of three classes has them; not to be changed."""
    network = model_weights.random("resnet18", classes=3).model.network
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            found[f"{name}.weight"] = module.weight.detach().numpy()
            found[f"{name}.bias"] = np.zeros(len(module.weight), np.float32)
    return found


def test_a_batch_norm_adds_the_folded_bias_and_nothing_else():
    weights = small()
    bias = np.linspace(-1, 1, 64, dtype=np.float32)
    network = network_from_weights("resnet18", 3, weights | {"conv1.bias": bias}).network
    x = torch.randn(2, 64, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        y = network.bn1(x)
    torch.testing.assert_close(y, x + torch.from_numpy(bias)[:, None, None], rtol=2e-7, atol=2e-7)


def test_the_arrays_are_copied():
    weights = {name: value.copy() for name, value in small().items()}
    network = network_from_weights("resnet18", 3, weights).network
    before = network.fc.weight.clone()
    weights["fc.weight"][:] = 7
    assert torch.equal(network.fc.weight, before)


def test_a_foreign_model_is_refused():
    with pytest.raises(TrtkitError, match="foreign model cannot be rebuilt"):
        network_from_weights("foreign", 3, small())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layer1.0.conv1.weight": None}, "layer1.0.conv1.weight"),
        ({"layer1.0.conv1.bias": None}, "layer1.0.conv1.bias"),
        ({"fc.weight": np.zeros((4, 512), np.float32)}, "fc.weight"),
        ({"layer5.weight": np.zeros((4, 4), np.float32)}, "layer5.weight"),
    ],
)
def test_weights_that_are_not_all_the_architectures_are_refused(change, named):
    weights = {name: value for name, value in (small() | change).items() if value is not None}
    with pytest.raises(TrtkitError, match=f"resnet18 cannot be rebuilt.*{named}"):
        network_from_weights("resnet18", 3, weights)


def test_only_an_architectures_own_weights_are_recognised():
    weights = small()
    assert recognise(weights, 3) == "resnet18"
    assert recognise(weights, 4) is None
    assert recognise({}, 3) is None
    assert recognise(weights | {"layer9.weight": np.zeros((1, 1), np.float32)}, 3) is None
