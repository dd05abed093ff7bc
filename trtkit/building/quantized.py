"""int8 builds: what was exported in fp32 is quantized first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtkit.building.request import Request
from trtkit.building.sources import ExportSources, QuantizedSources
from trtkit.errors import TrtkitError, listed

if TYPE_CHECKING:
    from trtkit.engines.base import Backend
    from trtkit.graph.quantize import Form
    from trtkit.graph.tree import Model
    from trtkit.quantization.found import Advance, Progress
    from trtkit.quantization.options import Int8Options


@contextmanager
def quantized(request: Request, progress: Progress, advance: Advance) -> Iterator[Request]:
    """The request with int8 models, where it asks for int8 of exports that are not quantized already.

    They are files of a temporary folder too, which goes with the block. Raises TrtkitError when
    calibrating is impossible or the accuracy cannot be kept.
    """
    if request.int8 is None or not isinstance(request.sources, ExportSources):
        yield request
        return
    with TemporaryDirectory(prefix="trtkit-int8-") as folder:
        yield _quantized(request, request.sources, request.int8, Path(folder), progress, advance)


def _quantized(
    request: Request,
    sources: ExportSources,
    options: Int8Options,
    folder: Path,
    progress: Progress,
    advance: Advance,
) -> Request:
    from trtkit.quantization.quantizer import is_quantized, quantize_models

    models = sources.models()
    done = [model.name for model in models if is_quantized(model)]
    if done and options.given:
        raise TrtkitError(
            f"{listed(done)} was given to be calibrated, but is quantized already; leave the --calibration "
            "options out, or export the model it was made from."
        )
    if len(done) == len(models):
        progress(f"{listed(done)} is quantized already and is built as it is")
        return request
    if done:
        raise TrtkitError(
            f"{listed(done)} is quantized already and the other models are not; build them one by one, or "
            "export the model it was made from."
        )
    if sources.embeddings:
        # Where a model has none this says so, before minutes of measuring.
        sources.tree(request.cut, "fp32")
    found = quantize_models(
        models, sources.digests(), request.cut, form_of(request.backend.int8_form), options, folder,
        progress, advance,
    )  # fmt: skip
    return replace(request, sources=QuantizedSources(sources, found.models, folder, found.record))


def int8_to_measure(
    model: Model,
    digest: str,
    backend: Backend,
    options: Int8Options | None,
    progress: Progress,
    advance: Advance,
) -> Model:
    """The model in int8 with all its cuts, its accuracy not judged; as it is where `options` is None.

    `digest`: its export's. Raises TrtkitError when it cannot be calibrated.
    """
    if options is None:
        return model
    from trtkit.quantization.quantizer import is_quantized, ranged_model

    if is_quantized(model):
        return model
    return ranged_model(model, digest, form_of(backend.int8_form), options, progress, advance)


def form_of(name: str) -> Form:
    """The form of int8 graphs that a backend names."""
    from trtkit.graph.quantize import FORMS

    return FORMS[name]
