"""Where measurements work: photos, exports, trainings and bundles, each made once; and pipelines."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from trtkit import CacheOptions, Pipeline, build, load
from trtkit.photos.images import load_image, read_file
from trtkit.preprocessing import Preprocessing
from trtkit.reporting import message
from trtkit.subprocesses import run_command
from trtkit.tensors import Array
from trtkit.workspace import Workspace

SCRIPTS = Path(__file__).resolve().parents[1]
# Photos that an int8 bundle is calibrated on where accuracy does not count.
INT8_PHOTOS = 64
DIGITS = "scikit-learn's 1,797 handwritten digits, rendered as photos of 96 x 96"
# Options of trainings. Mirroring turns some digits into others.
RANDOM, PLAIN = ("--weights", "random"), ("--augmentation", "none")
LIGHT = ("--augmentation", "light", "--no-flip")


def adam(rate: float) -> tuple[object, ...]:
    return ("--optimizer", "adamw", "--lr", rate)


class Stock:
    """A workspace. What is there is not made again: a measurement that is repeated goes on.

    Exports, builds and trainings run in processes of their own, so that torch and onnx, with their
    memory and threads, are not in the process that measures.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.workspace = root, Workspace(root)

    def trtkit(self, command: str, *arguments: object) -> str:
        """Run a command in this workspace; what it prints."""
        line = trtkit_command(command, *arguments, "--workspace", self.root)
        return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout

    def scratch(self) -> TemporaryDirectory[str]:
        return TemporaryDirectory(dir=self.root, prefix="scratch-")

    def rendered(
        self, name: str, script: str, *options: object, python=sys.executable, timeout=None
    ) -> Path:
        """The folder that one of the scripts beside this folder writes. Raises CommandFailed."""
        folder, part = self.root / name, self.root / f".{name}"
        if not folder.is_dir():
            message(f"Rendering {name}")
            shutil.rmtree(part, ignore_errors=True)
            line = [python, str(SCRIPTS / script), str(part), *map(str, options)]
            run_command(line, timeout=timeout)
            part.rename(folder)
        return folder

    def photos(self, count: int, size: str = "500x375", **process: Any) -> Path:
        """A folder of `count` real JPEG photos, all different."""
        name, options = f"photos-{count}-{size}", ("--count", count, "--size", size)
        return self.rendered(name, "photos.py", *options, **process)

    def calibration(self, count: int = INT8_PHOTOS) -> Path:
        """A folder that calibrates on `count` photos: one in five is held out."""
        return self.photos(count + math.ceil(count / 4))

    def digits(self, classes: str = "0-9", count: int | None = None, seed: int = 0) -> Path:
        """A folder of class folders with these digits, at most `count` photos in each."""
        options = ("--classes", classes, "--size", 96, "--seed", seed)
        options += ("--count", count) if count else ()
        return self.rendered(f"digits-{classes}-{count or 'all'}-{seed}", "digits.py", *options)

    def exported(self, model: str | Path, name: str = "", image_size: int | None = None) -> str:
        """The export of an architecture with random weights, or of a checkpoint, which has a name."""
        name = name or f"{model}-{image_size or 224}"
        # trtkit verifies exports and measures profiles on these photos.
        shutil.copytree(self.photos(16), self.workspace.calibration, dirs_exist_ok=True)
        if not self.workspace.export_path(name).is_file():
            message(f"Exporting {name}")
            options = () if isinstance(model, Path) else RANDOM
            options += ("--image-size", image_size) if image_size else ()
            self.trtkit("export", model, "--name", name, *options)
        return name

    def built(self, names: Sequence[str], cut: int, precision: str, *options: object) -> Path:
        """The folder of the bundle of these exports; int8 leaves no layer float unless told otherwise."""
        bundle = f"{'+'.join(names)}-cut{cut}-{precision}"
        message(f"Building {bundle}")
        if precision == "int8":
            photos = ("--calibration", self.calibration(), "--calibration-images", INT8_PHOTOS)
            options = (*photos, "--min-agreement", 0, *options)
        self.trtkit("build", *names, "--cut", cut, f"--{precision}", "--bundle", bundle, *options)
        return self.workspace.engines / bundle

    def bundle(self, model: str, cut: int, precision: str, image_size: int | None = None) -> Path:
        """That of an architecture with random weights."""
        return self.built([self.exported(model, image_size=image_size)], cut, precision)

    def split(self, name: str, cut: int, precision: str) -> Path:
        """A bundle of one export, built in this process and hardly verified: one of many cuts."""
        options = {"precision": precision, "backend": "onnxruntime", "verify_images": 1}
        bundle = f"{name}-split{cut}-{precision}"
        return build([name], cut=cut, bundle_name=bundle, workspace=self.root, **options).folder

    def trained(self, data: Path, name: str, *options: object) -> dict[str, Any]:
        """The metrics of a training, which is started, resumed or there already."""
        message(f"Training {name}")
        resumed = (self.workspace.checkpoints / name / "run.json").is_file()
        options = ("--resume",) if resumed else options
        cache = ("--cache-dir", self.root / "features")
        return json.loads(self.trtkit("train", data, "--name", name, *options, "--json", *cache))

    def checkpoint(self, name: str, file: str = "last.safetensors") -> Path:
        """A training's last checkpoint, which no validation photo chose, or another one."""
        return self.workspace.checkpoints / name / file

    def evaluated(self, data: Path, *options: object) -> list[dict[str, Any]]:
        """The reports of `trtkit evaluate`."""
        return json.loads(self.trtkit("evaluate", data, *options, "--json"))


