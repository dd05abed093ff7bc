"""What every case gets: the settings, the journal, the backend, and where things lie."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acceptance.journal import Journal
from acceptance.settings import ROOT, AcceptanceSettings, Bundle
from trtkit.benchmark.tensorrt_engines import bundle_engines
from trtkit.bundle import Manifest, read_manifest
from trtkit.engines.cuda.device import Card
from trtkit.errors import TrtkitError
from trtkit.photos.samples import generate_images
from trtkit.preprocessing import Preprocessing
from trtkit.subprocesses import CommandFailed, run_command
from trtkit.tensors import Array

TORCH_MODULES = ("torch", "torchvision")
EXPORT_MODULES = (*TORCH_MODULES, "onnx", "onnxscript", "safetensors")
ANSWER_SECONDS = 60.0
FIND_MODULES = """
import importlib.util, sys
print(all(importlib.util.find_spec(name) for name in sys.argv[1:]))
"""


class LeftOut(Exception):
    """A case that cannot be measured here, which is nobody's fault; the message says why."""


@dataclass
class Context:
    """`commit` is trtkit's, None where git does not tell it."""

    settings: AcceptanceSettings
    journal: Journal
    backend: Any
    card: Card
    commit: str | None

    def folder(self, bundle: Bundle, precision: str) -> Path:
        """The workspace of one bundle at one precision, with a timing cache of its own."""
        return self.settings.made / f"{bundle.name}-{precision}"

    def built(self, bundle: Bundle, precision: str) -> Path:
        """The bundle's own folder."""
        return self.folder(bundle, precision) / "engines" / bundle.name

    def manifest(self, bundle: Bundle, precision: str) -> Manifest:
        return read_manifest(self.built(bundle, precision))

    def export(self, model: str, precision: str = "fp32") -> Path:
        """Where the export of a model lies; int8 engines are made from quantized ones."""
        if precision == "int8" and self.settings.int8_exports is not None:
            return self.settings.int8_exports / f"{model}.onnx"
        return self.settings.workspace / "export" / f"{model}.onnx"

    def engines(self, bundle: Bundle, precision: str, tail: str) -> list[Any]:
        """The loaded engines from the image to the logits of `tail`."""
        manifest = self.manifest(bundle, precision)
        return bundle_engines(self.built(bundle, precision), manifest, manifest.tail(tail))

    def images(self, preprocessing: Preprocessing) -> Array:
        """As many prepared images as the largest batch has, generated, uint8 N x H x W x 3.

        Some are there several times.
        """
        count = max(self.settings.batches)
        few = generate_images(min(count, 8), preprocessing)
        return few[[number % len(few) for number in range(count)]]

    def python_with(self, modules: Sequence[str]) -> str | None:
        """--torch-python, or else this interpreter, if it can import these modules; else None.

        Raises TrtkitError when --torch-python cannot be run.
        """
        python = self.settings.torch_python
        if python is None:
            here = all(importlib.util.find_spec(name) is not None for name in modules)
            return sys.executable if here else None
        try:
            answer = run_command([python, "-c", FIND_MODULES, *modules], timeout=ANSWER_SECONDS)
        except CommandFailed as error:
            raise TrtkitError(
                f"--torch-python {python} does not work ({error.reason}); give the path of a Python "
                "interpreter."
            ) from error
        return python if "True" in answer.split() else None


def run_python(python: str, arguments: Sequence[str], *, purpose: str, seconds: float) -> str:
    """What a Python process prints, with the checkout importable. Raises TrtkitError.

    `purpose` begins the error's sentence: "Exporting resnet50".
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": paths}
    try:
        return run_command([python, *arguments], timeout=seconds, environment=environment)
    except CommandFailed as error:
        raise TrtkitError(f"{purpose} failed ({error.reason}).") from error
