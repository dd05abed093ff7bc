"""What is built and measured, the options of a run, and what every case gets."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acceptance.journal import Journal
from trtkit.benchmark.tensorrt_engines import bundle_engines
from trtkit.bundle import Manifest, read_manifest
from trtkit.engines.registry import BACKENDS
from trtkit.errors import TrtkitError
from trtkit.photos.samples import generate_images
from trtkit.stages import Role
from trtkit.subprocesses import CommandFailed, run_command
from trtkit.tensors import Array

ROOT = Path(__file__).resolve().parents[2]
# fp16 carries most of the targets; fp32 is there for its parity.
MAIN = "fp16"
PRECISIONS = (MAIN, "int8", "fp32")
# Kinds with a single case, which is named after its kind.
ONCE = ("environment", "host time", "loops", "end to end", "leaks")


@dataclass(frozen=True)
class Bundle:
    """A bundle to build: its models, the first one's tail being the default, and the cut (0: none)."""

    name: str
    models: tuple[str, ...]
    cut: int


def unsplit(model: str) -> Bundle:
    """The bundle of one model in one piece."""
    return Bundle(f"{model}-unsplit", (model,), 0)


@dataclass(frozen=True)
class Case:
    """What is made or measured, and of which bundle. An export has the unsplit bundle of its model."""

    kind: str
    bundle: Bundle
    precision: str = MAIN

    @property
    def model(self) -> str:
        return self.bundle.models[0]

    @property
    def name(self) -> str:
        if self.kind in ONCE:
            return self.kind
        if self.kind == "export":
            return f"export {self.model}"
        subject = self.model if self.kind == "compute" else self.bundle.name
        return f"{self.kind} {subject} {self.precision}"


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int = 25
    sample_seconds: float = 0.03  # a sample repeats its batch for so long
    most_repeats: int = 200  # but no more often
    submits: int = 300  # rounds of the host's time
    binds: tuple[int, int] = (100, 1000)  # bindings after which free memory is read
    photos: int = 256  # end to end, in `passes` rounds
    passes: int = 5
    verify_images: int = 16  # that a build compares on
    parity_photos: int = 32
    trtexec_seconds: int = 3


@dataclass(frozen=True)
class ModelSet:
    """`shared` is what most cases measure; its models are built unsplit as well; `alone`: more bundles."""

    shared: Bundle
    alone: tuple[Bundle, ...]
    image_size: int
    scale: Scale

    @property
    def compared(self) -> tuple[str, ...]:
        """The models of the shared bundle, the deepest first."""
        return self.shared.models[::-1]

    @property
    def split(self) -> tuple[Bundle, ...]:
        return (self.shared, *self.alone)

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        return (self.shared, *map(unsplit, self.compared), *self.alone)


MODEL_SETS = {
    # ResNet-50 and ResNet-152 are the same up to block 7. In VGG-16 block 7 ends with the third
    # pooling: the smallest feature map (784 KiB in fp32, half of ResNet's at its cut 7) before which
    # at most two thirds of the operations lie (60%, by `trtkit cuts vgg16`). From block 10 on maps are
    # smaller still, but then 90% of the model would be prefix and hardly a tail left to measure.
    "full": ModelSet(
        Bundle("shared", ("resnet50", "resnet152"), 7),
        (Bundle("vgg16-split", ("vgg16",), 7),),
        224,
        Scale(),
    ),
    "small": ModelSet(
        Bundle("shared", ("resnet18", "resnet34"), 2),
        (),
        64,
        Scale(2, 0.0, 2, 4, (10, 30), 4, 1, verify_images=2, parity_photos=2, trtexec_seconds=1),
    ),
}


class AcceptanceSettings(argparse.Namespace):
    """The options of a run, as `parser` describes them; folders are absolute."""

    @property
    def set(self) -> ModelSet:
        return MODEL_SETS[self.models]

    @property
    def scale(self) -> Scale:
        return self.set.scale

    @property
    def made(self) -> Path:
        """The folder of everything that the run makes besides exports."""
        return self.workspace / "gpu-acceptance"

    @property
    def profiles(self) -> list[tuple[int, int, int]]:
        """The ranges of images that engines are built for: (minimum, optimum, maximum)."""
        low, high = min(self.batches), max(self.batches)
        widest = (low, max(min(8, high), low), high)
        return [widest, *((size, size, size) for size in self.batches if self.tuned)]

    @property
    def decisive(self) -> dict[str, Any]:
        """What results of two runs must have in common to stand in one file."""
        names = ("models", "batches", "tuned", "own_tactics")
        return {name: getattr(self, name) for name in names}


