"""A bundle ready to classify: files, folders and whatever else is a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtkit.bundle import Manifest, read_manifest
from trtkit.engines.base import Backend, Tensor
from trtkit.errors import TrtkitError
from trtkit.names import names_of
from trtkit.photos.files import FoundImage, find_images
from trtkit.photos.images import read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.runtime.batching import SharedBatches
from trtkit.runtime.classifier import (
    Classifier,
    FinishedBatch,
    InferenceStats,
    Item,
    PreparedItem,
)
from trtkit.runtime.loading import backend_of, load_runner
from trtkit.runtime.models import output_of
from trtkit.runtime.pictures import is_several, items_of
from trtkit.runtime.results import Result, result_of
from trtkit.runtime.runner import Runner
from trtkit.scores import scores_of
from trtkit.serialization import from_plain
from trtkit.stages import Stage
from trtkit.tensors import Array

if TYPE_CHECKING:
    from trtkit.store.cache import CacheMode, CacheOptions, PrefixCache
    from trtkit.store.costs import CacheDecision

DEFAULT_TOP = 5
# A tail's name that stands for all of them.
ALL_TAILS = "all"


class Pipeline:
    """Tails of one bundle, loaded and ready to classify.

    Call it with anything that is a picture, from as many threads as you like: concurrent calls share
    batches, and all other methods take turns. `infer` goes through files and folders, `stream` through an
    iterable. `close()` it, or use it as a context manager, so that what is still on its way to the cache is
    written.

    `tails` are the models, `tail` the first of them; `cache_decision`: whether the cache on disk is used
    and why, where the cache mode left it open.
    """

    def __init__(
        self,
        manifest: Manifest,
        tails: Sequence[Stage],
        runner: Runner,
        cache: PrefixCache | None = None,
        cache_decision: CacheDecision | None = None,
    ) -> None:
        self.manifest = manifest
        self.tails = tuple(tails)
        self.tail = self.tails[0]
        self.runner = runner
        self.cut = manifest.cut_of(*self.tails)
        self.cache = cache if self.cut is not None else None
        self.cache_decision = cache_decision
        self._logits = [(tail, output_of(tail, "logits")) for tail in self.tails]
        self.classifier = Classifier(
            runner,
            manifest.preprocessing,
            [ref for _, ref in self._logits],
            store=self.cache,
            guarded=self.cut,
        )
        self._shared = SharedBatches(self._run_prepared, limit=manifest.batch[1])

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        try:
            self.runner.close()
        finally:
            # Whatever became of the device, what was computed is kept.
            if self.cache is not None:
                self.cache.store.close()
                stored = self.cache.store.stats
                self.stats.evicted, self.stats.dropped = stored.evicted, stored.dropped

    @property
    def stats(self) -> InferenceStats:
        return self.classifier.stats

    @property
    def meaningless(self) -> tuple[str, ...]:
        """The tails that were exported with random weights, so that their labels mean nothing."""
        weights = self.manifest.weights
        names = [tail.name for tail in self.tails]
        return tuple(name for name in names if weights.get(name, "").startswith("random"))

    def stats_json(self, mode: CacheMode) -> dict[str, Any]:
        """The object of `infer --stats`; `mode` is the cache mode of the request.

        `why` in its `cache` is the sentence of the decision, null where the mode left nothing open.
        """
        stats = self.stats
        return {
            "images": stats.images,
            "failed": stats.failed,
            "seconds": round(stats.seconds, 6),
            "cache": {
                "mode": mode if self.cache is not None else "off",
                "hits": stats.hits,
                "misses": stats.misses,
                "evicted": stats.evicted,
                "dropped": stats.dropped,
                "gpu_hits": stats.gpu_hits,
                "why": self.cache_decision.why if self.cache_decision is not None else None,
            },
            "backend": self.manifest.backend,
            "bundle": self.manifest.name,
            "tail": ",".join(tail.name for tail in self.tails),
        }

    def __call__(self, pictures: Any, *, top: int = DEFAULT_TOP) -> Any:
        """Classify a picture, or a list of them; with one tail a `Result`, or a list of them.

        `pictures`: a path, the bytes of a file, an open file, a PIL image, uint8 pixels of H x W x 3 (RGB;
        an array, or a torch tensor of this form or 3 x H x W), or a list or N x H x W x 3 of these. `top`
        classes for each. A picture that cannot be decoded gives a `Result` with an `error`. With several
        tails a picture gives a list, one `Result` for each tail. From any thread.

        Raises TrtkitError before anything runs for an object that is no picture.
        """
        _check_top(top)
        items = items_of(pictures)
        scored = self._shared(partial(self._prepare, items))
        results = [self._results(*pair, top) for pair in scored]
        answers = results if len(self.tails) > 1 else [one for (one,) in results]
        return answers if is_several(pictures) else answers[0]

    async def aclassify(self, pictures: Any, *, top: int = DEFAULT_TOP) -> Any:
        """As calling the pipeline, without blocking the event loop: `await pipeline.aclassify(data)`."""
        # It takes longer to load than a bundle's manifest.
        import asyncio

        return await asyncio.to_thread(self, pictures, top=top)

    def stream(
        self,
        pictures: Iterable[Any],
        *,
        top: int = DEFAULT_TOP,
        batch: int | None = None,
        workers: int | None = None,
    ) -> Iterator[Result]:
        """Classify the pictures of an iterable, which may be endless, as they are computed.

        Each may be whatever the pipeline can be called with. The other arguments are those of `infer`.
        """
        items = chain.from_iterable(map(items_of, pictures))
        return self.classify_items(items, top=top, batch=batch, workers=workers)

    def infer(
        self,
        paths: Iterable[str | Path] | str | Path,
        *,
        top: int = DEFAULT_TOP,
        batch: int | None = None,
        workers: int | None = None,
    ) -> Iterator[Result]:
        """The predictions for every image that `paths` name, in that order, as they are computed.

        `paths` are files, folders and globs; `top` classes per image; `batch` images per engine run
        (the bundle's optimum by default); `workers` decoding threads (the usable cores by default).
        With several tails there are as many results for each image, in the order of the tails. Memory
        does not grow with the number of images. Raises TrtkitError when `paths` name nothing.
        """
        items = map(_file_item, find_images(paths))
        return self.classify_items(items, top=top, batch=batch, workers=workers)

    def logits(self, images: Array) -> Array:
        """Logits, float32 N x classes, of prepared images, uint8 N x H x W x 3 RGB. No cache."""
        logits = self._logits[0][1]
        return self.runner.run([logits], images)[logits]

    def logits_and_features(self, images: Array) -> tuple[Array, Array | None]:
        """Logits, float32 N x classes, and the feature maps at the cut, N x ..., of one run. No cache.

        `images`: uint8 N x H x W x 3 RGB, 1 to the bundle's largest batch. The maps are in the dtype
        that the prefix gives; None where nothing is split.
        """
        logits = self._logits[0][1]
        if self.cut is None:
            return self.logits(images), None
        with self.runner.lock:
            outputs = self.runner.submit([logits, self.cut], list(images)).result()
            return outputs[logits], outputs[self.cut].copy()

    def features(self, images: Array) -> Array | None:
        """The feature maps alone; for the rest see `logits_and_features`."""
        if self.cut is None:
            return None
        with self.runner.lock:
            return self.runner.submit([self.cut], list(images)).result()[self.cut].copy()

    def logits_on_device(self, images: Any) -> Tensor:
        """Logits of prepared images that lie on the GPU, left there: float32 N x classes. No cache.

        `images`: uint8 N x H x W x 3 RGB, contiguous, an object with `__dlpack__` or
        `__cuda_array_interface__`, such as a torch or CuPy tensor or a pycuda GPUArray, which is read
        where it lies. So may the result be. Raises TrtkitError for a bundle that runs on the CPU.
        """
        if not self.runner.on_gpu:
            raise TrtkitError(
                f"Bundle {self.manifest.name} runs on {self.manifest.backend} on the CPU and has no logits "
                "on the GPU; use logits(), or build with --backend tensorrt."
            )
        return self.runner.on_device(self._logits[0][1], images)

    def classify_items(
        self,
        items: Iterable[Item],
        *,
        top: int = DEFAULT_TOP,
        batch: int | None = None,
        workers: int | None = None,
    ) -> Iterator[Result]:
        """What `stream` and `infer` do, for items."""
        batch = self.manifest.batch[1] if batch is None else batch
        self._check_batch(batch)
        _check_top(top)
        with closing(self.classifier.stream(items, batch=batch, workers=workers)) as batches:
            for finished in batches:
                for pair in self._scored(finished):
                    yield from self._results(*pair, top)

    def _prepare(self, items: Sequence[Item]) -> list[PreparedItem]:
        prepare = self.classifier.prepare
        if len(items) == 1:
            return [prepare(items[0])]
        ahead = max(1, len(items))
        return list(ordered_map(prepare, items, workers=default_workers(), ahead=ahead))

    def _run_prepared(
        self, items: Sequence[PreparedItem]
    ) -> list[tuple[PreparedItem, list[Array]]]:
        return self._scored(self.classifier.run(items))

    def _scored(self, finished: FinishedBatch) -> list[tuple[PreparedItem, list[Array]]]:
        """Each item with the scores that each tail gives it, none for an item that failed."""
        tables = [
            iter(scores_of(finished.rows[ref], tail.scoring))
            for tail, ref in self._logits
            if finished.rows
        ]
        return [
            (item, [next(table) for table in tables] if item.error is None else [])
            for item in finished.items
        ]

    def _results(self, item: PreparedItem, scores: Sequence[Array], top: int) -> list[Result]:
        if item.error is not None:
            return [Result(item.name, error=item.error, tail=tail.name) for tail in self.tails]
        return [
            result_of(
                item.name, row, tail.classes or (), tail.name,
                top=top, cached=item.feature is not None,
            )
            for tail, row in zip(self.tails, scores, strict=True)
        ]  # fmt: skip

    def _check_batch(self, batch: int) -> None:
        low, _, high = self.manifest.batch
        if not 1 <= batch <= high:
            raise TrtkitError(
                f"Bundle {self.manifest.name} takes batches of {low} to {high}, not {batch}; choose one of "
                "those or build with --batch."
            )


def load(
    folder: str | Path,
    *,
    tail: str | Sequence[str] | None = None,
    cache: CacheOptions | None = None,
    gpu_cache: int = 0,
) -> Pipeline:
    """The pipeline of the bundle in `folder`.

    `tail`: the model, by default the first one; several names, or "all", compute what the models share
    once for all of them. `cache` None or mode `off` means without one. `gpu_cache`: bytes of device
    memory for feature maps that stay on the card, in front of the cache on disk; 0 for none. Raises
    TrtkitError when the bundle is missing, damaged, or made for a backend that is not here.

        with trtkit.load("engines/resnet50-cut7-fp16") as pipeline:
            print(pipeline("cat.jpg").top1.label)
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    tails = choose_tails(manifest, tail)
    cut = manifest.cut_of(*tails)
    used = cache is not None and cache.mode != "off"
    if gpu_cache and not (used and cut is not None):
        why = (
            f"bundle {manifest.name} is not split"
            if used
            else "the cache behind it is switched off"
        )
        raise TrtkitError(f"A GPU cache has no use: {why}; leave --gpu-cache out.")
    runner = load_runner(folder, manifest, tails, gpu_cache=gpu_cache)
    decision, prefix_cache = None, None
    if cache is not None and used:
        from trtkit.store.cache import PrefixCache

        prefix = manifest.prefix_of(tails[0]) if cut is not None else None
        maps = prefix.output("feature_map") if prefix is not None else None
        cache.check_dtype(maps.dtype if maps is not None else "float32", manifest.name)
        if prefix is not None:
            if cache.mode == "auto":
                name = "Cache on disk" if gpu_cache else "Cache"
                decision = _weigh(manifest, tails, backend_of(manifest), cache, name)
            idle = decision is not None and not decision.use
            # Asked for by its size, the one on the card is used all the same; it needs the keys.
            if gpu_cache or not idle:
                prefix_cache = PrefixCache.open(cache, manifest.preprocessing, prefix.id, idle=idle)
    return Pipeline(manifest, tails, runner, prefix_cache, decision)


def choose_tails(manifest: Manifest, tail: str | Sequence[str] | None) -> tuple[Stage, ...]:
    """The tails of these names, each once; all for "all", the first for None. Raises TrtkitError."""
    names = names_of(tail) if tail is not None else ()
    if ALL_TAILS in names and ALL_TAILS not in [one.name for one in manifest.tails]:
        for name in names:
            if name != ALL_TAILS:
                manifest.tail(name)
        return manifest.tails
    chosen = map(manifest.tail, names or [None])
    return tuple({stage.name: stage for stage in chosen}.values())


def _weigh(
    manifest: Manifest, tails: Sequence[Stage], backend: Backend, cache: CacheOptions, name: str
) -> CacheDecision:
    """Whether the cache on disk, called `name`, is worth it by what the build measured.

    Several tails run one after the other, so their times add up.
    """
    from trtkit.store.cache import cache_folder, fits_memory
    from trtkit.store.costs import CacheCosts, format_name, machine_of, weigh

    try:
        costs = from_plain(manifest.costs, CacheCosts) if manifest.costs is not None else None
    except ValueError:
        # Of a trtkit that measured otherwise; the engines are as good as their digests say.
        costs = None
    names = [tail.name for tail in tails]
    together = ", ".join(names)
    if costs is not None and costs.tails.keys() >= {*names}:
        costs = replace(costs, tails={together: sum(costs.tails[name] for name in names)})
    return weigh(
        costs,
        machine_of(backend),
        together,
        format_name(cache.floats, cache.codec),
        resident=fits_memory(cache_folder(cache.folder)),
        name=name,
    )


def _check_top(top: int) -> None:
    if top < 1:
        raise TrtkitError(f"The number of best classes must be 1 or more, not {top}.")


def _file_item(file: FoundImage) -> Item:
    return Item(str(file.path), partial(read_file, file.path), error=file.error)
