"""What every backend offers: build a stage into an engine file, load it, run it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

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


class Engine(Protocol):
    """A loaded stage, ready to run. One thread at a time may run it."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, Array | Tensor]) -> dict[str, Tensor]:
        """All outputs by name, for inputs of one batch size.

        Takes host arrays and tensors of the same backend; dtypes must be those of `inputs`. Raises
        TrtkitError when a name, shape or dtype is not what the engine takes.
        """
        ...


class Backend(Protocol):
    """A library that makes stages runnable.

    `suffix` is the ending of its engine files; `computes` says, for each precision it can build,
    in what it really computes.
    """

    name: str
    suffix: str
    computes: Mapping[str, str]

    @property
    def version(self) -> str: ...

    def build(
        self, stage: onnx.ModelProto, precision: str, destination: Path, *, root: bool, leaf: bool
    ) -> None:
        """Write the engine of a stage at `precision` to `destination`.

        `stage` is fp32 and may be changed. `root`: its input is the image; `leaf`: its output is the
        logits; every other end is a feature map. Raises TrtkitError when it cannot be built.
        """
        ...

    def load(self, path: Path) -> Engine:
        """The engine in that file. Raises TrtkitError when it cannot be loaded here."""
        ...
