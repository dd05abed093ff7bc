"""Competitors that are ready to run: from images or files, by a network or by trtkit's pipeline."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from trtkit.benchmark.network import Network
from trtkit.benchmark.spec import APART, SEVERAL, Spec
from trtkit.benchmark.worker import Loaded
from trtkit.bundle import Manifest
from trtkit.errors import TrtkitError
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.models import output_of
from trtkit.runtime.pipeline import Pipeline, choose_tails
from trtkit.runtime.results import Result
from trtkit.runtime.runner import Runner
from trtkit.scores import Scoring, scores_of
from trtkit.store.cache import CacheOptions, PrefixCache
from trtkit.tensors import Array

TOP = 5
FILLING_PASSES = 5


def batches_of(photos: Sequence[str], image: Preprocessing, batch: int) -> Iterator[Array]:
    """The photos, uint8 N x H x W x 3, in their order; decoded in threads, as a pipeline does."""

    def read(path: str) -> Array:
        return load_image(read_file(path), image)

    workers = default_workers()
    with closing(ordered_map(read, photos, workers=workers, ahead=2 * batch + workers)) as decoded:
        while images := list(islice(decoded, batch)):
            yield np.stack(images)


class Compute(Loaded):
    """Prepared batches, uint8 N x H x W x 3 in memory, to logits, float32 N x classes on the host.

    On a GPU: batches that lie there already to logits there, in the seconds that the GPU took.
    """

    def __init__(
        self,
        network: Network,
        batches: Sequence[Array],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.images = sum(map(len, batches))
        self.note = network.note
        self._network = network
        self._batches = batches
        self._close = close
        if network.on_device is not None:
            self._placed = [network.on_device.place(batch) for batch in batches]
            # What comes a second time is recorded, and what is compared with it is tuned by then.
            for _ in range(2):
                self.run()

    def run(self) -> float | None:
        if self._network.on_device is not None:
            return self._network.on_device.seconds(self._placed)
        for batch in self._batches:
            self._network.logits(batch)
        return None

    def labels(self) -> list[int]:
        batches = map(self._network.logits, self._batches)
        return [int(label) for logits in batches for label in logits.argmax(axis=1)]

    def close(self) -> None:
        self._close()


class EndToEnd(Loaded):
    """Files to their best classes by one network, decoded in threads as a pipeline does."""

    def __init__(
        self, network: Network, spec: Spec, image: Preprocessing, scoring: Scoring
    ) -> None:
        self.images = len(spec.photos)
        self.note = network.note
        self._network = network
        self._spec = spec
        self._image = image
        self._scoring = scoring

    def run(self) -> float | None:
        self._best()
        return None

    def labels(self) -> list[int]:
        return [int(classes[0]) for classes, _ in self._best()]

    def _best(self) -> list[tuple[Array, Array]]:
        """For each photo the indices of its best classes, best first, and their scores."""
        best = []
        for batch in batches_of(self._spec.photos, self._image, self._spec.batch):
            for scores in scores_of(self._network.logits(batch), self._scoring):
                order = np.argsort(-scores, kind="stable")[:TOP]
                best.append((order, scores[order]))
        return best


class Together(Loaded):
    """Prepared batches to the logits of all tails of a bundle, in one pass of its prefix.

    Where each tail has its own photos, the prefix runs over those of all of them at once.
    """

    def __init__(self, spec: Spec, manifest: Manifest, runner: Runner) -> None:
        self.images = len(spec.photos)
        self._batches = list(batches_of(spec.photos, manifest.preprocessing, spec.batch))
        self._wanted = [output_of(tail, "logits") for tail in manifest.tails]
        self._cut = manifest.cut_of(manifest.tails[0])
        self._are_apart = spec.tail == APART
        self._runner = runner

    def run(self) -> float | None:
        self._pass()
        return None

    def labels(self) -> list[int]:
        return [
            int(label) for own in self._pass() for logits in own for label in logits.argmax(axis=1)
        ]

    def close(self) -> None:
        self._runner.close()

    def _pass(self) -> list[list[Array]]:
        """The logits of each tail, batch by batch."""
        logits: list[list[Array]] = [[] for _ in self._wanted]
        first = 0
        for batch in self._batches:
            of_batch = self._apart(batch, first) if self._are_apart else self._same(batch)
            for tail, values in of_batch:
                logits[tail].append(values)
            first += len(batch)
        return logits

    def _same(self, images: Array) -> Iterator[tuple[int, Array]]:
        outputs = self._runner.run(self._wanted, images)
        yield from ((tail, outputs[ref]) for tail, ref in enumerate(self._wanted))

    def _apart(self, images: Array, first: int) -> Iterator[tuple[int, Array]]:
        """`first`: the number of the batch's first photo; photo by photo it is another tail's turn."""
        maps = None if self._cut is None else self._runner.run([self._cut], images)[self._cut]
        for tail, ref in enumerate(self._wanted):
            own = slice((tail - first) % len(self._wanted), None, len(self._wanted))
            if len(images[own]) == 0:
                continue
            if maps is None or self._cut is None:
                yield tail, self._runner.run([ref], images[own])[ref]
            else:
                yield tail, self._runner.run([ref], images[:0], {self._cut: maps[own]})[ref]


class OneByOne(Loaded):
    """Models that share nothing, one after the other."""

    def __init__(self, images: int, models: Sequence[Loaded]) -> None:
        self.images = images
        self.note = models[0].note
        self._models = models

    def before(self) -> None:
        for model in self._models:
            model.before()

    def run(self) -> float | None:
        seconds = [model.run() for model in self._models]
        return None if None in seconds else sum(filter(None, seconds))

    def labels(self) -> list[int]:
        return [label for model in self._models for label in model.labels()]

    def close(self) -> None:
        for model in self._models:
            model.close()


class Inference(Loaded):
    """Files to their best classes by trtkit's own pipeline, with its cache as the spec says.

    Cold: every run has an empty cache, and lasts until all of it is committed to the disk. `close` is
    called at the end; by default it closes the runner.
    """

    def __init__(
        self,
        spec: Spec,
        manifest: Manifest,
        runner: Runner,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.images = len(spec.photos)
        self._spec = spec
        self._manifest = manifest
        self._runner = runner
        self._close = close or runner.close
        self._folder: Path | None = None
        self._used = False
        self.pipeline = self._opened()
        if spec.cache == "warm":
            self._fill()

    def before(self) -> None:
        if self._spec.cache == "cold" and self._used:
            self._drop_cache()
            self.pipeline = self._opened()
            self._used = False

    def run(self) -> float | None:
        self._infer()
        return None

    def labels(self) -> list[int]:
        results = self._infer()
        return [
            result.predictions[0].index
            for tail in self.pipeline.tails
            for result in results
            if result.tail == tail.name
        ]

    def close(self) -> None:
        self._close()
        self._drop_cache()

    def _infer(self) -> list[Result]:
        # Changes nothing after `before`; without it the cache has to be empty all the same.
        self.before()
        self._used = True
        results = list(self.pipeline.infer(self._spec.photos, top=TOP, batch=self._spec.batch))
        if self.pipeline.cache is not None:
            self.pipeline.cache.store.flush()
        failed = next((result for result in results if result.error is not None), None)
        if failed is not None:
            raise TrtkitError(f"The photo {failed.path} cannot be measured: {failed.error}")
        return results

    def _fill(self) -> None:
        """Put every photo into the cache; a slow disk may not keep all of the first pass."""
        for _ in range(FILLING_PASSES):
            before = self.pipeline.stats.misses
            self._infer()
            lost = self.pipeline.stats.misses - before
            if not lost:
                return
        raise TrtkitError(
            f"The cache in {self._spec.cache_dir} cannot be warmed: it does not keep {lost} of "
            f"{self.images} photos; free space there, or measure fewer photos."
        )

    def _opened(self) -> Pipeline:
        tails = self._manifest.tails
        if self._spec.tail not in SEVERAL:
            tails = choose_tails(self._manifest, self._spec.tail)
        prefix = self._manifest.prefix_of(tails[0])
        cache = None
        if self._spec.cache != "off" and prefix is not None:
            self._folder = Path(tempfile.mkdtemp(prefix="features-", dir=self._spec.cache_dir))
            cache = PrefixCache.open(
                CacheOptions(mode="always", folder=self._folder),
                self._manifest.preprocessing,
                prefix.id,
            )
        return Pipeline(self._manifest, tails, self._runner, cache)

    def _drop_cache(self) -> None:
        # Not the pipeline's own close, which would close the engines too.
        if self.pipeline.cache is not None:
            self.pipeline.cache.store.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
