"""From a checkpoint, an architecture or a foreign ONNX file to a verified export/NAME.onnx."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.building.adoption import adopt_file
from trtkit.building.origin import Origin, write_verified
from trtkit.building.verification import Comparison
from trtkit.errors import TrtkitError, listed
from trtkit.extras import require
from trtkit.labels import checked_labels, labels_in
from trtkit.models.names import ARCHITECTURES, check_architecture, without_ending
from trtkit.photos.samples import choose_samples
from trtkit.preprocessing import PhotoOptions, Preprocessing
from trtkit.scores import SCORINGS, Scoring
from trtkit.units import check_units
from trtkit.workspace import BEST, Workspace

if TYPE_CHECKING:
    from trtkit.models.weights import Weighted

VERIFY_IMAGES = 4
UNUSED_NAMES = (
    "{} names {} classes and gives {} outputs, so its names are not used; --classes gives others."
)
# What of the extra exporting needs.
EXPORTER = ("torch", "torchvision", "onnx", "onnxscript", "safetensors")


@dataclass(frozen=True)
class ExportSettings:
    """The options of an export; None where the default applies."""

    name: str | None = None
    weights: str | Path | None = None
    seed: int = 0
    classes: str | Path | None = None
    image_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    scores: Scoring | None = None
    output: str | None = None
    photos: PhotoOptions = field(default_factory=PhotoOptions)

    def __post_init__(self) -> None:
        check_units(self.mean, self.std)
        if self.scores not in (None, *SCORINGS):
            raise TrtkitError(
                f"Scores {self.scores!r} not found; available: {listed(SCORINGS)}, for --scores."
            )

    def prepared(self, own: Preprocessing, *, any_size: bool) -> Preprocessing:
        """A model's `own` preprocessing with these options; `any_size`: it takes images of any size."""
        if any_size and self.image_size is not None:
            own = own.sized(self.image_size)
        return self.photos.applied_to(own, any_size=any_size and self.image_size is None)

    def refuse(self, option: str, model: str | Path) -> None:
        """Raise TrtkitError for an option that would be silently ignored for this model."""
        if getattr(self, option) is not None:
            kinds = "an architecture" if option == "weights" else "a foreign .onnx file"
            raise TrtkitError(f"--{option} is for {kinds}, not for {model}; leave it out.")


@dataclass(frozen=True)
class ExportReport:
    """What was exported: `bytes` of the file; the comparison with its origin and the images used.

    `scores`: how outputs become scores; `photos`: how photos are prepared, in words; `notes`: sentences
    that a user should read.
    """

    name: str
    path: str
    architecture: str
    weights: str
    classes: int
    blocks: int
    image: str
    opset: int
    bytes: int
    images: str
    verified: Comparison
    scores: Scoring
    photos: str
    notes: tuple[str, ...] = ()


def export_model(place: Workspace, model: str | Path, settings: ExportSettings) -> ExportReport:
    """Export and verify `model`; see `trtkit.export`. Raises TrtkitError."""
    source = Path(model)
    if (source / BEST).is_file():
        # The folder of a training: its best checkpoint.
        source = source / BEST
    labels = read_labels(Path(settings.classes)) if settings.classes is not None else None
    _check_exists(source, str(model))
    require("train", "Exporting", *EXPORTER)
    destination = place.export_path(settings.name or _default_name(source, str(model)))
    samples = choose_samples(place.calibration, VERIFY_IMAGES)
    if source.suffix == ".onnx":
        settings.refuse("weights", model)
        origin = _foreign(source, labels, settings)
    else:
        settings.refuse("output", model)
        weighted = _weighted(str(source), labels, settings)
        origin = _from_torch(weighted, labels, settings)
    images = samples.load(origin.card.preprocessing)
    verified = write_verified(origin, destination, images)
    card = verified.card
    return ExportReport(
        name=destination.stem,
        path=str(destination),
        architecture=card.architecture,
        weights=card.weights,
        classes=len(card.classes),
        blocks=len(card.blocks),
        image=f"{card.preprocessing.height} x {card.preprocessing.width}",
        opset=next(o.version for o in origin.graph.opset_import if o.domain in ("", "ai.onnx")),
        bytes=destination.stat().st_size,
        images=images.describe(),
        verified=verified.comparison,
        scores=card.scores,
        photos=card.preprocessing.describe(),
        notes=verified.notes,
    )


