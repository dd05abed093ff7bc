"""What the tree of stages costs and saves: tails in one pass, callers in threads, trtkit's own work."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from case import Lab, case
from stock import classify, in_batches, photo_files, prepared

from trtkit import CacheOptions, Pipeline, load
from trtkit.benchmark.protocol import timed
from trtkit.bundle import Manifest, read_manifest
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.photos.images import read_file
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.models import bare_stages
from trtkit.runtime.runner import HostRunner
from trtkit.store.cache import PrefixCache
from trtkit.tensors import Array, TensorSpec

# The ends of engines that compute nothing: a map of a thin network, few classes.
IMAGE = TensorSpec("images", "uint8", (None, 224, 224, 3))
MAPS = TensorSpec("maps", "float16", (None, 64, 28, 28))
LOGITS = TensorSpec("logits", "float32", (None, 10))


@case("--models resnet18 resnet34 --cut 2 --image-size 64 --photos 8 --rounds 2 --tails 2")
def tree(
    lab: Lab, *, models=("resnet50", "resnet152"), cut=7, image_size=224, batch=(1, 8), tails=5,
    photos=64, rounds=15,
) -> None:  # fmt: skip
    """Several tails in one pass, callers in many threads, and trtkit's own work for a photo."""
    several_tails(lab, models, cut, image_size, batch, rounds)
    many_tails(lab, models[0], cut, image_size, tails, batch, rounds)
    threads(lab, models[0], cut, image_size, photos, rounds)
    own_work(lab, photos, rounds)


def several_tails(lab: Lab, models, cut: int, image_size: int, batch, rounds: int) -> None:
    """One pass over a prefix and its tails against the engines one after the other, by themselves."""
    names = [lab.stock.exported(model, image_size=image_size) for model in models]
    folder = lab.stock.built(names, cut, "fp32")
    manifest, backend = read_manifest(folder), OnnxRuntimeBackend()
    engines = {stage.name: backend.load(folder / stage.file) for stage in manifest.stages}
    with load(folder, tail="all") as pipeline:
        competitors = {"engines alone": partial(alone, manifest, engines), **one_pass(pipeline)}
        images = prepared(lab.stock.photos(max(batch)), manifest.preprocessing)
        title, most = f"{' + '.join(models)}, cut {cut}", {"one pass": 1.02}
        lab.contests(title, competitors, images, batch, rounds, most=most)


def one_pass(pipeline: Pipeline) -> dict[str, Callable[[Array], object]]:
    """Images to the logits of all tails."""
    wanted = [tail.ref("logits") for tail in pipeline.tails]
    return {"one pass": partial(pipeline.runner.run, wanted)}


def alone(manifest: Manifest, engines: dict[str, Any], images: Array) -> None:
    """The prefix once, and each tail on its map, without a runner."""
    values: dict[str, Any] = {}
    for stage in manifest.stages:
        feed = images if stage.parent is None else values[stage.parent]
        engine = engines[stage.name]
        values[stage.name] = engine.run({engine.inputs[0].name: feed})[engine.outputs[0].name]
    for tail in manifest.tails:
        np.array(values[tail.name].numpy())


def many_tails(lab: Lab, model: str, cut: int, image_size: int, count: int, batch, rounds) -> None:
    """Tails on one prefix against as many whole models, on the same photos."""
    export = lab.stock.exported(model, image_size=image_size)
    names = [f"{export}-{number}" for number in range(count)]
    for name in names:
        shutil.copy(*map(lab.stock.workspace.export_path, (export, name)))
    with ExitStack() as stack:
        together = stack.enter_context(load(lab.stock.built(names, cut, "fp32"), tail="all"))
        folders = [lab.stock.built([name], 0, "fp32") for name in names]
        whole = [stack.enter_context(load(folder)) for folder in folders]
        competitors = one_pass(together)
        competitors["whole models"] = lambda images: [model.logits(images) for model in whole]
        images = prepared(lab.stock.photos(max(batch)), together.manifest.preprocessing)
        title, least = f"{count} tails of {model}, cut {cut}", {"whole models": 1.5}
        lab.contests(title, competitors, images, batch, rounds, least=least)


