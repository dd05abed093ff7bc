"""Measuring the ranges of a model's values on photos, by NVIDIA ModelOpt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

import trtkit
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.errors import TrtkitError
from trtkit.extras import require
from trtkit.graph.files import write_model
from trtkit.graph.quantize import kernel_edges, range_sources
from trtkit.graph.tree import Model
from trtkit.graph.values import image_input
from trtkit.quantization.photos import CalibrationPhotos, Photo, prepared
from trtkit.quantization.ranges import Ranges

if TYPE_CHECKING:
    import onnx

Advance = Callable[[str, float], None]

# Photos on which every value is looked at before the long measuring begins.
CHECKED = 4
LAST_BYTES = 8192


def measure_ranges(
    model: Model, digest: str, photos: CalibrationPhotos, method: str, advance: Advance
) -> Ranges:
    """Run `model`, all of whose nodes have names, over the photos. Takes minutes; memory is bounded.

    Raises TrtkitError when ModelOpt is missing or fails, and, naming it, for a value that is infinite
    or NaN.
    """
    require("quantize", "Calibrating for int8")
    with tempfile.TemporaryDirectory(prefix="trtkit-calibrate-") as name:
        folder = Path(name)
        constant = _check_values(model, photos.chosen, folder)
        answer = _measured(model, photos, method, _touching(model, constant), folder, advance)
    return Ranges(
        model=model.name,
        digest=digest,
        images=photos.id,
        count=len(photos.chosen),
        method=method,
        tool=answer["tool"],
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        ranges=_by_source(model, answer["ranges"]),
        edges={name: tuple(positions) for name, positions in answer["edges"].items()},
        constant=constant,
    )


def _by_source(model: Model, measured: Mapping[str, float]) -> dict[str, float]:
    """The ranges by the tensors that values come from, where ModelOpt names one that carries them."""
    sources = range_sources(model.graph.graph)
    own = {name: value for name, value in measured.items() if sources.get(name, name) == name}
    carried = {sources.get(name, name): value for name, value in measured.items()}
    return {**carried, **own}


def _measured(
    model: Model,
    photos: CalibrationPhotos,
    method: str,
    exclude: Sequence[str],
    folder: Path,
    advance: Advance,
) -> dict[str, Any]:
    graph = folder / "model.onnx"
    write_model(model.graph, graph)
    request = {
        "model": str(graph),
        "image": image_input(model.graph).name,
        "photos": [str(photo.path.absolute()) for photo in photos.chosen],
        "preprocessing": model.card.preprocessing.to_json(),
        "method": method,
        "exclude": list(exclude),
    }
    asked = folder / "request.json"
    asked.write_text(json.dumps(request))
    phase = f"Measuring the ranges of {model.name}"
    _run(asked, lambda done: advance(phase, min(1.0, done / len(photos.chosen))), model.name)
    answer: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return answer


def _run(request: Path, told: Callable[[int], None], name: str) -> None:
    """The worker, until it has ended. Raises TrtkitError with its last words when it failed."""
    command = [sys.executable, str(Path(trtkit.__file__).with_name("launch.py"))]
    # ModelOpt shows a bar for every batch.
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*command, "quantization.worker", str(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment,
            start_new_session=True,
        )
        try:
            for line in process.stdout or ():
                with suppress(ValueError, KeyError, TypeError):
                    told(int(json.loads(line)["done"]))
            status = process.wait()
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if status:
            raise TrtkitError(
                f"NVIDIA ModelOpt could not measure the ranges of {name} ({_last_words(said, status)}); "
                "build with --fp16, or free memory and try again."
            )


def _last_words(said: IO[bytes], status: int) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - LAST_BYTES))
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return last or (f"it was killed by signal {-status}" if status < 0 else f"status {status}")


def _check_values(model: Model, photos: Sequence[Photo], folder: Path) -> tuple[str, ...]:
    """The tensors that are the same everywhere, of those that could be quantized.

    Raises TrtkitError for the first one that is not finite.
    """
    graph, names = _with_outputs(model)
    path = folder / "values.onnx"
    write_model(graph, path)
    engine = OnnxRuntimeBackend(exact=True).load(path)
    image = engine.inputs[0].name
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    # From all of them: the first few may be of one class.
    few = photos[:: max(1, len(photos) // CHECKED)][:CHECKED]
    for (photo,), images in prepared(few, model.card.preprocessing, 1):
        values = engine.run({image: images})
        for name in names:
            least, most = (float(f(values[name].numpy())) for f in (np.min, np.max))
            if not np.isfinite([least, most]).all():
                raise TrtkitError(
                    f"The value {name} of {model.name} is infinite or NaN on {photo.path}, so that it has "
                    "no range; train or export the model anew, or build with --fp32."
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
    """The nodes that take or give one of the tensors: a histogram of one value is none."""
    sources: Mapping[str, str] = range_sources(model.graph.graph)
    found = set(tensors)
    return [
        node.name
        for node in model.graph.graph.node
        if found.intersection((*node.input, *node.output, *(sources.get(n, n) for n in node.input)))
    ]
