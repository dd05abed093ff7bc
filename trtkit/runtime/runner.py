"""The runner: any outputs of any stages of a tree, in one pass over a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trtkit.engines.base import Engine, Tensor, check_fits
from trtkit.errors import TrtkitError, listed
from trtkit.stages import OutputRef, Stage, StageInput, StageOutput, paths_to
from trtkit.tensors import Array

# By the names of outputs; the rows are those of `Runner.submit`.
Outputs = Mapping[OutputRef, Array]
# Arrays N x ..., or sequences of maps without a batch dimension.
Known = Mapping[OutputRef, Any]
NOTHING: Known = {}


class Pending(Protocol):
    """A batch on its way."""

    def result(self) -> Outputs:
        """Wait for it. Raises TrtkitError when it failed."""
        ...


class Lease(Protocol):
    """A feature map that the runner itself holds, kept there while the lease lives."""


class Runner(Protocol):
    """The loaded engines of a tree of stages, to which batches are given.

    Threads that call it take turns. Outputs of `submit` other than logits are valid until the next batch,
    so who shares the runner and wants those holds `lock` until they are used. `depth` is how many batches
    it is worth having under way; `planner` knows the outputs.
    """

    depth: int
    on_gpu: bool
    planner: Planner
    lock: AbstractContextManager[Any]

    def reserve(self, images: int, read_ahead: int = 0) -> None:
        """Make room for batches of that many images, and for known maps that are read ahead.

        Raises TrtkitError when there is not so much memory.
        """
        ...

    def submit(
        self,
        wanted: Sequence[OutputRef],
        images: Sequence[Array],
        known: Known = NOTHING,
        *,
        keys: Sequence[bytes | None] = (),
    ) -> Pending:
        """Start a batch: uint8 images H x W x 3, and maps of any stage's output that are known.

        Each engine on the paths to `wanted` runs once. Its rows are those of its parent and then those
        whose maps of the parent's output are `known`: so an output has a row for each image, then one
        for each known map above it, from the root down. An output that would have no rows is left out.
        `keys` are those of the images and then of the known maps at the guarded edge, for a runner that
        keeps feature maps itself. Logits are the caller's; other outputs are valid until the next batch
        is submitted. Raises TrtkitError.
        """
        ...

    def run(
        self, wanted: Sequence[OutputRef], images: Array, known: Known = NOTHING
    ) -> dict[OutputRef, Array]:
        """The outputs `wanted` for uint8 images N x H x W x 3, RGB, and known maps, as in `submit`.

        All of them are the caller's; one without rows is empty.
        """
        ...

    def on_device(self, wanted: OutputRef, images: Any) -> Tensor:
        """An output left on the device, of images there: an object with DLPack or CUDA's interface."""
        ...

    def lease(self, key: bytes) -> Lease | None:
        """The feature map of that key if the runner holds it. From any thread."""
        ...

    def read_hit(self, read: Callable[[Array | None], Array | None]) -> Array | None:
        """What `read` gives, offering it memory, 1-D uint8, that the runner likes best. From any thread."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Done:
    """A batch that was finished before anybody waited for it."""

    outputs: Outputs

    def result(self) -> Outputs:
        return self.outputs


@dataclass(frozen=True)
class PassPlan:
    """The stages of a pass, parents first, and how many rows each of them computes."""

    stages: tuple[Stage, ...]
    rows: Mapping[str, int]


class Planner:
    """Which stages a pass runs, on how many rows."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.outputs: dict[OutputRef, StageOutput] = {
            OutputRef(stage.name, output.name): output
            for stage in stages
            for output in stage.outputs
        }
        self.image = next((stage.inputs[0] for stage in stages if stage.parent is None), None)
        self._stages = stages
        self._paths: dict[tuple[OutputRef, ...], tuple[Stage, ...]] = {}

    def plan(self, wanted: Sequence[OutputRef], images: int, known: Known) -> PassPlan:
        """The pass over so many images and these known maps.

        Raises TrtkitError for an unknown output, and for maps that lead to none of `wanted`, or that
        their stage would not give.
        """
        work = self._plan(wanted, images, {ref: len(maps) for ref, maps in known.items()})
        for ref, maps in known.items():
            if isinstance(maps, np.ndarray):
                maps = maps[:1]
            for value in maps:
                # Those that the runner itself holds are what its engines gave.
                if hasattr(value, "shape") and not self.outputs[ref].has_row(value):
                    sizes = " x ".join(map(str, value.shape)) or "single number"
                    raise TrtkitError(
                        f"Stage {ref.stage} gives {self.outputs[ref]}, so no map of it is a "
                        f"{value.dtype} {sizes}; give maps of this stage, each without the batch."
                    )
        return work

    def check_images(self, images: Any) -> None:
        """Raise TrtkitError unless these are images that the engines take, H x W x 3 each."""
        if self.image is None:
            return
        for value in images[:1] if isinstance(images, np.ndarray) else images:
            if value.shape != self.image.shape[1:] or value.dtype != self.image.dtype:
                check_fits(self.image, (len(images), *value.shape), value.dtype.name)

    def check_guard(self, wanted: Sequence[OutputRef], guarded: OutputRef) -> None:
        """Raise TrtkitError unless maps of the edge `guarded` are all that `wanted` is computed from."""
        below = [ref for ref in wanted if ref != guarded]
        for ref in below:
            if not any(guarded in sources_of(stage) for stage in self._path((ref,))):
                raise TrtkitError(
                    f"Output {ref} cannot be computed from stored maps of {guarded}; want outputs below "
                    "this edge, or classify without the store."
                )
        if below:
            self._plan(below, 0, {guarded: 1})

    def _plan(
        self, wanted: Sequence[OutputRef], images: int, known: Mapping[OutputRef, int]
    ) -> PassPlan:
        path = self._path(tuple(wanted))
        rows: dict[str, int] = {}
        used: set[OutputRef] = set()
        for stage in path:
            rows[stage.name] = images if stage.parent is None else rows[stage.parent]
            sources = sources_of(stage)
            counts = {known.get(ref, 0) for ref in sources}
            if not any(counts):
                continue
            used.update(sources)
            if len(counts) > 1 or len(sources) < len(stage.inputs):
                raise TrtkitError(
                    f"Stage {stage.name} takes {listed(map(str, stage.inputs))}; give as many known "
                    "maps for each of these, or the images."
                )
            rows[stage.name] += counts.pop()
        useless = [str(ref) for ref, count in known.items() if count and ref not in used]
        if useless:
            raise TrtkitError(
                f"Known maps of {listed(useless)} lead to none of {listed(map(str, wanted))}; leave "
                "them out."
            )
        return PassPlan(tuple(stage for stage in path if rows[stage.name]), rows)

    def empty(self, ref: OutputRef) -> Array:
        """An output without rows."""
        spec = self.outputs[ref]
        return np.empty((0, *(size or 1 for size in spec.shape[1:])), dtype=spec.dtype)

    def _path(self, wanted: tuple[OutputRef, ...]) -> tuple[Stage, ...]:
        if wanted not in self._paths:
            for ref in wanted:
                if ref not in self.outputs:
                    raise TrtkitError(
                        f"Output {ref} not found; available: {listed(map(str, self.outputs))}."
                    )
            self._paths[wanted] = paths_to(self._stages, (ref.stage for ref in wanted))
        return self._paths[wanted]


