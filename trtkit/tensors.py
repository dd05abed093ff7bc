"""Arrays, and the specs of the tensors that engines take and give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True)
class TensorSpec:
    """An engine's input or output: name, NumPy dtype name, shape with None for the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = " x ".join("N" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} {sizes}"

    def has_row(self, value: Array) -> bool:
        """Whether an array can be one row of the batch, whatever floats it is stored as.

        >>> import numpy as np
        >>> maps = TensorSpec("maps", "float32", (None, 4, 8, 8))
        >>> maps.has_row(np.zeros((4, 8, 8), np.float16)), maps.has_row(np.zeros((4, 8, 8), np.int8))
        (True, False)
        """
        sizes = self.shape[1:]
        if value.shape != sizes and (
            len(value.shape) != len(sizes)
            or any(size not in (None, own) for size, own in zip(sizes, value.shape, strict=True))
        ):
            return False
        floats = value.dtype.kind == "f" and self.dtype.startswith("float")
        return floats or value.dtype.name == self.dtype
