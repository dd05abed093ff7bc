"""Whether engines compute what the model does: by the build, and on photos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acceptance.context import Context
from acceptance.making import GENERATED, photos
from acceptance.settings import Bundle
from trtkit.building.verification import LIMITS, compare
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.photos.files import find_images
from trtkit.photos.images import load_image, read_file
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.chain import Chain
from trtkit.runtime.loading import load_chain
from trtkit.serialization import to_plain
from trtkit.tensors import Array


@dataclass(frozen=True)
class ParityRow:
    """One tail on one set of images, as trtkit.building.verification compares: the worst image's relative
    error, and the share of equal top-1 classes, 0 to 1. `by`: who compared."""

    tail: str
    by: str
    images: int
    relative_error: float
    agreement: float
    ties: int


@dataclass(frozen=True)
class Parity:
    """`photos`: why nothing was compared on photos, None when it was."""

    bundle: str
    precision: str
    photos: str | None
    rows: list[ParityRow]


def parity(context: Context, bundle: Bundle, precision: str) -> Parity:
    """The comparison of the manifest, and one on photos with the fp32 model on ONNX Runtime."""
    manifest = context.manifest(bundle, precision)
    verified = manifest.verified
    rows = [
        ParityRow(tail=tail, by=f"build, {verified['source']} images", **found)
        for tail, found in verified["tails"].items()
    ]
    images, problem = _photos(context, manifest.preprocessing)
    for tail in manifest.tails if problem is None else ():
        export = context.export(tail.name)
        if not export.is_file():
            problem = f"{export} is not there to compare with"
            break
        folder = context.built(bundle, precision)
        chain = load_chain(folder, manifest, tail, context.backend)
        logits = chain.logits(images)
        chain.close()
        reference = Chain([OnnxRuntimeBackend().load(export)])
        step = 8
        wanted = np.concatenate(
            [reference.logits(images[n : n + step]) for n in range(0, len(images), step)]
        )
        found = compare(logits, wanted, LIMITS[precision])
        rows.append(ParityRow(tail=tail.name, by="photos", **to_plain(found)))
    return Parity(bundle.name, precision, problem, rows)


def _photos(context: Context, preprocessing: Preprocessing) -> tuple[Array, str | None]:
    """Prepared photos, spread over the folder, or why there are none."""
    scale = context.settings.set.scale
    folder, source = photos(context, scale.photos)
    if source == GENERATED:
        return np.empty(0), "no photos: scikit-image or scikit-learn is not here; give --photos"
    found = [item.path for item in find_images([folder]) if item.error is None]
    chosen = found[:: max(1, len(found) // scale.parity_photos)][: scale.parity_photos]
    return np.stack([load_image(read_file(path), preprocessing) for path in chosen]), None
