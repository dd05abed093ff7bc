"""What is measured: the bundle, and the baselines that run the same model, loaded and ready to run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trtkit.benchmark.baselines import KINDS as BASELINES
from trtkit.benchmark.baselines import Logits, Network, load_network, source_graphs
from trtkit.bundle import Manifest, read_manifest
from trtkit.cpu import usable_cores
from trtkit.errors import TrtkitError, listed
from trtkit.extras import EXTRAS, Package
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.cache import CacheOptions, PrefixCache
from trtkit.runtime.chain import Runner, backend_of, load_chain, softmax
from trtkit.runtime.images import load_image, read_file
from trtkit.runtime.pipeline import Pipeline, Result, default_workers
from trtkit.runtime.prefetch import ordered_map
from trtkit.tensors import Array

KINDS = ("trtkit", *BASELINES)
COMPUTE, END_TO_END = MEASURES = ("compute", "end to end")
CACHES = ("off", "cold", "warm")
TOP = 5

# What each kind imports that is not in the base install.
_NEEDS = {
    "trtkit": (),
    "onnxruntime": ("onnx",),
    "torch": ("onnx", "torch", "torchvision"),
    "torch-compile": ("onnx", "torch", "torchvision"),
    "openvino": ("onnx", "openvino"),
}


@dataclass(frozen=True)
class Spec:
    """One competitor in one measurement.

    `kind`: one of KINDS. `measure`: `compute` is from prepared images in memory to logits, `end to
    end` from files to the five best classes. `bundle`: the bundle's folder, `tail`: the name of one
    of its models. `photos`: files that can be read. `batch`: images a run of the engine, the last
    one having the rest. `threads`: those of the engine. `cache`: `off`, `cold` (empty before every
    run) or `warm` (every photo in it), the latter two for trtkit end to end alone. `cache_dir`: an
    existing folder of this competitor's own, needed for them.
    """

    kind: str
    measure: str
    bundle: str
    tail: str
    photos: tuple[str, ...]
    batch: int
    threads: int
    cache: str = "off"
    cache_dir: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "photos": list(self.photos)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Spec:
        """The spec of such an object. Raises KeyError or TypeError for wrong fields."""
        # A worker's object also says which function is to be called with it.
        fields = {name: given for name, given in value.items() if name != "factory"}
        return cls(**{**fields, "photos": tuple(fields["photos"])})


class Loaded(Protocol):
    """A competitor that is ready. Not for several threads at once.

    `images`: photos of one run; `note`: what was chosen or found at loading, empty for nothing.
    """

    images: int
    note: str

    def before(self) -> None:
        """What has to happen before each run and is not timed."""
        ...

    def run(self) -> None:
        """One pass over all photos. Raises TrtkitError or ImageError when it failed."""
        ...

    def labels(self) -> list[int]:
        """The index of the best class of every photo, in the order of the spec; takes a pass."""
        ...

    def close(self) -> None:
        """Give back what it holds."""


def missing(kind: str) -> str | None:
    """Why competitors of that kind cannot run here, with the command that mends it; None if they can.

    Part of a sentence: `torch is not installed; pip install 'trtkit[train]'`. Raises TrtkitError for
    an unknown kind.
    """
    if kind not in KINDS:
        raise TrtkitError(f"There is no competitor {kind!r}; choose {listed(KINDS)}.")
    absent = [name for name in _NEEDS[kind] if not Package(name, (name,)).installed]
    if not absent:
        return None
    torch = kind.startswith("torch")
    command = EXTRAS["train"].install if torch else f"pip install {' '.join(absent)}"
    return f"{listed(absent)} {'is' if len(absent) == 1 else 'are'} not installed; {command}"


def load(spec: Spec | dict[str, Any]) -> Loaded:
    """The competitor of `spec`, or of its JSON, warm enough that nothing is compiled in its runs.

    Sets the threads of this process's libraries, so each competitor wants a process of its own:
    trtkit on ONNX Runtime takes a thread for each core that the process may run on. Raises
    TrtkitError when it cannot run here or the spec asks for what there is not, and ImageError when a
    photo cannot be read.
    """
    spec = spec if isinstance(spec, Spec) else Spec.from_json(spec)
    _check(spec)
    manifest = read_manifest(Path(spec.bundle))
    if spec.kind == "trtkit":
        return _load_trtkit(spec, manifest)
    network = _network(spec, manifest)
    if spec.measure == COMPUTE:
        batches = list(_batches(spec.photos, manifest.preprocessing, spec.batch))
        return Compute(network.logits, batches, network.note)
    return EndToEnd(network, spec, manifest.preprocessing)


def _check(spec: Spec) -> None:
    absent = missing(spec.kind)
    if absent is not None:
        raise TrtkitError(f"{spec.kind} cannot be measured here: {absent}.")
    if spec.measure not in MEASURES or spec.cache not in CACHES:
        raise TrtkitError(
            f"The measure {spec.measure!r} with the cache {spec.cache!r} was asked for; choose "
            f"{listed(MEASURES)}, and {listed(CACHES)}."
        )
    if spec.cache != "off" and (spec.kind, spec.measure) != ("trtkit", END_TO_END):
        raise TrtkitError(
            f"A {spec.cache} cache was asked of {spec.kind}, {spec.measure}; only trtkit has one, end "
            "to end."
        )
    if spec.cache != "off" and not (spec.cache_dir and Path(spec.cache_dir).is_dir()):
        raise TrtkitError(
            f"A {spec.cache} cache needs a folder, but {spec.cache_dir!r} is none; make it first."
        )
    if not spec.photos or spec.batch < 1 or spec.threads < 1:
        raise TrtkitError(
            f"{len(spec.photos)} photos, batches of {spec.batch} and {spec.threads} threads were asked "
            "for; each has to be 1 or more."
        )


def _network(spec: Spec, manifest: Manifest) -> Network:
    # The first batch and the smaller last one: what a network is tried out and compiled with.
    first = next(_batches(spec.photos[: spec.batch], manifest.preprocessing, spec.batch))
    rest = len(spec.photos) % spec.batch
    return load_network(
        spec.kind,
        source_graphs(Path(spec.bundle), manifest, spec.tail),
        classes=len(manifest.tail(spec.tail).classes or ()),
        threads=spec.threads,
        examples=[first, first[:rest]] if 0 < rest < len(first) else [first],
    )


def _load_trtkit(spec: Spec, manifest: Manifest) -> Loaded:
    tail = manifest.tail(spec.tail)
    low, _, high = manifest.batch
    if spec.batch > high:
        raise TrtkitError(
            f"A batch of {spec.batch} was asked of the bundle {manifest.name}, which was built for "
            f"{low} to {high} images; choose one of those or build with --batch."
        )
    if spec.cache != "off" and len(manifest.path_to(tail)) == 1:
        raise TrtkitError(
            f"A {spec.cache} cache was asked for, but nothing is split in the bundle {manifest.name}; "
            "measure it without a cache, or build it with --cut."
        )
    backend = backend_of(manifest)
    if not backend.on_device and spec.threads != usable_cores():
        raise TrtkitError(
            f"{spec.threads} threads were asked for, but trtkit on {backend.name} takes one for each of "
            f"the {usable_cores()} cores that this process may use; give the process as many cores."
        )
    chain = load_chain(Path(spec.bundle), manifest, tail, backend)
    if spec.measure == COMPUTE:
        batches = list(_batches(spec.photos, manifest.preprocessing, spec.batch))
        return Compute(chain.logits, batches, close=chain.close)
    return Inference(spec, manifest, chain)


def _batches(photos: Sequence[str], image: Preprocessing, batch: int) -> Iterator[Array]:
    """The photos, uint8 N x H x W x 3, in their order; decoded in threads, as a pipeline does."""

    def read(path: str) -> Array:
        return load_image(read_file(path), image)

    workers = default_workers()
    with closing(ordered_map(read, photos, workers=workers, ahead=2 * batch + workers)) as decoded:
        while images := list(islice(decoded, batch)):
            yield np.stack(images)


class Compute:
    """Prepared batches, uint8 N x H x W x 3 in memory, to logits, float32 N x classes on the host."""

    def __init__(
        self,
        logits: Logits,
        batches: Sequence[Array],
        note: str = "",
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.images = sum(map(len, batches))
        self.note = note
        self.close = close
        self._logits = logits
        self._batches = batches

    def before(self) -> None:
        return None

    def run(self) -> None:
        for batch in self._batches:
            self._logits(batch)

    def labels(self) -> list[int]:
        return [int(i) for batch in self._batches for i in self._logits(batch).argmax(axis=1)]


class EndToEnd:
    """Files to their best classes by one network, decoded in threads as a pipeline does."""

    def __init__(self, network: Network, spec: Spec, image: Preprocessing) -> None:
        self.images = len(spec.photos)
        self.note = network.note
        self._network = network
        self._spec = spec
        self._image = image

    def before(self) -> None:
        return None

    def run(self) -> None:
        self._best()

    def labels(self) -> list[int]:
        return [int(best[0][0]) for best in self._best()]

    def close(self) -> None:
        return None

    def _best(self) -> list[tuple[Array, Array]]:
        """For each photo the indices of its best classes, best first, and their scores."""
        found = []
        for batch in _batches(self._spec.photos, self._image, self._spec.batch):
            for scores in softmax(self._network.logits(batch)):
                order = np.argsort(-scores, kind="stable")[:TOP]
                found.append((order, scores[order]))
        return found


class Inference:
    """Files to their best classes by trtkit's own pipeline, with its cache as the spec says.

    Cold: every run has an empty cache, and lasts until all of it is committed to the disk.
    """

    def __init__(self, spec: Spec, manifest: Manifest, chain: Runner) -> None:
        self.images = len(spec.photos)
        self.note = ""
        self._spec = spec
        self._manifest = manifest
        self._chain = chain
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

    def run(self) -> None:
        self._infer()

    def labels(self) -> list[int]:
        return [result.predictions[0].index for result in self._infer()]

    def close(self) -> None:
        self._chain.close()
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
        """Put every photo into the cache, and see that it is there."""
        self._infer()
        before = self.pipeline.stats.misses
        self._infer()
        lost = self.pipeline.stats.misses - before
        if lost:
            raise TrtkitError(
                f"A warm cache was asked for, but {lost} of {self.images} photos are not kept in "
                f"{self._spec.cache_dir}; free space there, or measure fewer photos."
            )

    def _opened(self) -> Pipeline:
        tail = self._manifest.tail(self._spec.tail)
        cache = None
        if self._spec.cache != "off":
            self._folder = Path(tempfile.mkdtemp(prefix="features-", dir=self._spec.cache_dir))
            cache = PrefixCache.open(
                CacheOptions(mode="always", folder=self._folder),
                self._manifest.preprocessing,
                self._manifest.path_to(tail)[0].id,
            )
        return Pipeline(self._manifest, tail, self._chain, cache)

    def _drop_cache(self) -> None:
        # Not the pipeline's own close, which would close the engines too.
        if self.pipeline.cache is not None:
            self.pipeline.cache.store.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
