"""`trtkit export`: a checkpoint, an architecture or a foreign ONNX file becomes export/NAME.onnx."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtkit.building.verification import LIMITS, Comparison, check, compare
from trtkit.errors import TrtkitError, listed, os_reason
from trtkit.extras import require
from trtkit.models.names import ARCHITECTURES, CHECKPOINTS
from trtkit.photos.samples import SampleImages, choose_samples
from trtkit.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from trtkit.runtime.chain import softmax
from trtkit.tensors import Array
from trtkit.workspace import BEST, Workspace

if TYPE_CHECKING:
    import onnx

    from trtkit.graph.card import ModelCard
    from trtkit.models.weights import Weighted

VERIFY_IMAGES = 4
# What of the extra exporting needs.
EXPORTER = ("torch", "torchvision", "onnx", "onnxscript", "safetensors")


@dataclass(frozen=True)
class _Origin:
    """A graph to be written and what it must agree with.

    `reference` gives the origin's own output, float32 N x classes, for prepared images: logits, or
    probabilities where `probabilities` says so.
    """

    graph: onnx.ModelProto
    card: ModelCard
    reference: Callable[[Array], Array]
    probabilities: bool = False


@dataclass(frozen=True)
class ExportReport:
    """What was exported: `bytes` of the file; the comparison with its origin and the images used."""

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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def export(
    model: str | Path,
    *,
    name: str | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    classes: str | Path | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    workspace: str | Path | None = None,
) -> ExportReport:
    """Export `model` to `export/NAME.onnx`, compare the file with its origin, keep it if they agree.

    `model`: an architecture's name (with `weights` `imagenet`, the default, `random` and its `seed`,
    or a file), a checkpoint or the folder of a training, or any `.onnx` classifier with a float NCHW
    input, which `mean` and `std` (in 0 to 1, ImageNet's by default) describe. `classes`: a text file
    with a label a line.
    `image_size`: pixels of the square input; 224 by default for an architecture, the graph's own for
    a foreign file. Raises TrtkitError.
    """
    place = Workspace.at(workspace)
    source = _best_of(Path(model))
    labels = read_labels(Path(classes)) if classes is not None else None
    require("train", "Exporting", *EXPORTER)
    destination = place.export_path(name or _name(source, str(model)))
    samples = choose_samples(place.calibration, VERIFY_IMAGES)
    if source.suffix == ".onnx":
        _not_for(model, "weights", weights)
        origin = _foreign(source, labels, image_size, mean or IMAGENET_MEAN, std or IMAGENET_STD)
    else:
        _not_for(model, "mean", mean)
        _not_for(model, "std", std)
        weighted = _weighted(str(source), weights, seed, labels)
        origin = _from_torch(weighted, labels, image_size)
    graph, card = origin.graph, origin.card
    images = samples.load(card.preprocessing)
    verified = _write_verified(origin, destination, images)
    return ExportReport(
        name=destination.stem,
        path=str(destination),
        architecture=card.architecture,
        weights=card.weights,
        classes=len(card.classes),
        blocks=len(card.blocks),
        image=f"{card.preprocessing.height} x {card.preprocessing.width}",
        opset=next(o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")),
        bytes=destination.stat().st_size,
        images=images.describe(),
        verified=verified,
    )


def read_labels(path: Path) -> list[str]:
    """The labels of a text file, one a line. Raises TrtkitError when there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrtkitError(
            f"The labels {path} cannot be read ({error}); give a UTF-8 text file with one label a "
            "line."
        ) from error
    labels = [line.strip() for line in lines if line.strip()]
    if not labels:
        raise TrtkitError(f"The file of labels {path} is empty; write one label a line.")
    return labels


def _best_of(source: Path) -> Path:
    """The best checkpoint where `source` is a training's folder, else `source` itself."""
    return source / BEST if (source / BEST).is_file() else source


def _name(source: Path, asked: str) -> str:
    """The export's name: the architecture's or the file's, of a training's best that training's."""
    if source.name == BEST:
        return source.absolute().parent.name
    return source.stem if source.suffix else asked


def _not_for(model: str | Path, option: str, value: object) -> None:
    """Refuse an option that would be silently ignored."""
    if value is not None:
        kinds = "an architecture" if option == "weights" else "a foreign .onnx file"
        raise TrtkitError(
            f"--{option} was given for {model}, but it is for {kinds} alone; leave it out."
        )


def _weighted(
    model: str, weights: str | Path | None, seed: int, labels: list[str] | None
) -> Weighted:
    from trtkit.models import architectures, checkpoint
    from trtkit.models import weights as sources

    path = Path(model)
    if path.suffix in CHECKPOINTS:
        _not_for(model, "weights", weights)
        return checkpoint.load(checkpoint.read_checkpoint(path))
    if model not in ARCHITECTURES and (path.suffix or len(path.parts) > 1 or path.exists()):
        raise TrtkitError(
            f"{model} is neither an architecture nor a model file; give one of "
            f"{listed(ARCHITECTURES, 20)} or a file that ends in {listed([*CHECKPOINTS, '.onnx'])}."
        )
    architectures.check_architecture(model)
    if weights is None or weights == "imagenet":
        return sources.imagenet(model)
    if weights == "random":
        return sources.random(model, seed, len(labels) if labels else 1000)
    if Path(weights).suffix not in CHECKPOINTS:
        raise TrtkitError(
            f"--weights {weights} was asked for {model}; give imagenet, random or a file that ends in "
            f"{listed(CHECKPOINTS)}."
        )
    return checkpoint.load(checkpoint.read_checkpoint(Path(weights)), model)


def _from_torch(weighted: Weighted, labels: list[str] | None, image_size: int | None) -> _Origin:
    from trtkit.graph.card import ModelCard
    from trtkit.graph.export import export_graph, reference_logits
    from trtkit.models.weights import check_finite

    model = weighted.model
    check_finite(model)
    image = weighted.preprocessing or Preprocessing()
    if image_size is not None:
        image = Preprocessing.for_image_size(image_size)
    names = _labels(labels, weighted.classes, model.classes)
    card = ModelCard(
        model.architecture, weighted.source, names, image, [], trained_on=weighted.trained_on
    )
    graph = export_graph(model, card)
    card = ModelCard.read_from(graph, model.architecture)
    return _Origin(graph, card, lambda images: reference_logits(model, images, image))


def _foreign(
    source: Path,
    labels: list[str] | None,
    image_size: int | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> _Origin:
    from trtkit.graph.card import ModelCard
    from trtkit.graph.files import read_model
    from trtkit.graph.foreign import adopt

    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise TrtkitError(
            f"--mean {listed(map(str, mean))} and --std {listed(map(str, std))} were given; give "
            "three numbers each, those of --std above 0."
        )
    original = read_model(source)
    if any(prop.key == "trtkit" for prop in original.metadata_props):
        raise TrtkitError(
            f"{source} was exported by trtkit already; copy it into the workspace's export folder, "
            "or give its original."
        )
    adopted = adopt(original, mean=mean, std=std, image_size=image_size, name=source.name)
    names = _labels(labels, None, adopted.classes)
    card = ModelCard("foreign", f"file {source.name}", names, adopted.preprocessing, [])
    card.write_to(adopted.model)
    return _Origin(
        adopted.model,
        card,
        lambda images: _foreign_output(source, original, images, mean, std),
        adopted.softmax_removed,
    )


def _foreign_output(
    source: Path,
    original: onnx.ModelProto,
    images: Array,
    mean: Sequence[float],
    std: Sequence[float],
) -> Array:
    """The original file's own output, image by image, with normalisation done in NumPy."""
    from trtkit.engines.onnxruntime import OnnxRuntimeBackend
    from trtkit.graph.values import image_input

    engine = OnnxRuntimeBackend().load(source)
    values = (images / 255.0 - np.asarray(mean)) / np.asarray(std)
    values = np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)
    dim = image_input(original).type.tensor_type.shape.dim[0]
    batch = int(dim.dim_value) if dim.HasField("dim_value") else 1
    rows = []
    for value in values:
        feed = np.repeat(value[None], batch, axis=0)
        output = engine.run({engine.inputs[0].name: feed})[engine.outputs[0].name].numpy()
        rows.append(np.array(output[:1]))
    return np.concatenate(rows)


def _labels(given: list[str] | None, known: list[str] | None, count: int) -> list[str]:
    labels = given or known or [f"class {index}" for index in range(count)]
    if len(labels) != count:
        raise TrtkitError(
            f"{len(labels)} labels were given for a model of {count} classes; give one label for "
            "each class, in the order of its outputs."
        )
    return labels


def _write_verified(origin: _Origin, destination: Path, samples: SampleImages) -> Comparison:
    """Write beside `destination`, compare, and only then take its place."""
    from trtkit.engines.onnxruntime import OnnxRuntimeBackend
    from trtkit.graph.files import write_model

    temporary = destination.with_name(f".{destination.stem}-{os.getpid()}.onnx")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        write_model(origin.graph, temporary)
        engine = OnnxRuntimeBackend().load(temporary)
        feed = {engine.inputs[0].name: samples.images}
        logits = engine.run(feed)[engine.outputs[0].name].numpy()
        output = softmax(logits) if origin.probabilities else logits
        comparison = compare(output, origin.reference(samples.images), LIMITS["fp32"])
        check(comparison, LIMITS["fp32"], f"The exported {destination.stem}", samples.describe())
        temporary.replace(destination)
    except OSError as error:
        raise TrtkitError(
            f"{destination.parent} cannot be written ({os_reason(error)}); free space there, "
            "mend its permissions or choose another --workspace."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return comparison
