"""The ranges of a model's values: stored in the workspace, or measured on photos by NVIDIA ModelOpt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtkit.atomic import scratch_folder
from trtkit.errors import TrtkitError, listed
from trtkit.extras import require
from trtkit.graph.files import write_model
from trtkit.graph.quantize import kernel_edges, range_sources
from trtkit.graph.tree import Model
from trtkit.graph.values import image_input
from trtkit.quantization.photos import (
    AUTO,
    CalibrationPhoto,
    CalibrationPhotos,
    Int8Options,
    prepared,
)
from trtkit.quantization.ranges import METHODS, Ranges, ranges_path, read_ranges
from trtkit.quantization.worker import CalibrationAnswer, CalibrationRequest
from trtkit.reporting import advance, message
from trtkit.runtime.models import load_graphs
from trtkit.serialization import from_plain, to_plain
from trtkit.subprocesses import Worker, WorkerFailed

if TYPE_CHECKING:
    import onnx

# Photos on which every value is looked at before the long measuring begins.
CHECKED = 4


@dataclass(frozen=True)
class RangeSource:
    """Where one model's ranges come from. `digest`: its export's; `photos`: to measure on."""

    model: Model
    digest: str
    photos: CalibrationPhotos
    options: Int8Options

    def read_or_measure(self) -> Ranges:
        """The stored ranges if they hold, else measured ones, which are stored."""
        path = ranges_path(self.options.home, self.model.name)
        method = None if self.options.method == AUTO else self.options.method
        stored, why = read_ranges(path)
        if stored is not None:
            why = stored.why_stale(self.digest, self.photos.id, method)
            if why is None:
                message(f"The ranges of {self.model.name} are those of {path}")
                return stored
        if why is not None:
            message(f"{path} no longer holds ({why}): {self.model.name} is calibrated anew")
        ranges = self.measure(method or METHODS[0])
        self.store(ranges)
        return ranges

    def measure(self, method: str) -> Ranges:
        """Ranges measured now. Raises TrtkitError."""
        name, photos = self.model.name, self.photos
        message(
            f"Calibrating {name} on {len(photos.chosen)} photos of {photos.folder}, by {method}"
        )
        ranges = measure_ranges(self.model, self.digest, photos, method)
        if ranges.constant:
            message(
                f"{listed(ranges.constant)} of {name} never changed on these photos and stays float: a "
                "layer before it may be dead."
            )
        return ranges

    def store(self, ranges: Ranges) -> None:
        ranges.write(ranges_path(self.options.home, self.model.name))


def measure_ranges(model: Model, digest: str, photos: CalibrationPhotos, method: str) -> Ranges:
    """Run `model`, all of whose nodes have names, over the photos. Takes minutes; memory is bounded.

    Raises TrtkitError when ModelOpt is missing or fails, and, naming it, for a value that is infinite
    or NaN.
    """
    require("quantize", "Calibrating for int8")
    with scratch_folder() as folder:
        constant = _check_values(model, photos.chosen, folder)
        answer = _run_modelopt(model, photos, method, _touching(model, constant), folder)
    return Ranges(
        model=model.name,
        digest=digest,
        images=photos.id,
        count=len(photos.chosen),
        method=method,
        tool=answer.tool,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        ranges=_by_source(model, answer.ranges),
        edges=answer.edges,
        constant=constant,
    )


def _by_source(model: Model, measured: Mapping[str, float]) -> dict[str, float]:
    """The ranges by the tensors that values come from; ModelOpt may name one that carries them."""
    sources = range_sources(model.graph.graph)
    own = {name: value for name, value in measured.items() if sources.get(name, name) == name}
    carried = {sources.get(name, name): value for name, value in measured.items()}
    return {**carried, **own}


def _run_modelopt(
    model: Model, photos: CalibrationPhotos, method: str, exclude: Sequence[str], folder: Path
) -> CalibrationAnswer:
    """Measure in a worker. Raises TrtkitError with the last line of its output if it fails."""
    graph = folder / "model.onnx"
    write_model(model.graph, graph)
    request = CalibrationRequest(
        model=graph,
        image=image_input(model.graph).name,
        photos=tuple(photo.path.absolute() for photo in photos.chosen),
        preprocessing=model.card.preprocessing,
        method=method,
        exclude=tuple(exclude),
    )
    # ModelOpt would show a bar for every batch.
    environment = {"TQDM_DISABLE": "1"}
    with Worker("ModelOpt", "quantization.worker", environment=environment) as worker:
        worker.send(to_plain(request))
        try:
            while "done" in (received := worker.receive()):
                share = min(1.0, received["done"] / len(photos.chosen))
                advance(f"Measuring the ranges of {model.name}", share)
        except WorkerFailed as error:
            raise TrtkitError(
                f"NVIDIA ModelOpt could not measure the ranges of {model.name} "
                f"({error.last_line or error.how}); build with --fp16, or free memory and try again."
            ) from error
    return from_plain(received, CalibrationAnswer)


def _check_values(
    model: Model, photos: Sequence[CalibrationPhoto], folder: Path
) -> tuple[str, ...]:
    """The quantizable tensors that have one and the same value everywhere.

    Raises TrtkitError for the first one that is not finite.
    """
    graph, names = _with_outputs(model)
    path = folder / "values.onnx"
    write_model(graph, path)
    loaded = load_graphs(("head", path), exact=True)
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    # Spread over all photos: the first few may be of one class.
    few = photos[:: max(1, len(photos) // CHECKED)][:CHECKED]
    for (photo,), images in prepared(few, model.card.preprocessing, 1):
        for name, value in loaded.values(names, images).items():
            least, most = float(np.min(value)), float(np.max(value))
            if not np.isfinite([least, most]).all():
                raise TrtkitError(
                    f"The value {name} of {model.name} is infinite or NaN on {photo.path} and so has no "
                    "range; train or export the model anew, or build with --fp32."
                )
            low[name] = min(low.get(name, least), least)
            high[name] = max(high.get(name, most), most)
    return tuple(name for name in low if low[name] == high[name])


def _with_outputs(model: Model) -> tuple[onnx.ModelProto, list[str]]:
    import onnx

    graph = onnx.ModelProto()
    graph.CopyFrom(model.graph)
    own = {value.name for value in graph.graph.output}
    edges = kernel_edges(graph.graph)
    names = list(
        dict.fromkeys(
            node.input[position]
            for node in graph.graph.node
            for position in edges.get(node.name, ())
            if node.input[position] not in own
        )
    )
    graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return graph, names


def _touching(model: Model, tensors: Sequence[str]) -> list[str]:
    """The nodes that take or give one of the tensors, whose histogram would have a single value."""
    sources: Mapping[str, str] = range_sources(model.graph.graph)
    constant = set(tensors)
    return [
        node.name
        for node in model.graph.graph.node
        if constant.intersection(
            (*node.input, *node.output, *(sources.get(n, n) for n in node.input))
        )
    ]
