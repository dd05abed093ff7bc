"""The logistic regression as a linear layer: its probabilities are scikit-learn's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scripts.digits import write_digits
from tests.reports import recorded
from trtkit.errors import TrtkitError
from trtkit.evaluation.dataset import read_dataset
from trtkit.models import weights
from trtkit.models.blocks import Normalise
from trtkit.preprocessing import Preprocessing
from trtkit.scores import softmax
from trtkit.training.augment import PRESETS
from trtkit.training.batches import PhotoBatches
from trtkit.training.bottleneck import Fitted, extract, fit, install
from trtkit.training.network import TrainedNetwork
from trtkit.training.options import TrainOptions

OPTIONS = TrainOptions("resnet18", mode="bottleneck")


def problem(classes: int, seed: int, count: int = 60, width: int = 12):
    """Features of scales from 1e-4 to 1e4, one of them constant and one dead, and labels."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), random.integers(classes, size=count - classes)])
    centres = random.standard_normal((classes, width))
    features = centres[labels] + random.standard_normal((count, width))
    features = (features + random.uniform(-2, 2, width)) * 10.0 ** random.uniform(-4, 4, width)
    features[:, 3], features[:, 5] = 3.7, 0.0
    return features.astype(np.float32), labels


def scores(fitted: Fitted, features: np.ndarray) -> np.ndarray:
    """As the network computes them: float32 all through."""
    layer = torch.nn.Linear(features.shape[1], len(fitted.bias))
    layer.load_state_dict(
        {"weight": torch.from_numpy(fitted.weight), "bias": torch.from_numpy(fitted.bias)}
    )
    return softmax(layer(torch.from_numpy(features)).detach().numpy())


@given(
    classes=st.sampled_from([2, 3, 5]),
    seed=st.integers(0, 2**32),
    strength=st.sampled_from([0.01, 1.0, 100.0]),
    balanced=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_the_linear_layer_gives_scikit_learn_s_own_probabilities(classes, seed, strength, balanced):
    everything, truth = problem(classes, seed, count=120)
    features, labels, unseen = everything[:60], truth[:60], everything[60:]
    class_weights = "balanced" if balanced else "none"
    fitted = fit(
        features, labels, replace(OPTIONS, regularization=strength, class_weights=class_weights)
    )
    own = make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=strength, class_weight="balanced" if balanced else None, max_iter=2000
        ),
    )
    own.fit(features.astype(np.float64), labels)
    for part in (features, unseen):
        expected = own.predict_proba(part.astype(np.float64))
        assert np.abs(scores(fitted, part) - expected).max() < 2e-4
    assert (fitted.weight.shape, fitted.bias.shape) == ((classes, features.shape[1]), (classes,))
    assert (fitted.weight.dtype, fitted.bias.dtype) == (np.float32, np.float32)
    # What told nothing about the classes tells nothing afterwards.
    assert np.abs(fitted.weight[:, [3, 5]]).max() < 1e-6
    assert fitted.iterations == own[-1].n_iter_.max()


def test_regularization_and_class_weights_matter():
    features, labels = problem(2, 1)
    labels[:] = 0
    labels[:9] = 1
    plain = fit(features, labels, OPTIONS)
    loose = fit(features, labels, replace(OPTIONS, regularization=1000.0))
    even = fit(features, labels, replace(OPTIONS, class_weights="balanced"))
    assert scores(loose, features).max(1).mean() > scores(plain, features).max(1).mean()
    assert scores(even, features)[:, 1].mean() > scores(plain, features)[:, 1].mean() + 0.02


def test_what_can_be_told_apart_is_told_apart():
    random = np.random.default_rng(0)
    labels = np.arange(100) % 5
    features = (np.eye(5)[labels] * 8 + random.standard_normal((100, 5))).astype(np.float32)
    assert (scores(fit(features, labels, OPTIONS), features).argmax(1) == labels).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(value):
    features, labels = problem(2, 0)
    features[7, 2] = value
    with pytest.raises(TrtkitError) as caught:
        fit(features, labels, OPTIONS)
    assert str(caught.value) == (
        "The penultimate features hold NaN or infinite values; start from other --weights."
    )


@pytest.fixture(scope="module")
def network() -> TrainedNetwork:
    model = weights.random("resnet18", classes=3).model
    return TrainedNetwork(model, len(model.blocks), torch.device("cpu"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    write_digits(root, size=64, classes=[1, 4, 7], count=4)
    return read_dataset(root).train


@pytest.mark.parametrize("views", [[0], [0, 1]])
def test_features_of_every_view_with_their_labels(network, photos, views):
    image = Preprocessing(64, 64, 72)
    how = PRESETS["light"] if len(views) > 1 else None
    source = PhotoBatches(photos, image, augmentation=how, workers=2)
    with recorded() as reports:
        features, labels = extract(network, source, views, 4)
    assert features.dtype == np.float32
    assert features.shape == (len(photos) * len(views), 512)
    assert labels.tolist() == [photo.label for photo in photos] * len(views)
    assert reports.phases[-1] == ("Extracting penultimate features", 1.0)
    shares = [share for _, share in reports.phases]
    assert shares == sorted(shares)
    images = np.stack([source.prepare(photo, view) for view in views for photo in photos])
    plain = network.model.network.eval()
    with torch.inference_mode():
        x = Normalise()(torch.from_numpy(images))
        expected = torch.nn.Sequential(*list(plain.children())[:-1], torch.nn.Flatten())(x)
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_the_fitted_layer_becomes_the_network_s_own(network, photos):
    source = PhotoBatches(photos, Preprocessing(64, 64, 72), workers=2)
    features, labels = extract(network, source, [0], 32)
    fitted = fit(features, labels, OPTIONS)
    before = {name: value.clone() for name, value in network.model.network.state_dict().items()}
    install(network, fitted)
    images, _ = next(source.batches([range(len(photos))], 1))
    with network.evaluating():
        logits = network.logits(network.to_device(images)).numpy()
    np.testing.assert_allclose(softmax(logits), scores(fitted, features), atol=1e-4)
    after = network.model.network.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"fc.weight", "fc.bias"}
