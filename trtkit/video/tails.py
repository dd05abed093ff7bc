"""A bundle's tail as video uses it: crops in, classes and features and feature maps out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trtkit.bundle import Manifest, Stage, read_manifest
from trtkit.errors import TrtkitError, listed
from trtkit.identity import bytes_digest, feature_key
from trtkit.photos.images import load_image
from trtkit.runtime.chain import Runner, softmax
from trtkit.runtime.loading import backend_of, load_chain
from trtkit.tensors import Array
from trtkit.video.clusters import normalised


@dataclass(frozen=True)
class Seen:
    """What the cheap tail says of one object.

    `labels` and `scores`: its best classes, best first, int64 and float32; `vector`: its penultimate
    features, float32 of length 1, None where the bundle does not give them; `feature`: its feature map.
    """

    labels: Array
    scores: Array
    vector: Array | None
    feature: Array


class VideoTail:
    """One tail of a split bundle, loaded. Not for several threads at once."""

    def __init__(self, folder: Path, manifest: Manifest, tail: Stage, chain: Runner) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tail = tail
        self.chain = chain
        self._prefix = manifest.path_to(tail)[0].id

    @classmethod
    def load(cls, folder: Path, tail: str | None = None) -> VideoTail:
        """The tail of that name of the bundle in `folder`, by default its first. Raises TrtkitError."""
        manifest = read_manifest(folder)
        chosen = manifest.tail(tail)
        if manifest.cut == 0:
            raise TrtkitError(
                f"Video was to be indexed with the bundle {manifest.name}, which is not split, so that "
                "it has no feature maps to keep; build one with --cut."
            )
        return cls(
            folder, manifest, chosen, load_chain(folder, manifest, chosen, backend_of(manifest))
        )

    def close(self) -> None:
        self.chain.close()

    def __enter__(self) -> VideoTail:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.tail.classes or ()

    @property
    def gives_vectors(self) -> bool:
        """Whether the bundle was built to hand out penultimate features."""
        return self.manifest.has_embeddings(self.tail)

    @property
    def batch(self) -> int:
        """Images of a run that the bundle was tuned for."""
        return self.manifest.batch[1]

    def key(self, crop: bytes) -> bytes:
        """What the feature map of a crop is kept under: as that of a photo with these bytes."""
        return feature_key(bytes_digest(crop), self.manifest.preprocessing.digest, self._prefix)

    def prepared(self, crop: bytes) -> Array:
        """A crop's image as the engines take it, uint8 H x W x 3."""
        return load_image(crop, self.manifest.preprocessing)

    def index(self, crops: Sequence[bytes], top: int) -> list[Seen]:
        """What the tail says of objects that were cut out just now, their feature maps among it."""
        images = [self.prepared(crop) for crop in crops]
        outcome = self.chain.submit(images, (), keep=True, penultimate=True).result()
        scores = softmax(outcome.logits)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        vectors = None if outcome.penultimate is None else normalised(outcome.penultimate)
        if outcome.features is None:
            raise TrtkitError(
                f"The bundle {self.manifest.name} gave no feature maps; build it again with --cut."
            )
        return [
            Seen(
                # Copies: a view would keep all classes of its batch for as long.
                labels=best.copy(),
                scores=row[best].astype(np.float32),
                vector=None if vectors is None else vectors[place].copy(),
                feature=np.array(outcome.features[place]),
            )
            for place, (best, row) in enumerate(zip(order, scores, strict=True))
        ]

    def scores(self, images: Sequence[Array], maps: Sequence[Array]) -> Array:
        """Softmax scores, N x classes, of prepared images and then of objects by their feature maps."""
        return softmax(self.chain.submit(list(images), list(maps)).result().logits)


def expensive_tail(manifest: Manifest, cheap: str, asked: str | None) -> str:
    """The tail that answers questions: the one asked for, else the only one that is not the cheap one.

    Raises TrtkitError when that leaves none or several.
    """
    if asked is not None:
        return manifest.tail(asked).name
    others = [stage.name for stage in manifest.tails if stage.name != cheap]
    if len(others) == 1:
        return others[0]
    raise TrtkitError(
        f"Questions are answered by a tail other than {cheap}, which indexed the footage, and the "
        f"bundle {manifest.name} has {listed(others)} beside it; "
        + ("choose one with --tail." if others else "build one with two models.")
    )
