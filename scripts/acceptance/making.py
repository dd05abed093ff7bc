"""Making what is measured: exports, bundles with a cold and a warm timing cache, photos."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from acceptance.context import ROOT, Bundle, Context, LeftOut, run_python
from trtkit.api.build import build as api_build
from trtkit.bundle import Manifest
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError, listed
from trtkit.photos.samples import GENERATED, SampleImages, generate_images
from trtkit.preprocessing import Preprocessing
from trtkit.reporting import message

EXPORT_SECONDS = 900.0
PHOTO_SECONDS = 300.0
SIZE = "500x375"


def export(context: Context, model: str) -> Any:
    """Export a model with random weights unless it is there. `by`: how the file came to be there."""
    settings, path = context.settings, context.export(model)
    by = "found"
    if not path.is_file():
        by = "exported with random weights, seed 0"
        size = settings.set.image_size
        arguments = ["export", model, "--weights", "random", "--name", model]
        arguments += ["--image-size", str(size)] if size != 224 else []
        command = ["-m", "trtkit", *arguments, "--workspace", str(settings.workspace)]
        try:
            run_python(
                context.python, command, purpose=f"Exporting {model}", seconds=EXPORT_SECONDS
            )
        except TrtkitError as error:
            raise TrtkitError(
                f"{str(error).rstrip('.')}; run `trtkit {' '.join(arguments)}` on a machine that has "
                f"torch and copy the file to {path}, or give --torch-python."
            ) from error
    return {"model": model, "by": by, "size_bytes": path.stat().st_size}


def build(context: Context, bundle: Bundle, precision: str) -> Any:
    """Build a bundle in a new workspace, so that its timing cache is empty.

    `builder_seconds` are of TensorRT's builder alone, for each stage and in sum, `seconds` all of the
    build: splitting, building, loading, comparing. `inspector` counts heavy layers by precision in the
    engine, `network` in the parsed network; None or empty where they do not tell. `verified` is the
    comparison that the manifest records.
    """
    _check_exports(context, bundle, precision)
    folder = context.folder(bundle, precision)
    if folder.exists():
        # Only this function makes it.
        shutil.rmtree(folder)
    images = context.settings.scale.verify_images
    manifest, seconds = _build(context, bundle, precision, bundle.name, images)
    stages = [
        {
            "name": stage.name,
            "builder_seconds": float(stage.engine["build_seconds"]),
            "plan_bytes": (context.built(bundle, precision) / stage.file).stat().st_size,
            "inspector": stage.engine["inspector"],
            "network": stage.engine["network"],
        }
        for stage in manifest.stages
    ]
    return {
        "bundle": bundle.name,
        "models": bundle.models,
        "cut": bundle.cut,
        "precision": precision,
        "computes": manifest.computes,
        "profiles": context.settings.profiles,
        "stages": stages,
        "builder_seconds": sum(stage["builder_seconds"] for stage in stages),
        "seconds": seconds,
        "verified": manifest.verified,
    }


def rebuild(context: Context, bundle: Bundle, precision: str) -> Any:
    """Build it again with its timing cache, under another name, which then goes.

    `ratio`: of the builder's seconds, warm to cold.
    """
    name = f"{bundle.name}-again"
    # One image: what is measured is the builder.
    manifest, _ = _build(context, bundle, precision, name, 1)
    shutil.rmtree(context.folder(bundle, precision) / "engines" / name)
    warm = sum(float(stage.engine["build_seconds"]) for stage in manifest.stages)
    first = context.journal.result(f"build {bundle.name} {precision}")
    cold = float(first["builder_seconds"])
    if cold <= 0:
        raise TrtkitError(f"The first build of {bundle.name} took no time that could be measured.")
    return {
        "bundle": bundle.name,
        "precision": precision,
        "cold_builder_seconds": cold,
        "warm_builder_seconds": warm,
        "ratio": warm / cold,
    }


def _build(
    context: Context, bundle: Bundle, precision: str, name: str, verify_images: int
) -> tuple[Manifest, float]:
    settings = context.settings
    started = time.perf_counter()
    report = api_build(
        [str(context.export(model, precision)) for model in bundle.models],
        cut=bundle.cut,
        precision=precision,
        backend=context.backend.name,
        options=BuildOptions.for_batches(settings.profiles, own_tactics=settings.own_tactics),
        bundle_name=name,
        workspace=context.folder(bundle, precision),
        verify_images=verify_images,
    )
    return report.manifest, time.perf_counter() - started


def _check_exports(context: Context, bundle: Bundle, precision: str) -> None:
    if precision not in context.backend.computes:
        raise LeftOut(f"{context.backend.name} has no {precision}")
    folder = context.settings.int8_exports
    if precision == "int8" and folder is None:
        raise LeftOut("no quantized export: --int8-exports was not given")
    paths = [context.export(model, precision) for model in bundle.models]
    missing = [path.name for path in paths if not path.is_file()]
    if precision == "int8" and missing:
        raise LeftOut(f"no quantized export: {folder} has no {listed(missing)}")


def photos(context: Context, count: int) -> tuple[Path, str]:
    """A folder of `count` JPEG files, and their source.

    They are those of --photos, else crops that scripts/photos.py makes, else generated ones if its
    packages are missing.
    """
    own, place = context.settings.photos, context.settings.made / "photos"
    if own is not None:
        return own, str(own)
    real, generated = place / f"real-{count}", place / f"{GENERATED}-{count}"
    staged = place / "unfinished"
    script = [
        str(ROOT / "scripts" / "photos.py"),
        str(staged),
        "--count",
        str(count),
        "--size",
        SIZE,
    ]
    for python in {sys.executable: None, context.python: None} if not real.is_dir() else ():
        shutil.rmtree(staged, ignore_errors=True)
        try:
            run_python(python, script, purpose="Writing photos", seconds=PHOTO_SECONDS)
            staged.replace(real)
            break
        except TrtkitError as error:
            message(f"no real photos: {error}")
    if real.is_dir():
        return real, "scripts/photos.py"
    if not generated.is_dir():
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        images = generate_images(count, Preprocessing(height=188, width=250))
        # They are written at twice their size.
        SampleImages(images, GENERATED).photos(staged)
        staged.replace(generated)
    return generated, GENERATED
