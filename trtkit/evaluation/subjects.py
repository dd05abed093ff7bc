"""What can be evaluated: a checkpoint in torch, and a tail of a built bundle."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from trtkit.bundle import Manifest, read_manifest
from trtkit.errors import TrtkitError, available, first_line, listed
from trtkit.extras import require
from trtkit.labels import clean_labels
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.pipeline import load
from trtkit.scores import Scoring
from trtkit.stages import Stage
from trtkit.store.cache import INTEGERS
from trtkit.tensors import Array
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.models.weights import Weighted

CHECKPOINT_BATCH: Final = 32


@dataclass(frozen=True)
class FeatureMap:
    """What a prefix hands over: the block it is cut behind, and the map's shape for one image.

    An integer q of it stands for (q - `zero`) * `scale`; 0 and 1 for maps that hold the numbers.
    """

    cut: int
    shape: tuple[int | None, ...]
    scale: float = 1.0
    zero: float = 0.0

    @classmethod
    def of(cls, manifest: Manifest, tail: Stage) -> FeatureMap | None:
        """That of the tail's prefix; None without one, without a fixed shape, and for integers of
        which the manifest does not say what they stand for."""
        prefix = manifest.prefix_of(tail)
        maps = prefix.output("feature_map") if prefix is not None else None
        if maps is None or None in (shape := maps.shape[1:]):
            return None
        if maps.dtype not in INTEGERS:
            return cls(manifest.cut, shape)
        boundary = (manifest.quantized or {}).get("boundary")
        if boundary is None:
            return None
        return cls(manifest.cut, shape, float(boundary["scale"]), float(boundary["zero"]))

    def values(self, stored: Array) -> Array:
        """The numbers, float64, that a map as the prefix gives it stands for, in its shape."""
        return (stored.astype(np.float64) - self.zero) * self.scale


class Pace:
    """The seconds of a subject's batches, of which those of the largest size count."""

    def __init__(self) -> None:
        self._images = 0
        self._seconds = array("d")

    def add(self, images: int, seconds: float) -> None:
        """Count a batch of `images` that took `seconds`."""
        if images > self._images:
            # A remainder costs more per image than a full batch.
            self._images, self._seconds = images, array("d")
        if images == self._images:
            self._seconds.append(seconds)

    @property
    def images_per_second(self) -> float | None:
        """Of the median batch, without the first, which warms up; None when nothing was measured."""
        seconds = self._seconds[1:] or self._seconds
        middle = median(seconds) if seconds else 0.0
        return self._images / middle if middle > 0 else None


class Subject:
    """A classifier to be evaluated: what it is called and takes, and the logits it gives.

    `name` is short, `place` tells it from others of that name by where it lies. `kind` is `checkpoint`
    or `bundle`; `checkpoint` is the file, `bundle` and `tail` are names, None where they do not apply;
    `precision` and `backend` are what it runs in; `scoring` is how its logits become scores. `notes` are
    sentences that its scores have to be read with. `trained_on` is what a model says about the data that
    it was trained on, empty where it says nothing. `bytes` is the size of the files it is loaded from;
    `feature_map` what is handed over at the cut, None where there is none; `pace` how fast it was so far.
    """

    name: str
    place: str
    kind: str
    checkpoint: str | None = None
    bundle: str | None = None
    tail: str | None = None
    precision: str
    backend: str
    classes: tuple[str, ...]
    scoring: Scoring = "softmax"
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()
    trained_on: Mapping[str, Any]
    bytes: int
    feature_map: FeatureMap | None = None

    def __init__(self, batch: int) -> None:
        """`batch`: the largest number of images in one run."""
        self.batch = batch
        self.pace = Pace()

    @property
    def boundary(self) -> tuple[str | None, int, tuple[int | None, ...]] | None:
        """Tail, cut and shape of the feature map: maps that agree in them can be compared."""
        maps = self.feature_map
        return None if maps is None else (self.tail, maps.cut, maps.shape)

    def compute(self, images: Array, *, features: bool = False) -> tuple[Array, Array | None]:
        """Logits, float32 N x classes, of any number of uint8 images N x H x W x 3, RGB.

        H and W are those of `preprocessing`. With `features` also the maps at the cut, N x ..., as the
        prefix gives them, where there is a cut; else None. Raises TrtkitError when it cannot be run.
        """
        logits: list[Array] = []
        maps: Array | None = None
        for start in range(0, len(images), self.batch):
            began = time.perf_counter()
            batch_logits, batch_maps = self._run(images[start : start + self.batch], features)
            self.pace.add(len(batch_logits), time.perf_counter() - began)
            logits.append(batch_logits)
            if batch_maps is not None:
                if maps is None:
                    maps = np.empty((len(images), *batch_maps.shape[1:]), batch_maps.dtype)
                # Copied at once: the next run may reuse their memory.
                maps[start : start + self.batch] = batch_maps
        return np.concatenate(logits), maps

    def _run(self, images: Array, features: bool) -> tuple[Array, Array | None]:
        """Logits and feature maps of at most `batch` images."""
        raise NotImplementedError

    def close(self) -> None:
        return None


