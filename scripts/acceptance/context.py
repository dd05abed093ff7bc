"""What every step gets: the settings, the journal, the backend, and where things lie."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from acceptance.journal import Journal
from acceptance.settings import ROOT, Bundle, Settings
from trtkit.bundle import Manifest, read_manifest
from trtkit.engines.cuda.device import Card
from trtkit.errors import TrtkitError
from trtkit.photos.samples import generate_images
from trtkit.preprocessing import Preprocessing
from trtkit.tensors import Array

TORCH_MODULES = ("torch", "torchvision")
EXPORT_MODULES = (*TORCH_MODULES, "onnx", "onnxscript", "safetensors")
ANSWER_SECONDS = 60


class LeftOut(Exception):
    """A step that cannot be done here, which is nobody's fault; says why."""


@dataclass
class Context:
    """`commit` is trtkit's, None where it is not known."""

    settings: Settings
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
        folder = self.built(bundle, precision)
        manifest = read_manifest(folder)
        again = "scripts/gpu_acceptance --fresh"
        return [
            self.backend.load(folder / stage.file, stage.engine, again)
            for stage in manifest.path_to(manifest.tail(tail))
        ]

    def images(self, preprocessing: Preprocessing, count: int) -> Array:
        """`count` prepared images, generated, uint8 N x H x W x 3; some are there several times."""
        few = generate_images(min(count, 8), preprocessing)
        return few[[number % len(few) for number in range(count)]]

    @cached_property
    def python_with_torch(self) -> str | None:
        """An interpreter that can import torch and torchvision: that of --torch-python, or this one."""
        return self._python_with(TORCH_MODULES)

    @cached_property
    def python_to_export(self) -> str | None:
        return self._python_with(EXPORT_MODULES)

    def _python_with(self, modules: Sequence[str]) -> str | None:
        given = self.settings.torch_python
        if given is not None:
            return given if _has(given, modules) else None
        here = all(importlib.util.find_spec(name) is not None for name in modules)
        return sys.executable if here else None


def _has(python: str, modules: Sequence[str]) -> bool:
    """Whether an interpreter finds these modules. Raises TrtkitError when it cannot be run."""
    code = (
        "import importlib.util as u, sys; "
        "sys.exit(3 if any(u.find_spec(n) is None for n in sys.argv[1:]) else 0)"
    )
    try:
        answer = subprocess.run(
            [python, "-c", code, *modules],
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TrtkitError(
            f"--torch-python {python} cannot be run ({error}); give the path of a Python interpreter."
        ) from error
    if answer.returncode not in (0, 3):
        raise TrtkitError(
            f"--torch-python {python} does not answer as Python does ({last_line(answer.stderr)}); "
            "give the path of a Python interpreter."
        )
    return answer.returncode == 0


def last_line(text: str) -> str:
    """The last line that says something, which is where programs give their reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"


def run_python(python: str, arguments: Sequence[str], *, what: str, seconds: float) -> str:
    """What a Python process prints, with the checkout importable. Raises TrtkitError.

    `what` is what it was run for, as the start of the message.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [python, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
    except subprocess.TimeoutExpired as error:
        raise TrtkitError(f"{what} took longer than {seconds:.0f} seconds.") from error
    except OSError as error:
        raise TrtkitError(f"{what} failed: {python} cannot be run ({error}).") from error
    if done.returncode != 0:
        raise TrtkitError(f"{what} failed: {last_line(done.stderr)}")
    return done.stdout
