"""Making what is measured: exports, bundles with a cold and a warm timing cache, photos."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure.stock import Stock

from acceptance.context import Case, Context, LeftOut, run_python
from trtkit.api.build import build as api_build
from trtkit.bundle import Manifest
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError, listed
from trtkit.photos.samples import GENERATED, SampleImages, generate_images
from trtkit.preprocessing import Preprocessing
from trtkit.reporting import message

EXPORT_SECONDS, PHOTO_SECONDS = 900.0, 300.0


def export(context: Context, case: Case) -> Any:
    """Export a model with random weights unless it is there. `by`: how the file came to be there."""
    settings, model, path = context.settings, case.model, context.export(case.model)
    by = "found"
    if not path.is_file():
        by = "exported with random weights, seed 0"
        arguments = ["export", model, "--weights", "random", "--name", model]
        arguments += ["--image-size", str(settings.set.image_size)]
        command = ["-m", "trtkit", *arguments, "--workspace", str(settings.workspace)]
        instead = (
            f"run `trtkit {' '.join(arguments)}` on a machine that has torch and copy the file to {path}, "
            "or give --torch-python"
        )
        options = {"purpose": f"Exporting {model}", "seconds": EXPORT_SECONDS, "instead": instead}
        run_python(context.python, command, **options)
    return {"by": by, "size_bytes": path.stat().st_size}


def build(context: Context, case: Case) -> Any:
    """Build a bundle anew: what each stage took and became.

    `builder_seconds`: TensorRT's alone, `build_seconds` those of a stage; `seconds`: with splitting,
    converting and verifying. `profiles`: the smallest, best and largest batch of each. `inspector`:
    layers by precision in the engine, `network` in the parsed network; None or empty where they do not
    tell. `verified` is the comparison that the manifest records.
    """
    _check_exports(context, case)
    folder = context.folder(case)
    if folder.exists():
        # Only this function makes it.
        shutil.rmtree(folder)
    images = context.settings.scale.verify_images
    started = time.perf_counter()
    manifest = _build(context, case, case.bundle.name, images)
    seconds = time.perf_counter() - started
    stages = []
    for stage in manifest.stages:
        size = (context.built(case) / stage.file).stat().st_size
        record = {key: stage.engine[key] for key in ("build_seconds", "inspector", "network")}
        stages.append({"name": stage.name, "plan_bytes": size, **record})
    return {
        "cut": case.bundle.cut,
        "computes": manifest.computes,
        "profiles": context.settings.profiles,
        "stages": stages,
        "builder_seconds": _builder_seconds(manifest),
        "seconds": seconds,
        "verified": manifest.verified,
    }


def rebuild(context: Context, case: Case) -> Any:
    """Build it again with its timing cache, under another name, which then goes.

    `ratio`: of the builder's seconds, warm to cold.
    """
    bundle = case.bundle.name
    # One image is enough: only the builder's time counts.
    warm = _builder_seconds(_build(context, case, f"{bundle}-again", 1))
    shutil.rmtree(context.built(case).with_name(f"{bundle}-again"))
    first = context.journal.result(replace(case, kind="build").name)
    cold = float(first["builder_seconds"])
    if cold <= 0:
        raise TrtkitError(f"The first build of {bundle} took no time that could be measured.")
    return {"cold_builder_seconds": cold, "warm_builder_seconds": warm, "ratio": warm / cold}


def _build(context: Context, case: Case, name: str, verify_images: int) -> Manifest:
    settings = context.settings
    return api_build(
        [str(context.export(model, case.precision)) for model in case.bundle.models],
        cut=case.bundle.cut,
        precision=case.precision,
        backend=context.backend.name,
        options=BuildOptions.for_batches(settings.profiles, own_tactics=settings.own_tactics),
        bundle_name=name,
        workspace=context.folder(case),
        verify_images=verify_images,
    ).manifest


def _builder_seconds(manifest: Manifest) -> float:
    return sum(float(stage.engine["build_seconds"]) for stage in manifest.stages)


def _check_exports(context: Context, case: Case) -> None:
    if case.precision not in context.backend.computes:
        raise LeftOut(f"{context.backend.name} has no {case.precision}")
    if case.precision == "int8":
        folder = context.settings.int8_exports
        if folder is None:
            raise LeftOut("no quantized export: --int8-exports was not given")
        paths = [context.export(model, "int8") for model in case.bundle.models]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise LeftOut(f"no quantized export: {folder} has no {listed(missing)}")


def photos(context: Context, count: int) -> tuple[Path, str]:
    """A folder of `count` JPEG files, and their source.

    They are those of --photos, else crops that scripts/photos.py makes, else generated ones if its
    packages are missing.
    """
    own, stock = context.settings.photos, Stock(context.settings.made)
    if own is not None:
        return own, str(own)
    for python in dict.fromkeys((sys.executable, context.python)):
        try:
            return stock.photos(count, python=python, timeout=PHOTO_SECONDS), "scripts/photos.py"
        except TrtkitError as error:
            message(f"no real photos: {error}")
    folder = stock.root / f"{GENERATED}-{count}"
    if not folder.is_dir():
        images = generate_images(count, Preprocessing(height=188, width=250))
        with stock.scratch() as scratch:
            # They are written at twice their size.
            SampleImages(images, GENERATED).photos(Path(scratch))
            Path(scratch).rename(folder)
    return folder, GENERATED