class CheckpointSubject(Subject):
    """A checkpoint, run by torch in fp32: on the GPU when torch sees one."""

    kind = "checkpoint"
    precision = "fp32"
    backend = "torch"

    def __init__(self, path: Path, image_size: int | None = None, batch: int | None = None) -> None:
        """Read the file. `image_size` (pixels) takes the place of its own, `batch` images a run.

        Raises TrtkitError when it cannot be read, or holds NaN.
        """
        super().__init__(batch or CHECKPOINT_BATCH)
        if path.suffix == ".onnx":
            raise TrtkitError(
                f"{path} is not a checkpoint; give a file of weights, or a built bundle with --bundle."
            )
        require("train", "Evaluating a checkpoint", "torch", "torchvision", "safetensors")
        import torch

        from trtkit.models.blocks import Normalise
        from trtkit.models.checkpoint import load as load_model
        from trtkit.models.checkpoint import read_checkpoint
        from trtkit.models.weights import check_finite

        read = read_checkpoint(path)
        weighted = load_model(read)
        check_finite(weighted.model)
        self.checkpoint = self.place = str(path)
        self.name = str(read.metadata.get("name") or path.stem)
        self.classes = _class_names(weighted)
        image = weighted.preprocessing or Preprocessing()
        self.preprocessing = image if image_size is None else image.sized(image_size)
        self.trained_on = weighted.trained_on
        self.bytes = path.stat().st_size
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = weighted.model.network.eval().to(self._device)
        self._normalise = Normalise(weighted.model.normalisation).to(self._device)

    def _run(self, images: Array, features: bool) -> tuple[Array, None]:
        import torch

        try:
            # TF32 has ten bits of mantissa: what is called fp32 here is.
            with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
                value = torch.from_numpy(images).to(self._device)
                logits = self._network(self._normalise(value)).cpu().numpy()
        except RuntimeError as error:
            raise TrtkitError(
                f"{self.checkpoint} cannot take {len(images)} images of {images.shape[1]} x "
                f"{images.shape[2]} at once ({first_line(error)}); choose a smaller --batch, or "
                "the --image-size that it was trained with."
            ) from error
        return np.asarray(logits, np.float32), None


class TailSubject(Subject):
    """One tail of a bundle, run by the backend it was built for, without the cache."""

    kind = "bundle"

    def __init__(self, folder: Path, tail: str, batch: int | None = None) -> None:
        """Load the engines. `batch` images a run, the bundle's optimum by default.

        Raises TrtkitError when they cannot be loaded, or are not for so many images.
        """
        manifest = read_manifest(folder)
        low, best, high = manifest.batch
        if batch is not None and not 1 <= batch <= high:
            raise TrtkitError(
                f"Bundle {manifest.name} takes batches of {low} to {high}, not {batch}; choose one of "
                "those, or rebuild it with another --batch."
            )
        super().__init__(batch or best)
        self._pipeline = load(folder, tail=tail)
        self._pipeline.runner.reserve(self.batch)
        self.bundle = manifest.name
        self.tail = tail
        self.name = f"{manifest.name}/{tail}"
        self.place = f"{folder}/{tail}"
        self.precision = manifest.precision
        self.backend = manifest.backend
        self.classes = self._pipeline.tail.classes or ()
        self.scoring = self._pipeline.tail.scoring
        self.preprocessing = manifest.preprocessing
        self.trained_on = manifest.trained_on.get(tail, {})
        if self._pipeline.meaningless:
            self.notes += (f"The weights of {tail} are random: its scores mean nothing.",)
        if self.scoring == "sigmoid":
            self.notes += (
                f"{tail} gives independent labels: recall counts photos whose label has a score of 0.5 or "
                "more, there is no precision, and models agree where all labels do.",
            )
        if manifest.unverified:
            self.notes += (
                f"The engines of {manifest.name} are unverified: where they were built, "
                f"{manifest.unverified}.",
            )
        path = manifest.path_to(self._pipeline.tail)
        self.bytes = sum((folder / stage.file).stat().st_size for stage in path)
        self.feature_map = FeatureMap.of(manifest, self._pipeline.tail)

    def _run(self, images: Array, features: bool) -> tuple[Array, Array | None]:
        if features:
            return self._pipeline.logits_and_features(images)
        return self._pipeline.logits(images), None

    def close(self) -> None:
        self._pipeline.close()


