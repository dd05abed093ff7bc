"""The GPUs that the NVIDIA driver lists through NVML."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trtkit.errors import TrtkitError


class NvmlError(TrtkitError):
    """NVML is missing, or does not tell what was read: a Jetson's tells little or nothing."""


@contextmanager
def gpu_handles() -> Iterator[list[Any]]:
    """NVML's handles of the GPUs, in its order; pynvml's functions take them inside the block.

    Raises NvmlError where there is no driver, and when a function of pynvml fails inside the block.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            count = pynvml.nvmlDeviceGetCount()
            yield [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise NvmlError(f"NVML failed ({error})") from error


def supported(function: str, *arguments: Any) -> Any:
    """The answer of that function of pynvml; None where driver, library or GPU do not have it."""
    import pynvml

    try:
        return getattr(pynvml, function)(*arguments)
    except (AttributeError, pynvml.NVMLError):
        return None
