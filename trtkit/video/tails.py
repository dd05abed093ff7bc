"""A bundle's tails as video uses them: crops in; classes, features and feature maps out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from trtkit.bundle import Manifest, read_manifest
from trtkit.errors import TrtkitError, listed
from trtkit.identity import bytes_digest, feature_key
from trtkit.runtime.classifier import Classifier, Item
from trtkit.runtime.models import output_of
from trtkit.runtime.pipeline import Pipeline, load
from trtkit.scores import scores_of
from trtkit.stages import Stage
from trtkit.tensors import Array
from trtkit.video.clusters import normalised
from trtkit.video.footage.database import Database
from trtkit.video.footage.settings import Identity, check_readable, identity, prefix_of
from trtkit.workspace import Workspace


@dataclass(frozen=True)
class IndexEntry:
    """The cheap tail's outputs for one object.

    `labels` and `scores`: its best classes, best first, int64 and float32; `vector`: its penultimate
    features, float32 of length 1, None where the bundle has no embeddings; `feature`: its feature map.
    """

    labels: Array
    scores: Array
    vector: Array | None
    feature: Array


class VideoTail:
    """The cheap tail of a split bundle, which indexes objects. One thread at a time may use it."""

    def __init__(self, folder: Path, tail: str | None = None) -> None:
        """Load the named tail of the bundle in `folder`, by default its first. Raises TrtkitError."""
        pipeline = load(folder, tail=tail)
        _check_resizes(pipeline.manifest)
        self._pipeline = pipeline
        self.manifest = pipeline.manifest
        self.tail = pipeline.tail
        prefix = prefix_of(self.manifest, self.tail)
        self._prefix, self._maps = prefix.id, output_of(prefix, "feature_map")
        self._logits, self._embedding = (
            output_of(self.tail, "logits"),
            self.manifest.embedding_of(self.tail),
        )
        wanted = [self._logits, self._maps, *([self._embedding] if self._embedding else [])]
        self._classifier = Classifier(pipeline.runner, self.manifest.preprocessing, wanted)

    def close(self) -> None:
        self._pipeline.close()

    @property
    def gives_vectors(self) -> bool:
        """Whether the bundle was built with embeddings (penultimate features)."""
        return self._embedding is not None

    @property
    def batch(self) -> int:
        """The batch size that the bundle is tuned for."""
        return self.manifest.batch[1]

    def key(self, crop: bytes) -> bytes:
        """The key of a crop's feature map, the same as for a photo with these bytes."""
        return feature_key(bytes_digest(crop), self.manifest.preprocessing.digest, self._prefix)

    def index(self, crops: Sequence[bytes], top: int) -> list[IndexEntry]:
        """Index entries of objects by their crops, with their `top` best classes. Raises TrtkitError."""
        items = [Item("crop", partial(bytes, crop)) for crop in crops]
        rows = self._classifier.run(self._classifier.prepare_all(items)).rows
        scores = scores_of(rows[self._logits], self.tail.scoring)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        vectors = normalised(rows[self._embedding]) if self._embedding is not None else None
        maps = rows[self._maps]
        return [
            IndexEntry(
                # Copies: a view would keep all classes of its batch for as long.
                labels=best.copy(),
                scores=row[best].astype(np.float32),
                vector=None if vectors is None else vectors[place].copy(),
                feature=maps[place].copy(),
            )
            for place, (best, row) in enumerate(zip(order, scores, strict=True))
        ]

    def embed(self, crops: Sequence[bytes]) -> Array:
        """Penultimate features of pictures, float32 N x D of length 1. Raises TrtkitError."""
        vectors = [entry.vector for entry in self.index(crops, 1) if entry.vector is not None]
        if len(vectors) != len(crops):
            raise TrtkitError(
                f"Bundle {self.manifest.name} has no embeddings; build it again with --embeddings."
            )
        return np.stack(vectors)


def _check_resizes(manifest: Manifest) -> None:
    if manifest.preprocessing.resize is None:
        raise TrtkitError(
            f"Bundle {manifest.name} does not resize photos, and objects in footage have any size; export "
            "its models with --resize N or HxW for video."
        )


@dataclass(frozen=True)
class ExpensiveTail:
    """The tail that answers questions to a store, not loaded yet. `owner`: the store's identity."""

    owner: Identity
    folder: Path
    manifest: Manifest
    stage: Stage

    @classmethod
    def of_store(
        cls, database: Database, workspace: Workspace, bundle: str | Path | None, tail: str | None
    ) -> ExpensiveTail:
        """The tail `tail` of `bundle`, by default the store's bundle and its other tail.

        Raises TrtkitError, also when it cannot start from the store's feature maps.
        """
        owner = identity(database)
        folder, manifest = bundle_of_store(database, workspace, bundle)
        stage = expensive_stage(manifest, owner.tail, tail)
        if stage is None:
            others = [other.name for other in manifest.tails if other.name != owner.tail]
            raise TrtkitError(
                f"Bundle {manifest.name} has several tails that can answer: {listed(others)}; choose one "
                "with --tail."
                if others
                else f"Bundle {manifest.name} has no tail beside {owner.tail}, which indexed the footage; "
                "build one with two models."
            )
        check_readable(owner, manifest, stage, folder)
        return cls(owner, folder, manifest, stage)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.stage.classes or ()

    def load(self) -> Pipeline:
        return load(self.folder, tail=self.stage.name)


def bundle_of_store(
    database: Database, workspace: Workspace, bundle: str | Path | None
) -> tuple[Path, Manifest]:
    """Folder and manifest of `bundle`, by default of the one that indexed the store. Raises TrtkitError."""
    folder = workspace.find_bundle(bundle if bundle is not None else identity(database).bundle)
    return folder, read_manifest(folder)


def expensive_stage(manifest: Manifest, cheap: str, tail: str | None) -> Stage | None:
    """The tail that answers questions: `tail`, else the only one beside the cheap one.

    None without `tail` if there are several others or none. Raises TrtkitError for an unknown name.
    """
    if tail is not None:
        return manifest.tail(tail)
    others = [stage for stage in manifest.tails if stage.name != cheap]
    return others[0] if len(others) == 1 else None
