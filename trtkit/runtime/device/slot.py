"""The buffers of one batch in flight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from trtkit.engines.cuda.device import Event
from trtkit.engines.cuda.memory import DeviceMemory, pinned
from trtkit.tensors import Array, TensorSpec


class Slot:
    """Memory for one batch of up to `rows` rows, on the device and pinned on the host.

    `values` are the specs of the image, of each stage's output in turn, the last being the logits.
    `buffers` are their device addresses. Everything in a slot may be used again once `done` is over.
    """

    def __init__(self, number: int, rows: int, values: Sequence[TensorSpec]) -> None:
        self.number = number
        self.rows = rows
        self._values = values
        self._memory = [
            DeviceMemory(rows * row_bytes(spec), f"{spec.name} of {rows} images") for spec in values
        ]
        self.buffers = [memory.pointer for memory in self._memory]
        self.images = self._host(values[0])
        self.logits = self._host(values[-1])
        self.images_in, self.hits_in = Event(), Event()
        self.prefix_done, self.computed, self.done = Event(), Event(), Event()

    @cached_property
    def hits(self) -> Array:
        """Rows for feature maps that come from memory the device cannot read."""
        return self._host(self._values[1])

    @cached_property
    def features(self) -> Array:
        """Rows for the feature maps that go to the host."""
        return self._host(self._values[1])

    @cached_property
    def penultimate(self) -> Array:
        """Rows for what the last engine takes, when that goes to the host."""
        return self._host(self._values[-2])

    def _host(self, spec: TensorSpec) -> Array:
        shape = (self.rows, *(size or 1 for size in spec.shape[1:]))
        return pinned(shape, spec.dtype, f"{spec.name} of {self.rows} images")


def row_bytes(spec: TensorSpec) -> int:
    """The size of one image's part of a tensor."""
    elements = math.prod(size or 1 for size in spec.shape[1:])
    return int(elements * np.dtype(spec.dtype).itemsize)
