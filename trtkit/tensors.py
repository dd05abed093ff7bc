"""What engines take and give: arrays, and what is said about them."""

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

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TensorSpec:
        return cls(str(value["name"]), str(value["dtype"]), tuple(value["shape"]))