def threads(lab: Lab, model: str, cut: int, image_size: int, photos: int, rounds: int) -> None:
    """Callers with one photo each against one caller with batches, from file bytes to classes."""
    folder = lab.stock.bundle(model, cut, "fp32", image_size)
    files = [read_file(path) for path in photo_files(lab.stock.photos(photos))]
    with load(folder) as pipeline, ThreadPoolExecutor(8) as callers:
        expected = [result.top1.index for result in pipeline(files)]

        def check(results: Iterable[Any]) -> None:
            if [result.top1.index for result in results] != expected:
                raise RuntimeError("A caller got another picture's answer.")

        competitors = {
            "batches of 8": lambda: check(chain(*map(pipeline, in_batches(files, 8)))),
            "8 threads": lambda: check(callers.map(pipeline, files)),
        }
        title, most = f"{model}, cut {cut}, {photos} photos", {"8 threads": 1 / 0.9}
        lab.contest(title, competitors, rounds, most=most)


def own_work(lab: Lab, photos: int, rounds: int) -> None:
    """Seconds of a photo without decoding and with engines that compute nothing."""
    # A pass is long enough that starting the threads does not count.
    paths = list(islice(cycle(photo_files(lab.stock.photos(photos))), 1024))
    with lab.stock.scratch() as folder:
        memory, store = Path(folder, "memory"), Path(folder, "store")
        held, kept = idle_pipeline(memory, held=True), idle_pipeline(store)
        for pipeline in (held, kept):
            list(pipeline.infer(paths))
            if pipeline.cache is not None:
                pipeline.cache.store.flush()
        turns = {
            "warm in memory": partial(per_photo, held, paths),
            "warm from the store": partial(per_photo, kept, paths),
        }
        under = {"warm in memory": 60e-6, "warm from the store": 150e-6}
        lab.contest("trtkit's own work for a photo", turns, rounds, under=under)
        for pipeline in (held, kept):
            pipeline.close()


def per_photo(pipeline: Pipeline, paths: Sequence[Path]) -> float:
    """Seconds of a photo, all of which are in the cache."""
    return timed(partial(classify, pipeline, *paths, hits=True, workers=1)) / len(paths)


def idle_pipeline(cache: Path, *, held: bool = False) -> Pipeline:
    """A prefix and a tail that compute nothing, behind a cache; `held`: its maps stay in memory."""
    engines = {"prefix": idle_engine(IMAGE, MAPS), "head": idle_engine(MAPS, LOGITS)}
    prefix, head = bare_stages(list(engines.items()))
    prefix = replace(prefix, id="0" * 64)
    head = replace(head, classes=tuple(f"class {number}" for number in range(10)))
    manifest = Manifest(
        name="idle", build_id="", cut=1, precision="", computes="", backend="", backend_version="",
        trtkit_version="", created="", batch=(1, 8, 64), preprocessing=Preprocessing(),
        stages=(prefix, head),
    )  # fmt: skip
    runner = (HoldingRunner if held else HostRunner)((prefix, head), engines)
    store = PrefixCache.open(
        CacheOptions("always", folder=cache), manifest.preprocessing, prefix.id
    )
    return Pipeline(manifest, [head], runner, store)


class HoldingRunner(HostRunner):
    """A runner that keeps every map in memory, as one with a cache on the card does there."""

    MAP = np.zeros(MAPS.shape[1:], MAPS.dtype)

    def lease(self, key: bytes) -> Any:
        return self.MAP


def idle_engine(takes: TensorSpec, gives: TensorSpec) -> Any:
    made = np.zeros((64, *gives.shape[1:]), gives.dtype)

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        value = next(iter(inputs.values()))
        rows = len(value if isinstance(value, np.ndarray) else value.numpy())
        return {gives.name: SimpleNamespace(numpy=lambda: made[:rows])}

    return SimpleNamespace(inputs=(takes,), outputs=(gives,), run=run)
