"""The classical learner: logistic regression on penultimate features, as a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from trtkit.errors import TrtkitError
from trtkit.models.blocks import last_linear
from trtkit.reporting import advance
from trtkit.tensors import Array
from trtkit.training.batches import PhotoBatches, in_order
from trtkit.training.network import TrainedNetwork, penultimate_features
from trtkit.training.options import TrainOptions

MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class Fitted:
    """A linear layer: weight, float32 classes x features, and bias, float32 classes."""

    weight: Array
    bias: Array
    iterations: int


def extract(
    network: TrainedNetwork, photos: PhotoBatches, views: Sequence[int], batch: int
) -> tuple[Array, Array]:
    """Penultimate features, float32 N x F, and labels, int64 N, of these views of the photos."""
    module = penultimate_features(network)
    rows, labels = [], []
    for view in views:
        with closing(photos.batches(in_order(len(photos), batch), view)) as batches:
            for images, truth in batches:
                with torch.inference_mode(), network.precision():
                    value = module(network.to_device(images)).float().cpu().numpy()
                rows.append(value)
                labels.append(truth)
                done = sum(map(len, rows)) / (len(photos) * len(views))
                advance("Extracting penultimate features", done)
    return np.concatenate(rows), np.concatenate(labels)


def fit(features: Array, labels: Array, options: TrainOptions) -> Fitted:
    """scikit-learn's logistic regression on standardised features, folded into one linear layer.

    Its softmax is the classifier's own: `W (x - mean) / std + b` is `W / std` and `b - W mean / std`;
    of two classes, for which one row w is fitted, the rows are -w/2 and w/2. Raises TrtkitError for
    features that are not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if not np.isfinite(features).all():
        raise TrtkitError(
            "The penultimate features hold NaN or infinite values; start from other --weights."
        )
    scaler = StandardScaler().fit(features.astype(np.float64))
    learner = LogisticRegression(
        C=options.regularization,
        class_weight="balanced" if options.class_weights == "balanced" else None,
        max_iter=MAX_ITERATIONS,
        random_state=options.seed % 2**32,
    )
    learner.fit(scaler.transform(features.astype(np.float64)), labels)
    weight, bias = learner.coef_, learner.intercept_
    if len(weight) == 1:
        weight = np.concatenate([-weight / 2, weight / 2])
        bias = np.concatenate([-bias / 2, bias / 2])
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    return Fitted(weight.astype(np.float32), bias.astype(np.float32), int(np.max(learner.n_iter_)))


def install(network: TrainedNetwork, fitted: Fitted) -> None:
    """Make the fitted layer the network's last one."""
    _, layer = last_linear(network.model)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fitted.weight))
        layer.bias.copy_(torch.from_numpy(fitted.bias))
