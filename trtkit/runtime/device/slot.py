"""The buffers of one batch in flight."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from trtkit.engines.cuda.device import Event
from trtkit.engines.cuda.memory import DeviceMemory, pinned
from trtkit.stages import OutputRef, Stage
from trtkit.tensors import Array, TensorSpec


class Slot:
    """Memory for one batch of up to `rows` rows, on the device and pinned on the host.

    `image` is the device address of the images, `buffers` are those of every stage's outputs; `images`
    are pinned. Everything in a slot may be used again once `done` is over. `made` is over when a stage,
    by its name, has run.
    """

    def __init__(
        self, number: int, rows: int, image: TensorSpec, outputs: Mapping[OutputRef, TensorSpec]
    ) -> None:
        self.number = number
        self.rows = rows
        self._specs = outputs
        self._memory = [
            DeviceMemory(rows * row_bytes(spec), f"{spec.name} of {rows} images")
            for spec in (image, *outputs.values())
        ]
        self.image, *buffers = (memory.pointer for memory in self._memory)
        self.buffers = dict(zip(outputs, buffers, strict=True))
        self.images = self._host(image)
        self._outgoing: dict[OutputRef, Array] = {}
        self._incoming: dict[OutputRef, Array] = {}
        self.images_in, self.known_in, self.computed, self.done = Event(), Event(), Event(), Event()
        self.made = {ref.stage: Event() for ref in outputs}

    def addresses(self, stage: Stage) -> dict[str, int]:
        """The device addresses of what a stage takes and gives, by the names of its tensors."""
        takes = {
            spec.name: self.image
            if stage.parent is None or spec.source is None
            else self.buffers[OutputRef(stage.parent, spec.source)]
            for spec in stage.inputs
        }
        gives = {
            spec.name: self.buffers[OutputRef(stage.name, spec.name)] for spec in stage.outputs
        }
        return {**takes, **gives}

    def outgoing(self, ref: OutputRef) -> Array:
        """Rows for an output that goes to the host."""
        if ref not in self._outgoing:
            self._outgoing[ref] = self._host(self._specs[ref])
        return self._outgoing[ref]

    def incoming(self, ref: OutputRef) -> Array:
        """Rows for known maps that come from memory the device cannot read."""
        if ref not in self._incoming:
            self._incoming[ref] = self._host(self._specs[ref])
        return self._incoming[ref]

    def _host(self, spec: TensorSpec) -> Array:
        shape = (self.rows, *(size or 1 for size in spec.shape[1:]))
        return pinned(shape, spec.dtype, f"{spec.name} of {self.rows} images")


def row_bytes(spec: TensorSpec) -> int:
    """The size of one image's part of a tensor."""
    elements = math.prod(size or 1 for size in spec.shape[1:])
    return int(elements * np.dtype(spec.dtype).itemsize)
