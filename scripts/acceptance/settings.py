"""What a run is asked for: models, bundles, batch sizes, how often, how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Bundle:
    """A bundle to build: its models, the first one's tail being the default, and the cut (0: none)."""

    name: str
    models: tuple[str, ...]
    cut: int


@dataclass(frozen=True)
class Pair:
    """A model that is compared as the chain of one bundle and unsplit in another."""

    model: str
    chain: Bundle
    unsplit: Bundle


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    `rounds` samples of each competitor, each of at least `sample_seconds`, but of `most_repeats` batches
    at most; `submits` for the host's time; free memory is read after `binds` bindings; `photos` end to
    end in `passes`; builds compare on `verify_images`, parity on `parity_photos`; torch and ours take
    `torch_rounds` turns; trtexec measures for `trtexec_seconds`.
    """

    rounds: int
    sample_seconds: float
    most_repeats: int
    submits: int
    binds: tuple[int, int]
    photos: int
    passes: int
    verify_images: int
    parity_photos: int
    torch_rounds: int
    trtexec_seconds: int


@dataclass(frozen=True)
class ModelSet:
    """`bundles`: the first one is the shared one, which most steps measure; `pairs` in their order."""

    image_size: int
    bundles: tuple[Bundle, ...]
    pairs: tuple[Pair, ...]
    scale: Scale

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for bundle in self.bundles for name in bundle.models))

    @property
    def shared(self) -> Bundle:
        return self.bundles[0]


def _model_set(
    shared: Bundle, alone: tuple[Bundle, ...], image_size: int, scale: Scale
) -> ModelSet:
    """The models of the shared bundle, the deepest first, are those that are built unsplit as well."""
    unsplit = [Bundle(f"{model}-unsplit", (model,), 0) for model in reversed(shared.models)]
    pairs = tuple(Pair(bundle.models[0], shared, bundle) for bundle in unsplit)
    return ModelSet(image_size, (shared, *unsplit, *alone), pairs, scale)


MODEL_SETS: Mapping[str, ModelSet] = {
    # ResNet-50 and ResNet-152 are the same up to block 7. In VGG-16 block 7 ends with the third
    # pooling: the smallest feature map (784 KiB in fp32, half of ResNet's at its cut 7) before which
    # at most two thirds of the operations lie (60%, by `trtkit cuts vgg16`). From block 10 on maps are
    # smaller still, but then 90% of the model would be prefix and hardly a tail left to measure.
    "full": _model_set(
        Bundle("shared", ("resnet50", "resnet152"), 7),
        (Bundle("vgg16-split", ("vgg16",), 7),),
        224,
        Scale(
            rounds=25,
            sample_seconds=0.03,
            most_repeats=200,
            submits=300,
            binds=(100, 1000),
            photos=256,
            passes=5,
            verify_images=16,
            parity_photos=32,
            torch_rounds=3,
            trtexec_seconds=3,
        ),
    ),
    "small": _model_set(
        Bundle("shared", ("resnet18", "resnet34"), 2),
        (),
        64,
        Scale(
            rounds=2,
            sample_seconds=0.0,
            most_repeats=2,
            submits=4,
            binds=(10, 30),
            photos=4,
            passes=1,
            verify_images=2,
            parity_photos=2,
            torch_rounds=2,
            trtexec_seconds=1,
        ),
    ),
}


@dataclass(frozen=True)
class Settings:
    """The options of a run. `workspace` holds export/ and what the run makes; folders are absolute."""

    out: Path
    workspace: Path
    models: str
    batches: tuple[int, ...]
    minutes: float
    tuned: bool
    torch_python: str | None
    torch_compile: bool
    int8_exports: Path | None
    photos: Path | None
    skip: tuple[str, ...]
    own_tactics: bool = False

    @property
    def set(self) -> ModelSet:
        return MODEL_SETS[self.models]

    @property
    def made(self) -> Path:
        """The folder of everything that the run makes besides exports."""
        return self.workspace / "gpu-acceptance"

    @property
    def profiles(self) -> list[tuple[int, int, int]]:
        """The ranges of images that engines are built for: (minimum, optimum, maximum)."""
        high = max(self.batches)
        widest = (min(self.batches), max(min(8, high), min(self.batches)), high)
        return [widest, *((size, size, size) for size in self.batches if self.tuned)]

    def decisive(self) -> dict[str, Any]:
        """What results of two runs must have in common to stand in one file."""
        kept = ("models", "batches", "tuned", "own_tactics")
        return {name: value for name, value in asdict(self).items() if name in kept} | {
            "batches": list(self.batches)
        }