def sources_of(stage: Stage) -> list[OutputRef]:
    """The edges that a stage takes."""
    if stage.parent is None:
        return []
    return [
        OutputRef(stage.parent, spec.source) for spec in stage.inputs if spec.source is not None
    ]


class HostRunner:
    """Engines that run one after the other while the caller waits."""

    depth = 1
    on_gpu = False

    def __init__(self, stages: Sequence[Stage], engines: Mapping[str, Engine]) -> None:
        """`engines`: the loaded engine of each stage, by the stage's name."""
        self.planner = Planner(stages)
        self._engines = engines
        self.lock: AbstractContextManager[Any] = threading.RLock()

    def submit(
        self,
        wanted: Sequence[OutputRef],
        images: Sequence[Array],
        known: Known = NOTHING,
        *,
        keys: Sequence[bytes | None] = (),
    ) -> Done:
        self.planner.check_images(images)
        with self.lock:
            values = self._run(
                wanted, np.stack(images) if len(images) else None, known, len(images)
            )
        outputs = {}
        for ref in wanted:
            if ref in values:
                value = values[ref].numpy()
                # The engine may use its memory again once its tensor is dropped.
                outputs[ref] = (
                    np.array(value) if self.planner.outputs[ref].kind == "logits" else value
                )
        return Done(outputs)

    def run(
        self, wanted: Sequence[OutputRef], images: Array, known: Known = NOTHING
    ) -> dict[OutputRef, Array]:
        self.planner.check_images(images)
        with self.lock:
            values = self._run(wanted, images if len(images) else None, known, len(images))
        return {
            ref: np.array(values[ref].numpy()) if ref in values else self.planner.empty(ref)
            for ref in wanted
        }

    def on_device(self, wanted: OutputRef, images: Any) -> Tensor:
        with self.lock:
            value: Tensor = self._run([wanted], images, NOTHING, 1)[wanted]
        return value

    def reserve(self, images: int, read_ahead: int = 0) -> None:
        return None

    def lease(self, key: bytes) -> Lease | None:
        return None

    def read_hit(self, read: Callable[[Array | None], Array | None]) -> Array | None:
        return read(None)

    def close(self) -> None:
        return None

    def _run(
        self, wanted: Sequence[OutputRef], images: Any, known: Known, count: int
    ) -> dict[OutputRef, Any]:
        """Every output of every stage of the pass."""
        values: dict[OutputRef, Any] = {}
        inputs: dict[OutputRef | None, Any] = {None: images}
        for stage in self.planner.plan(wanted, count, known).stages:
            feeds = {}
            for spec in stage.inputs:
                ref = None
                if stage.parent is not None and spec.source is not None:
                    ref = OutputRef(stage.parent, spec.source)
                    if ref not in inputs:
                        inputs[ref] = _joined(values.get(ref), known.get(ref, ()), spec)
                feeds[spec.name] = inputs[ref]
            for name, value in self._engines[stage.name].run(feeds).items():
                values[OutputRef(stage.name, name)] = value
        return values


def _joined(computed: Any, known: Any, spec: StageInput) -> Any:
    """What was computed and then the known maps, in the dtype that the stage takes."""
    if not len(known):
        return computed
    if computed is None and isinstance(known, np.ndarray) and known.dtype.name == spec.dtype:
        return known
    first = 0 if computed is None else len(computed.numpy())
    joined = np.empty((first + len(known), *known[0].shape), dtype=spec.dtype)
    if computed is not None:
        joined[:first] = computed.numpy()
    for row, value in enumerate(known, start=first):
        joined[row] = value
    return joined