def trtkit_command(*words: object) -> list[str]:
    return [sys.executable, "-m", "trtkit", *map(str, words)]


def photo_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jpg"))


def prepared(folder: Path, preprocessing: Preprocessing) -> Array:
    """The photos of a folder as engines take them: uint8 N x H x W x 3."""
    return np.stack([load_image(read_file(path), preprocessing) for path in photo_files(folder)])


def in_batches(array: Array, batch: int) -> list[Array]:
    return [array[start : start + batch] for start in range(0, len(array), batch)]


def over(run: Callable[[Array], object], batches: Sequence[Array]) -> Callable[[], object]:
    """A function that runs all batches, which are in memory."""
    return lambda: [run(batch) for batch in batches]


def cached(bundle: Path, cache: Path | str) -> Pipeline:
    """A bundle's first tail behind a cache in that folder, which is always used."""
    return load(bundle, cache=CacheOptions("always", folder=Path(cache)))


def classify(pipeline: Pipeline, *paths: Path, hits: bool = False, **options: int) -> None:
    """Every photo from its file to its best classes; with `hits` all must be in the cache."""
    for result in pipeline.infer(paths, **options):
        if result.error is not None or (hits and not result.cached):
            raise RuntimeError(f"{result.path}: {result.error or 'not in the cache'}")


class Cached:
    """A tail with all feature maps in memory (`tail`) or in a cache (`warm`), and without (`off`)."""

    def __init__(self, bundle: Path, cache: Path | str, folder: Path, batch: int) -> None:
        pipeline = cached(bundle, cache)
        self.close = pipeline.close
        classify(pipeline, folder, batch=batch)
        images = in_batches(prepared(folder, pipeline.manifest.preprocessing), batch)
        maps, logits = [pipeline.features(own) for own in images], pipeline.tail.ref("logits")

        def tail(own: Array) -> object:
            return pipeline.runner.run([logits], (), {pipeline.cut: own})

        self.tail = over(tail, maps)
        self.warm = partial(classify, pipeline, folder, batch=batch, hits=True)
        bare = Pipeline(pipeline.manifest, pipeline.tails, pipeline.runner)
        self.off = partial(classify, bare, folder, batch=batch)


def with_range(values: Sequence[float], form: str = ".3f") -> str:
    """The mean, the least and the greatest of several runs."""
    return f"{fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"
