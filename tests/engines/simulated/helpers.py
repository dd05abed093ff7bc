"""Short forms that tests of the simulation share."""

from __future__ import annotations

from typing import Any

from cuda.bindings import runtime as real


def ok(returned: tuple[Any, ...]) -> Any:
    """The value of a runtime call that must succeed."""
    error, *values = returned
    assert error == real.cudaError_t.cudaSuccess, error
    return values[0] if values else None


def streams(cuda: Any, count: int = 2) -> list[Any]:
    """New streams, which do not wait for the default stream."""
    return [ok(cuda.cudaStreamCreateWithFlags(real.cudaStreamNonBlocking)) for _ in range(count)]