def parse(arguments: Sequence[str], description: str | None) -> AcceptanceSettings:
    """The options of a command line. Raises TrtkitError for an --out that is a folder."""
    parser = argparse.ArgumentParser(
        prog="gpu_acceptance",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    backends = [entry.name for entry in BACKENDS if entry.needs_gpu]
    add = parser.add_argument
    add("--out", type=Path, metavar="FILE", required=True, help="the results, JSON; there: go on")
    add("--markdown", type=Path, metavar="FILE", help="the results as a page, too")
    add("--workspace", type=Path, metavar="DIR", help="exports and what is made; beside FILE")
    add("--models", choices=MODEL_SETS, default="full", help="small: to try the script itself")
    add("--batches", type=_batches, default=(1, 8, 32, 128), help="default: 1,8,32,128")
    add("--minutes", type=float, default=8.0, help="no step starts later; default: 8")
    add("--fresh", action="store_true", help="forget the results in FILE and what was built")
    add("--backend", choices=backends, default="auto")
    add("--tuned", action="store_true", help="tune for each batch size as well; builds take longer")
    add(
        "--own-tactics", action="store_true", help="TensorRT 8 without cuDNN's and cuBLAS's kernels"
    )
    add("--torch-python", metavar="PYTHON", help="an interpreter with torch, torchvision and numpy")
    add("--torch-compile", action="store_true", help="measure torch.compile as well")
    add("--int8-exports", type=_folder, metavar="DIR", help="quantized exports, NAME.onnx each")
    add("--photos", type=_folder, metavar="DIR", help="JPEG files; default: of scripts/photos.py")
    add("--skip", nargs="+", default=[], metavar="STEP", help="steps to leave out; * may be in it")
    settings = parser.parse_args(arguments, AcceptanceSettings())
    if settings.out.is_dir():
        raise TrtkitError(f"--out {settings.out} is a folder; give the name of a file.")
    settings.out = settings.out.resolve()
    default = settings.out.with_name(f"{settings.out.stem}-workspace")
    settings.workspace = (settings.workspace or default).resolve()
    return settings


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder; give one that exists")
    return Path(text).resolve()


def _batches(text: str) -> tuple[int, ...]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a list of batch sizes such as 1,8,32")
    return tuple(sizes)


class LeftOut(Exception):
    """A case that this machine cannot measure; the message says why."""


@dataclass
class Context:
    """What every case gets. `commit` is trtkit's, None where git does not tell it."""

    settings: AcceptanceSettings
    journal: Journal
    backend: Any
    commit: str | None

    @property
    def python(self) -> str:
        """The interpreter that exports and runs torch."""
        return self.settings.torch_python or sys.executable

    def export(self, model: str, precision: str = "fp32") -> Path:
        """Where the export of a model lies; int8 engines are made from quantized ones."""
        if precision == "int8" and self.settings.int8_exports is not None:
            return self.settings.int8_exports / f"{model}.onnx"
        return self.settings.workspace / "export" / f"{model}.onnx"

    def folder(self, case: Case) -> Path:
        """The workspace of one bundle at one precision, with a timing cache of its own."""
        return self.settings.made / f"{case.bundle.name}-{case.precision}"

    def built(self, case: Case) -> Path:
        """The bundle's own folder."""
        return self.folder(case) / "engines" / case.bundle.name

    def manifest(self, case: Case) -> Manifest:
        return read_manifest(self.built(case))

    def engines(self, case: Case, model: str = "") -> list[tuple[Role, Any]]:
        """The loaded engines of a model, by default the first one, with their roles."""
        manifest = self.manifest(case)
        return bundle_engines(self.built(case), manifest, manifest.tail(model or case.model))

    def images(self, case: Case) -> Array:
        """Generated images, uint8 N x H x W x 3, N being the largest batch size; they repeat."""
        count = max(self.settings.batches)
        few = generate_images(min(count, 8), self.manifest(case).preprocessing)
        return few[[number % len(few) for number in range(count)]]


def run_python(
    python: str, arguments: Sequence[str], *, purpose: str, seconds: float, instead: str
) -> str:
    """What an interpreter prints, with the checkout importable.

    Raises TrtkitError; `purpose` begins its sentence ("Exporting resnet50"), `instead` ends it.
    """
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    try:
        return run_command([python, *arguments], timeout=seconds, environment=environment)
    except CommandFailed as error:
        raise TrtkitError(f"{purpose} with {python} failed ({error.reason}); {instead}.") from error
