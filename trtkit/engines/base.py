"""What every backend offers: build a stage into an engine file, load it, run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError, listed
from trtkit.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import onnx


class Tensor(Protocol):
    """An engine's output where the engine left it. It may be another engine's input as it is.

    It belongs to the caller and stays valid until it is dropped.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def numpy(self) -> Array:
        """The values on the host: a view where they are there already, else a copy."""
        ...


def input_of(spec: TensorSpec, inputs: Mapping[str, Any]) -> Any:
    """The input of that name. Raises TrtkitError when it is missing."""
    if spec.name not in inputs:
        raise TrtkitError(
            f"The engine takes {spec}; available: {listed(inputs)}; pass it by that name."
        )
    return inputs[spec.name]


def check_fits(spec: TensorSpec, shape: tuple[int, ...], dtype: str) -> None:
    """Raise TrtkitError unless an array of that shape and dtype is what an engine takes."""
    fits = len(shape) == len(spec.shape) and all(
        expected in (None, size) for expected, size in zip(spec.shape, shape, strict=True)
    )
    if not fits or dtype != spec.dtype:
        raise TrtkitError(
            f"The engine takes {spec}, not {dtype} {' x '.join(map(str, shape))}; convert it first."
        )


class Engine(Protocol):
    """A loaded stage, ready to run. One thread at a time may run it."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """All outputs by name, for inputs of one batch size.

        Takes host arrays and tensors of the same backend; dtypes must be those of `inputs`. Raises
        TrtkitError when a name, shape or dtype is not what the engine takes.
        """
        ...


@dataclass(frozen=True)
class LayerTime:
    """One layer of an engine, in the order of the engine's work.

    `name` is what the engine calls it, made of the names of the nodes or tensors it came from; `kind`
    its type in the engine's words; `seconds` those of each run, as many as there were runs.
    """

    name: str
    kind: str
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class StageBuild:
    """One stage to build: the fp32 graph, which may be changed, and what becomes of its ends.

    `name` is for messages. `root`: its input is the image; `leaf`: its output is the logits; every
    other end is a feature map or an embedding. `part`: it is one of two that make up a tail, and so may
    be without int8 layers in an int8 build.
    """

    name: str
    graph: onnx.ModelProto
    precision: str
    root: bool
    leaf: bool
    options: BuildOptions = field(default_factory=BuildOptions)
    part: bool = False


@dataclass(frozen=True)
class BuiltEngine:
    """What a build made: the engine's ends, and the record of how it was made for the manifest."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    record: dict[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """A library that makes stages runnable.

    `suffix` is the ending of its engine files; `computes` says, for each precision it can build,
    in what it really computes. `int8_form` names the form of graphs that it takes as int8
    (trtkit.graph.quantize). `on_device`: its engines live on a GPU and take each other's outputs there.
    """

    name: str
    suffix: str
    computes: Mapping[str, str]
    on_device: bool

    @property
    def int8_form(self) -> str: ...

    @property
    def version(self) -> str: ...

    def target(self) -> list[str]:
        """What an engine built here is bound to besides the version: the card, for example."""
        ...

    def cannot_build(self) -> str | None:
        """Why no engine can be built here, as part of a sentence; None when it can."""
        ...

    def cannot_run(self) -> str | None:
        """Why no engine can be run here, as part of a sentence; None when it can."""
        ...

    def build(self, stage: StageBuild, destination: Path, timing: Path) -> BuiltEngine:
        """Write the engine of a stage to `destination`. Raises TrtkitError when it cannot be built.

        `timing`: a folder for measurements that the next build can use.
        """
        ...

    def load(
        self, path: Path, record: Mapping[str, Any], rebuild: str, digest: str | None = None
    ) -> Engine:
        """The engine in that file. Raises TrtkitError when it cannot be loaded here.

        `record` is what `build` said of it, `rebuild` the command that builds it for this machine.
        `digest`: of the file's content, under which a backend may keep what makes the next load faster;
        None for a file that is loaded once.
        """
        ...

    def layer_times(
        self, path: Path, record: Mapping[str, Any], inputs: Mapping[str, Array], runs: int
    ) -> list[LayerTime]:
        """What each layer of the engine in that file takes, by the library's own profiler.

        `record` is what `build` said of it. `runs` runs are measured, after one that is not. Raises
        TrtkitError when it cannot run.
        """
        ...