def read_labels(path: Path) -> list[str]:
    """The labels of a text file, one a line. Raises TrtkitError when the file holds none."""
    try:
        data = path.read_bytes()
        # Windows writes a mark in front, which tells UTF-16 from UTF-8.
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = data.decode("utf-16" if utf16 else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrtkitError(
            f"The labels {path} cannot be read ({error}); give a UTF-8 text file with one label a "
            "line."
        ) from error
    labels = [line.strip() for line in lines if line.strip()]
    if not labels:
        raise TrtkitError(f"The file of labels {path} is empty; write one label a line.")
    if len(labels) == 1:
        raise TrtkitError(
            f"The file of labels {path} holds one label, and a classifier has two classes or more, also "
            "with a single output: give the label of a low score first, then that of a high one."
        )
    return list(checked_labels(labels, f"The file of labels {path}"))


def _default_name(source: Path, model: str) -> str:
    """The name of the architecture or the file; for the best checkpoint of a training, the training's."""
    if source.name == BEST:
        return source.absolute().parent.name
    return without_ending(source.name) if source.is_file() else model


def _check_exists(source: Path, model: str) -> None:
    """Raise TrtkitError unless it is a file, or the name of an architecture."""
    if source.is_file() or model in ARCHITECTURES:
        return
    if source.is_dir():
        raise TrtkitError(
            f"{model} is a folder without a {BEST}; give a file in it, or the folder of a training."
        )
    if source.suffix or len(source.parts) > 1:
        raise TrtkitError(
            f"There is no file or folder {model}; give an existing checkpoint or .onnx file, or one of "
            f"{listed(ARCHITECTURES, 20)}."
        )
    check_architecture(model)


def _weighted(model: str, labels: list[str] | None, settings: ExportSettings) -> Weighted:
    from trtkit.models import checkpoint
    from trtkit.models import weights as sources

    path, weights = Path(model), settings.weights
    if path.is_file() and model not in ARCHITECTURES:
        settings.refuse("weights", model)
        return checkpoint.load(checkpoint.read_checkpoint(path))
    if weights is None or weights == "imagenet":
        return sources.imagenet(model)
    if weights == "random":
        return sources.random(model, settings.seed, len(labels) if labels else 1000)
    if not Path(weights).is_file():
        raise TrtkitError(
            f"--weights {weights} is not a source of weights; give imagenet, random or a file that exists."
        )
    return checkpoint.load(checkpoint.read_checkpoint(Path(weights)), model)


def _from_torch(weighted: Weighted, labels: list[str] | None, settings: ExportSettings) -> Origin:
    from trtkit.graph.card import ModelCard
    from trtkit.graph.export import export_graph, reference_logits
    from trtkit.models.weights import check_finite, normalised_by

    model = normalised_by(weighted.model, settings.mean, settings.std)
    check_finite(model)
    image = settings.prepared(weighted.preprocessing or Preprocessing(), any_size=True)
    names = _class_names(labels or weighted.classes, model.classes)
    card = ModelCard(
        model.architecture, weighted.source, names, image, [],
        trained_on=weighted.trained_on, scores=settings.scores or "softmax",
    )  # fmt: skip
    graph = export_graph(model, card)
    card = ModelCard.read_from(graph, model.architecture)
    return Origin(
        graph, card, lambda images: reference_logits(model, images, image), notes=weighted.notes
    )


def _foreign(source: Path, labels: list[str] | None, settings: ExportSettings) -> Origin:
    from trtkit.graph.card import ModelCard
    from trtkit.graph.files import read_model

    original = read_model(source)
    if any(prop.key == "trtkit" for prop in original.metadata_props):
        raise TrtkitError(
            f"{source} was exported by trtkit already; copy it into the workspace's export folder, "
            "or give its original."
        )
    adoption = adopt_file(
        original,
        source.name,
        path=source,
        mean=settings.mean,
        std=settings.std,
        image_size=settings.image_size,
        output=settings.output,
        scoring=settings.scores,
    )
    adopted = adoption.adopted
    own = labels_in({prop.key: prop.value for prop in original.metadata_props})
    unused = labels is None and own is not None and len(own) != adopted.classes
    names = _class_names(labels or (None if unused else own), adopted.classes)
    card = ModelCard(
        "foreign",
        f"file {source.name}",
        names,
        settings.prepared(adopted.preprocessing, any_size=False),
        [],
        scores=adopted.ending.scoring,
    )
    card.write_to(adopted.model)
    return Origin(
        adopted.model, card, adoption.reference, adopted.ending.activation, adopted.single,
        stated=settings.scores is not None,
        limits=adoption.limits,
        notes=(
            *adoption.notes,
            *([UNUSED_NAMES.format(source.name, len(own or ()), adopted.classes)] if unused else ()),
        ),
    )  # fmt: skip


def _class_names(labels: list[str] | None, count: int) -> list[str]:
    names = labels or [f"class {index}" for index in range(count)]
    if len(names) != count:
        raise TrtkitError(
            f"{len(names)} labels do not fit a model of {count} classes; give one label for each class, in "
            "the order of its outputs."
        )
    return names
