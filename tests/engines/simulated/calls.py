"""How a simulated runtime call begins and ends: one lock, error codes as tuples."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cuda.bindings import runtime as real

from tests.engines.simulated.errors import CudaFailure

if TYPE_CHECKING:
    from tests.engines.simulated.cuda import SimulatedCuda

Error = real.cudaError_t


def call(
    outputs: int = 0, *, device: bool = True, unsafe: bool = False, ends: bool = False
) -> Callable[..., Any]:
    """Make a method a runtime call with as many `outputs` behind the error code.

    `device`: it needs one. `unsafe`: it may synchronise, so a capture forbids it. `ends`: it frees or
    destroys something, as finalizers do, which the garbage collector may run inside another call:
    then it waits until that call has ended.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(self: SimulatedCuda, *arguments: Any, **named: Any) -> tuple[Any, ...]:
            with self.locked():
                if ends and self.nested:
                    later = functools.partial(run, self, *arguments, **named)
                    self.release(later)
                    return (Error.cudaSuccess,)
                try:
                    if device and self.failure is not None:
                        raise CudaFailure(self.failure)
                    if unsafe:
                        self.refuse_in_capture()
                    self.drift()
                    value = function(self, *arguments, **named)
                except CudaFailure as failure:
                    self.last_error = failure.error
                    return (failure.error, *[None] * outputs)
            if outputs == 0:
                return (Error.cudaSuccess,)
            return (Error.cudaSuccess, *(value if outputs > 1 else (value,)))

        return run

    return decorate
