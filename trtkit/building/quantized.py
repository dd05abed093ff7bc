"""int8 builds: what was exported in fp32 is quantized first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from trtkit.atomic import scratch_folder
from trtkit.building.request import BuildRequest
from trtkit.building.sources import ExportSources, QuantizedSources
from trtkit.errors import TrtkitError, listed
from trtkit.reporting import message

if TYPE_CHECKING:
    from trtkit.engines.base import Backend
    from trtkit.graph.tree import Model
    from trtkit.quantization.photos import Int8Options


@contextmanager
def quantized(request: BuildRequest) -> Iterator[BuildRequest]:
    """The request with int8 models, if it is for int8 of exports that are not quantized already.

    Their files are in a temporary folder, which goes with the block. Raises TrtkitError when
    calibrating is impossible or the accuracy cannot be kept.
    """
    sources, options = request.sources, request.int8
    if options is None or not isinstance(sources, ExportSources):
        yield request
        return
    from trtkit.graph.precision import has_pairs
    from trtkit.graph.quantize import FORMS
    from trtkit.quantization.quantizer import quantize_models

    models = sources.models()
    done = [model.name for model in models if has_pairs(model.graph.graph)]
    if done and options.explicit:
        raise TrtkitError(
            f"{listed(done)} is quantized already and cannot be calibrated; leave the --calibration "
            "options out, or export the model it was made from."
        )
    if len(done) == len(models):
        message(f"{listed(done)} is quantized already and is built as it is")
        yield request
        return
    if done:
        raise TrtkitError(
            f"{listed(done)} is quantized already and the other models are not; build them one by one, or "
            "export the model it was made from."
        )
    if sources.embeddings:
        # Fails for a model without embeddings, before minutes of measuring.
        sources.tree(request.cut, "fp32")
    with scratch_folder() as folder:
        form = FORMS[request.backend.int8_form]
        int8 = quantize_models(models, sources.digests(), request.cut, form, options, folder)
        exports = (sources.names, sources.exports, sources.embeddings)
        yield replace(request, sources=QuantizedSources(*exports, int8.models, folder, int8.record))


def int8_to_measure(
    model: Model, digest: str, backend: Backend, options: Int8Options | None
) -> Model:
    """The model in int8 with all its cuts, its accuracy not judged; unchanged where `options` is None.

    `digest`: its export's. Raises TrtkitError when it cannot be calibrated.
    """
    if options is None:
        return model
    from trtkit.graph.precision import has_pairs
    from trtkit.graph.quantize import FORMS
    from trtkit.quantization.quantizer import ranged_model

    if has_pairs(model.graph.graph):
        return model
    return ranged_model(model, digest, FORMS[backend.int8_form], options)
