"""Making what is measured: exports, bundles with a cold and a warm timing cache, photos."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure.common import progress

from acceptance.context import Context, LeftOut, run_python
from acceptance.settings import ROOT, Bundle
from trtkit.api.build import build as api_build
from trtkit.bundle import Manifest
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError, listed
from trtkit.photos.samples import generate_images
from trtkit.preprocessing import Preprocessing

EXPORT_SECONDS = 900.0
PHOTO_SECONDS = 300.0
PHOTO_SIZE = (500, 375)
GENERATED = "generated"


@dataclass(frozen=True)
class Exported:
    """`by`: how the file came to be there; `size_bytes`: of the file."""

    model: str
    by: str
    size_bytes: int


@dataclass(frozen=True)
class BuiltStage:
    """`builder_seconds`: of TensorRT's builder alone. `inspector` counts heavy layers by precision, in
    the engine, `network` in the parsed network; None or empty where they do not tell."""

    name: str
    builder_seconds: float
    plan_bytes: int
    inspector: dict[str, int] | None
    network: dict[str, int]


@dataclass(frozen=True)
class Built:
    """A bundle that was built with an empty timing cache.

    `builder_seconds` is the sum over its stages, `seconds` all of the build: splitting, building,
    loading, comparing. `verified` is the comparison that the manifest records.
    """

    bundle: str
    models: tuple[str, ...]
    cut: int
    precision: str
    computes: str
    profiles: list[tuple[int, int, int]]
    stages: list[BuiltStage]
    builder_seconds: float
    seconds: float
    verified: dict[str, Any]


@dataclass(frozen=True)
class Rebuilt:
    """The same bundle built again under another name, with the timing cache of the first time.

    `ratio`: of the builder's seconds, warm to cold.
    """

    bundle: str
    precision: str
    cold_builder_seconds: float
    warm_builder_seconds: float
    ratio: float


def export(context: Context, model: str) -> Exported:
    """Export one model with random weights, unless it is there."""
    settings, path = context.settings, context.export(model)
    if path.is_file():
        return Exported(model, "found", path.stat().st_size)
    python = context.python_to_export
    size = settings.set.image_size
    arguments = ["export", model, "--weights", "random", "--name", model]
    arguments += ["--image-size", str(size)] if size != 224 else []
    if python is None:
        raise TrtkitError(
            f"{path} is missing and there is no torch here to export it with; run `trtkit "
            f"{' '.join(arguments)}` on a machine that has torch and copy the file there, or give "
            "--torch-python."
        )
    run_python(
        python,
        ["-m", "trtkit", *arguments, "--workspace", str(settings.workspace)],
        what=f"Exporting {model}",
        seconds=EXPORT_SECONDS,
    )
    return Exported(model, "exported with random weights, seed 0", path.stat().st_size)


def build(context: Context, bundle: Bundle, precision: str) -> Built:
    """Build a bundle in a new workspace, so that its timing cache is empty."""
    _check_exports(context, bundle, precision)
    folder = context.folder(bundle, precision)
    if folder.exists():
        # Only this function makes it.
        shutil.rmtree(folder)
    images = context.settings.set.scale.verify_images
    manifest, seconds = _build(context, bundle, precision, bundle.name, images)
    stages = [
        BuiltStage(
            name=stage.name,
            builder_seconds=float(stage.engine["build_seconds"]),
            plan_bytes=(folder / "engines" / bundle.name / stage.file).stat().st_size,
            inspector=stage.engine["inspector"],
            network=stage.engine["network"],
        )
        for stage in manifest.stages
    ]
    return Built(
        bundle=bundle.name,
        models=bundle.models,
        cut=bundle.cut,
        precision=precision,
        computes=manifest.computes,
        profiles=context.settings.profiles,
        stages=stages,
        builder_seconds=sum(stage.builder_seconds for stage in stages),
        seconds=seconds,
        verified=manifest.verified,
    )


def rebuild(context: Context, bundle: Bundle, precision: str, built_by: str) -> Rebuilt:
    """Build it again under another name, which then goes. `built_by` is the step of the first time."""
    name = f"{bundle.name}-again"
    # One image: what is measured is the builder.
    manifest, _ = _build(context, bundle, precision, name, 1)
    shutil.rmtree(context.folder(bundle, precision) / "engines" / name)
    warm = sum(float(stage.engine["build_seconds"]) for stage in manifest.stages)
    cold = float(context.journal.result(built_by)["builder_seconds"])
    if cold <= 0:
        raise TrtkitError(f"The first build of {bundle.name} took no time that could be measured.")
    return Rebuilt(bundle.name, precision, cold, warm, warm / cold)


def _build(
    context: Context, bundle: Bundle, precision: str, name: str, verify_images: int
) -> tuple[Manifest, float]:
    started = time.perf_counter()
    report = api_build(
        [str(context.export(model, precision)) for model in bundle.models],
        cut=bundle.cut,
        precision=precision,
        backend=context.backend.name,
        options=BuildOptions.for_batches(
            context.settings.profiles, own_tactics=context.settings.own_tactics
        ),
        bundle_name=name,
        workspace=context.folder(bundle, precision),
        verify_images=verify_images,
    )
    return report.manifest, time.perf_counter() - started


def _check_exports(context: Context, bundle: Bundle, precision: str) -> None:
    if precision not in context.backend.computes:
        raise LeftOut(f"{context.backend.name} has no {precision}")
    if precision != "int8":
        return
    if context.settings.int8_exports is None:
        raise LeftOut("no quantized export: --int8-exports was not given")
    missing = [
        path.name for m in bundle.models if not (path := context.export(m, "int8")).is_file()
    ]
    if missing:
        raise LeftOut(
            f"no quantized export: {context.settings.int8_exports} has no {listed(missing)}"
        )


def photos(context: Context, count: int) -> tuple[Path, str]:
    """A folder of `count` JPEG files, and where they are from.

    They are those of --photos, else crops that scripts/photos.py makes, else generated ones where its
    packages are not there.
    """
    given = context.settings.photos
    if given is not None:
        return given, str(given)
    place = context.settings.made / "photos"
    real, generated = place / f"real-{count}", place / f"{GENERATED}-{count}"
    if real.is_dir():
        return real, "scripts/photos.py"
    staged = place / "unfinished"
    if staged.exists():
        shutil.rmtree(staged)
    if _write_real(context, staged, count):
        staged.replace(real)
        return real, "scripts/photos.py"
    if not generated.is_dir():
        _write_generated(staged, count)
        staged.replace(generated)
    return generated, GENERATED


def _write_real(context: Context, folder: Path, count: int) -> bool:
    pythons = dict.fromkeys([sys.executable, context.settings.torch_python or sys.executable])
    size = "x".join(map(str, PHOTO_SIZE))
    arguments = [str(ROOT / "scripts" / "photos.py"), str(folder)]
    arguments += ["--count", str(count), "--size", size]
    for python in pythons:
        try:
            run_python(python, arguments, what="Writing photos", seconds=PHOTO_SECONDS)
        except TrtkitError as error:
            progress(f"no real photos: {error}")
        else:
            return True
    return False


def _write_generated(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    width, height = PHOTO_SIZE
    for number, pixels in enumerate(
        generate_images(count, Preprocessing(height=height, width=width))
    ):
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg", quality=90)
