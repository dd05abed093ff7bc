"""A model in training: a frozen front, whose outputs can be stored, and the back that learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from trtkit.errors import TrtkitError, listed
from trtkit.models.blocks import BlockModel, Normalise, freeze, penultimate
from trtkit.tensors import Array


class TrainedNetwork:
    """A block model on a device, divided after block `frozen`.

    The front (normalisation, stem, blocks 1 to `frozen`) never changes, batch norm statistics
    included; the back trains. With `frozen` None nothing is frozen: the front only normalises.
    `mixed`: compute in mixed precision, on a GPU alone.
    """

    def __init__(
        self, model: BlockModel, frozen: int | None, device: torch.device, *, mixed: bool = False
    ) -> None:
        self.model = model
        self.frozen = frozen
        self.device = device
        self.mixed = mixed and device.type == "cuda"
        blocks = [block.module for block in model.blocks]
        fixed = [] if frozen is None else [model.stem, *blocks[:frozen]]
        learning = [model.stem, *blocks] if frozen is None else blocks[frozen:]
        self.front = nn.Sequential(Normalise(model.normalisation), *fixed)
        self.back = nn.Sequential(*learning, model.head)
        self.front.to(device)
        self.back.to(device)
        if device.type == "cuda":
            # The layout of the GPU's half precision convolutions; the types of torch 2.9 lack it.
            network: Any = model.network
            network.to(memory_format=torch.channels_last)
        self._learn()

    def _learn(self) -> None:
        """The back in training mode, the front as always."""
        self.back.train()
        freeze(self.front)

    def to_device(self, array: Array) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """float32 N x classes, of uint8 images N x H x W x 3 or of the front's outputs."""
        with self.precision():
            if inputs.dtype == torch.uint8:
                with torch.no_grad():
                    inputs = self.front(inputs)
            logits: torch.Tensor = self.back(inputs if self.mixed else inputs.float())
        return logits.float()

    def features(self, images: Array) -> Array:
        """The front's outputs, float32 on the host, of uint8 images N x H x W x 3."""
        with torch.inference_mode(), self.precision():
            return np.asarray(self.front(self.to_device(images)).float().cpu().numpy())

    def precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.mixed)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The back in evaluation mode, without gradients."""
        self.back.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self._learn()


def penultimate_features(network: TrainedNetwork) -> nn.Module:
    """All of a fully frozen network but its last linear layer, from uint8 images to N x features."""
    return nn.Sequential(network.front, penultimate(network.model)).eval()


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU where torch has one. Raises TrtkitError for a device that cannot be used."""
    available = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if name == "auto":
        return torch.device(available[-1])
    refusal = TrtkitError(
        f"--device {name} cannot be used with torch {torch.__version__} here; available: "
        f"{listed(available)}."
    )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise refusal from error
    if device.type not in available:
        raise refusal
    return device
