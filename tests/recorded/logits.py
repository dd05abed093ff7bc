"""Logits, embeddings, feature maps and scores of every tail and precision, on both backends.

The bundles are built of the exports that the recorded commands made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import trtkit
from tests.divided import outcome_of
from tests.recorded.workspace import CUT, SIZE

# One batch of one, one that fills several runs, and photos of which some were seen before.
COUNT = 6
BATCHES = {"profiles": [(1, 2, 4)]}
PRECISIONS = {
    "fp32": ("thin-a", "thin-b"),
    "fp16": ("thin-a", "thin-b"),
    "int8": ("ready-a", "ready-b"),
}
# One version whose precision is the builder's, and one in which it is the graph's.
TENSORRT = ("8.6.1", "10.3.0")
# What is kept of larger arrays: so many elements, beside the digest of all.
LARGE = 256


def arrays(root: Path) -> dict[str, np.ndarray]:
    """The name of each is backend/bundle/tail/what."""
    recorded = _on_backend(root, "onnxruntime", "onnxruntime")
    from tests.engines.simulated import install

    for version in TENSORRT:
        with pytest.MonkeyPatch.context() as patch:
            install(patch, version)
            recorded |= _on_backend(root, "tensorrt", f"tensorrt-{version}")
    return {name: part for name, value in recorded.items() for name, part in shortened(name, value)}


def shortened(name: str, value: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """`value`, or of a large one evenly spread elements, its shape, and the digest of its bytes."""
    if value.size <= LARGE:
        return [(name, value)]
    from hashlib import sha256

    flat = np.ascontiguousarray(value).reshape(-1)
    return [
        (f"{name}/elements", flat[np.linspace(0, flat.size - 1, LARGE // 4).astype(int)]),
        (f"{name}/shape", np.array(value.shape)),
        (f"{name}/digest", np.frombuffer(sha256(flat.tobytes()).digest(), np.uint8)),
    ]


def _on_backend(root: Path, backend: str, label: str) -> dict[str, np.ndarray]:
    recorded = {}
    for precision, names in PRECISIONS.items():
        bundle = f"{label}-{precision}"
        recorded |= _of_bundle(root, bundle, names, CUT, precision, backend, embeddings=True)
    # Tails of one engine, a model that is not split, and one that torch exported.
    recorded |= _of_bundle(root, f"{label}-fp16-plain", PRECISIONS["fp16"], CUT, "fp16", backend)
    recorded |= _of_bundle(root, f"{label}-fp16-whole", ("thin-b",), 0, "fp16", backend)
    recorded |= _of_bundle(root, f"{label}-fp16-torch", ("resnet18",), 6, "fp16", backend)
    return recorded


def _of_bundle(
    root: Path,
    bundle: str,
    names: Sequence[str],
    cut: int,
    precision: str,
    backend: str,
    embeddings: bool = False,
) -> dict[str, np.ndarray]:
    trtkit.build(
        names, cut=cut, precision=precision, backend=backend, bundle_name=bundle,
        embeddings=embeddings, options=BATCHES, verify_images=2, min_agreement=0.0, workspace=root,
    )  # fmt: skip
    folder = root / "engines" / bundle
    images = np.random.default_rng(11).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    recorded = {}
    for tail in names:
        with trtkit.load(folder, tail=tail) as pipeline:
            recorded[f"{tail}/one"] = pipeline.logits(images[:1]).copy()
            recorded[f"{tail}/logits"] = pipeline.logits(images).copy()
            features = pipeline.features(images[:3])
            if features is not None:
                recorded[f"{tail}/features"] = features
        if embeddings:
            logits, vectors = outcome_of(folder, images[:4], tail=tail)
            recorded[f"{tail}/embedded"], recorded[f"{tail}/embeddings"] = (
                logits.copy(),
                vectors.copy(),
            )
        if cut:
            recorded[f"{tail}/scores"] = _with_some_hits(root, folder, tail)
    return {f"{bundle}/{name}": value for name, value in recorded.items()}


def _with_some_hits(root: Path, folder: Path, tail: str) -> np.ndarray:
    """Softmax scores, photos x classes, where every second photo's feature map is in the cache."""
    photos = sorted((root / "photos").iterdir())
    cache = trtkit.CacheOptions(mode="always", folder=root / "cache" / f"{folder.name}-{tail}")
    with trtkit.load(folder, tail=tail, cache=cache) as pipeline:
        list(pipeline.infer(photos[::2]))
    scores = []
    with trtkit.load(folder, tail=tail, cache=cache) as pipeline:
        classes = len(pipeline.tail.classes)
        for result in pipeline.infer(photos, top=classes, batch=3, workers=1):
            assert result.error is None, result.error
            ranked = sorted(result.predictions, key=lambda prediction: prediction.index)
            scores.append([prediction.score for prediction in ranked])
        assert (pipeline.stats.hits, pipeline.stats.misses) == (3, 3)
    return np.array(scores)