@contextmanager
def open_subjects(
    place: Workspace,
    checkpoints: Sequence[str | Path],
    bundles: Sequence[str | Path],
    tails: Sequence[str],
    *,
    batch: int | None,
    image_size: int | None,
) -> Iterator[list[Subject]]:
    """Load the checkpoints, and then the tails of the bundles, for the time of the block.

    Without checkpoints and bundles the bundle built last is loaded; without `tails` all tails. Raises
    TrtkitError.
    """
    if batch is not None and batch < 1:
        raise TrtkitError(f"--batch {batch} is too small; give 1 or more.")
    if image_size is not None and not checkpoints:
        raise TrtkitError(
            f"--image-size {image_size} applies to checkpoints only: a bundle keeps the image size of "
            "its export; leave it out."
        )
    if image_size is not None and image_size < 1:
        raise TrtkitError(f"--image-size {image_size} is too small; give 1 pixel or more.")
    if tails and checkpoints and not bundles:
        raise TrtkitError(
            f"--tail {listed(tails)} has no effect on checkpoints, which have no tails; add --bundle."
        )
    wanted: Sequence[str | Path | None] = bundles if checkpoints or bundles else [None]
    chosen = tails_of([place.find_bundle(bundle) for bundle in wanted], tails)
    subjects: list[Subject] = [
        CheckpointSubject(place.find_checkpoint(path), image_size, batch) for path in checkpoints
    ]
    with ExitStack() as opened:
        for folder, tail in chosen:
            subjects.append(TailSubject(folder, tail, batch))
            opened.callback(subjects[-1].close)
        names = [subject.name for subject in subjects]
        for subject in subjects:
            if names.count(subject.name) > 1:
                subject.name = subject.place
        yield subjects


def tails_of(folders: Sequence[Path], wanted: Sequence[str]) -> list[tuple[Path, str]]:
    """Bundle by bundle the tails to evaluate: those named in `wanted`, all where it is empty.

    Raises TrtkitError for a name that no bundle has, and for a bundle that has none of them.
    """
    manifests = [(folder, read_manifest(folder)) for folder in folders]
    tails = {tail.name for _, manifest in manifests for tail in manifest.tails}
    for name in wanted:
        if name not in tails:
            raise TrtkitError(
                f"Tail `{name}` not found in {listed(manifest.name for _, manifest in manifests)}; "
                f"{available(name, sorted(tails))}."
            )
    chosen = []
    for folder, manifest in manifests:
        own = [tail.name for tail in manifest.tails]
        picked = [name for name in dict.fromkeys(wanted or own) if name in own]
        if not picked:
            raise TrtkitError(
                f"Bundle {manifest.name} has no tail {listed(wanted)}; leave the bundle out, or choose "
                f"from its tails: {listed(own)}."
            )
        chosen += [(folder, name) for name in picked]
    return chosen


def match_labels(subject: Subject, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """The index among the subject's classes of each of the data's `classes`, by their names, int64.

    Raises TrtkitError that lists those which the subject does not know, or knows twice.
    """
    place = {name: index for index, name in enumerate(subject.classes)}
    unknown = [name for name in classes if name not in place]
    if unknown:
        raise TrtkitError(
            f"{subject.name} does not know {len(unknown)} of the {len(classes)} class folders: "
            f"{listed(unknown)}; its classes are {listed(subject.classes)}: rename the folders, or "
            "remove those of other classes."
        )
    twice = [name for name in classes if subject.classes.count(name) > 1]
    if twice:
        raise TrtkitError(
            f"{subject.name} has more than one class called {listed(twice)}, so the folder's name is "
            "ambiguous; export the model with --classes and unique names."
        )
    return np.array([place[name] for name in classes], np.int64)


def _class_names(weighted: Weighted) -> tuple[str, ...]:
    names = weighted.classes or [f"class {index}" for index in range(weighted.model.classes)]
    if len(names) != weighted.model.classes:
        raise TrtkitError(
            f"The {weighted.source} names {len(names)} classes but has {weighted.model.classes} "
            "outputs; save it again."
        )
    return clean_labels(names)
