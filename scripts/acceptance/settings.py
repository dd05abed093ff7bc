"""What is built and measured: models, bundles, how much of each; and the options of a run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtkit.engines.registry import BACKENDS
from trtkit.errors import TrtkitError

ROOT = Path(__file__).resolve().parents[2]
# fp16 carries most of the targets; fp32 is there for its parity.
MAIN = "fp16"
PRECISIONS = (MAIN, "int8", "fp32")


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


SMALL = Scale(
    rounds=2, sample_seconds=0.0, most_repeats=2, submits=4, binds=(10, 30), photos=4, passes=1,
    verify_images=2, parity_photos=2, trtexec_seconds=1,
)  # fmt: skip


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

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for bundle in self.split for name in bundle.models))


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
    "small": ModelSet(Bundle("shared", ("resnet18", "resnet34"), 2), (), 64, SMALL),
}


class AcceptanceSettings(argparse.Namespace):
    """The options of a run."""

    out: Path
    markdown: Path | None
    workspace: Path
    models: str
    batches: tuple[int, ...]
    minutes: float
    fresh: bool
    backend: str
    tuned: bool
    own_tactics: bool
    torch_python: str | None
    torch_compile: bool
    int8_exports: Path | None
    photos: Path | None
    skip: list[str]

    def resolve(self) -> None:
        """Make folders absolute. Raises TrtkitError for those that cannot be used."""
        if self.out.is_dir():
            raise TrtkitError(f"--out {self.out} is a folder; give the name of a file.")
        for option in ("--photos", "--int8-exports"):
            name = option.strip("-").replace("-", "_")
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise TrtkitError(f"{option} {folder} is not a folder; give one that exists.")
            setattr(self, name, folder and folder.resolve())
        self.out = self.out.resolve()
        beside = self.out.with_name(f"{self.out.stem}-workspace")
        self.workspace = (self.workspace or beside).resolve()

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


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options; `parse_args` fills an AcceptanceSettings."""
    options = argparse.ArgumentParser(
        prog="gpu_acceptance",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    backends = [entry.name for entry in BACKENDS if entry.needs_gpu]
    add = options.add_argument
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
    add("--int8-exports", type=Path, metavar="DIR", help="quantized exports, NAME.onnx each")
    add("--photos", type=Path, metavar="DIR", help="JPEG files; default: of scripts/photos.py")
    add("--skip", nargs="+", default=[], metavar="STEP", help="steps to leave out; * may be in it")
    return options


def _batches(text: str) -> tuple[int, ...]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a list of batch sizes such as 1,8,32")
    return tuple(sizes)
