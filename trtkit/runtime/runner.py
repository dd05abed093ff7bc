"""The runner: any outputs of any stages of a tree, in one pass over a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trtkit.engines.base import Engine, Tensor
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
    """The loaded engines of a tree of stages, to which batches are given. One thread at a time.

    `depth` is how many batches it is worth having under way.
    """

    depth: int
    on_gpu: bool

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
        self._stages = stages
        self._paths: dict[tuple[OutputRef, ...], tuple[Stage, ...]] = {}

    def plan(self, wanted: Sequence[OutputRef], images: int, known: Known) -> PassPlan:
        """Raises TrtkitError for an unknown output, and for maps that lead to none of `wanted`."""
        path = self._path(tuple(wanted))
        rows: dict[str, int] = {}
        used: set[OutputRef] = set()
        for stage in path:
            rows[stage.name] = images if stage.parent is None else rows[stage.parent]
            sources = sources_of(stage)
            counts = {len(known.get(ref, ())) for ref in sources}
            if not any(counts):
                continue
            used.update(sources)
            if len(counts) > 1 or len(sources) < len(stage.inputs):
                raise TrtkitError(
                    f"Stage {stage.name} takes {listed(map(str, stage.inputs))}; give as many known "
                    "maps for each of these, or the images."
                )
            rows[stage.name] += counts.pop()
        useless = [str(ref) for ref in known if len(known[ref]) and ref not in used]
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
        self._planner = Planner(stages)
        self._engines = engines

    def submit(
        self,
        wanted: Sequence[OutputRef],
        images: Sequence[Array],
        known: Known = NOTHING,
        *,
        keys: Sequence[bytes | None] = (),
    ) -> Done:
        values = self._run(wanted, np.stack(images) if len(images) else None, known, len(images))
        outputs = {}
        for ref in wanted:
            if ref in values:
                value = values[ref].numpy()
                # The engine may use its memory again once its tensor is dropped.
                outputs[ref] = (
                    np.array(value) if self._planner.outputs[ref].kind == "logits" else value
                )
        return Done(outputs)

    def run(
        self, wanted: Sequence[OutputRef], images: Array, known: Known = NOTHING
    ) -> dict[OutputRef, Array]:
        values = self._run(wanted, images if len(images) else None, known, len(images))
        return {
            ref: np.array(values[ref].numpy()) if ref in values else self._planner.empty(ref)
            for ref in wanted
        }

    def on_device(self, wanted: OutputRef, images: Any) -> Tensor:
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
        for stage in self._planner.plan(wanted, count, known).stages:
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
