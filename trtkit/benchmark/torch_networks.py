"""The network itself in torch, on the CPU or on a GPU: eager, compiled, in half precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from trtkit.benchmark.kinds import TorchMode
from trtkit.benchmark.network import HALF_TOLERANCE, TOLERANCE, Logits, Network, layer_weights
from trtkit.benchmark.protocol import repeats_for, timed
from trtkit.benchmark.worker import Loaded
from trtkit.errors import TrtkitError, first_line
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

LAYOUT_TRIALS = 3
WARM_UPS = 5
NO_GPU = "finds no GPU that it can use"


def torch_network(
    mode: TorchMode,
    parts: Sequence[onnx.ModelProto],
    classes: int,
    threads: int,
    examples: Sequence[Array],
) -> Network:
    """The network of the exported `parts`, batch norms included, run in `mode`.

    `examples`: a batch of each size that will come, uint8 N x H x W x 3. Eager, the faster memory
    layout on the first one is taken; compiled, there is code for each size. Sets torch's threads for
    the process, and its precision on the GPU to what fp32 says. Raises TrtkitError when the network
    cannot be rebuilt from `parts`, does not compile, or torch has no such device.
    """
    import torch

    from trtkit.benchmark.onnxruntime_networks import check_same
    from trtkit.models.rebuild import network_from_weights, recognise

    torch.set_num_threads(threads)
    if mode.device == "cuda":
        _prepare_cuda()
    weights = {name: value for part in parts for name, value in layer_weights(part).items()}
    architecture = _architecture(parts[0]) or recognise(weights, classes) or "foreign"
    network = network_from_weights(architecture, classes, weights).network
    placed = PlacedNetwork(network, mode)
    note = _compile(placed, examples) if mode.compiled else _fastest_layout(placed, examples[0])
    tolerance = HALF_TOLERANCE if mode.half else TOLERANCE
    check_same(placed.logits, parts, examples[0], tolerance)
    return Network(placed.logits, note, placed if mode.device == "cuda" else None)


class PlacedNetwork:
    """A network on its device, behind the normalisation of uint8 photos or by itself.

    Not for several threads.
    """

    def __init__(self, network: nn.Module, mode: TorchMode, *, normalise: bool = True) -> None:
        import torch

        self._device = torch.device(mode.device)
        self.dtype = torch.float16 if mode.half else torch.float32
        # The types of torch 2.9 lack the memory format, and those of all lack an event's methods.
        self._network: Any = network.to(self._device, self.dtype).eval()
        self.layout = torch.contiguous_format
        self._run = self._forward
        self._normalise: nn.Module = torch.nn.Identity()
        if normalise:
            from trtkit.models.blocks import Normalise

            self._normalise = Normalise().to(self._device)

    def use_layout(self, layout: torch.memory_format) -> None:
        """Keep weights, and bring images, in that memory layout."""
        self.layout = layout
        self._network.to(memory_format=layout)

    def compile(self) -> None:
        """Compile for each batch size that comes.

        For each one, because torch by itself makes slower code for all sizes from the second on.
        """
        import torch

        self._run = torch.compile(self._forward, dynamic=False)

    def place(self, images: Array) -> torch.Tensor:
        import torch

        return torch.from_numpy(images).to(self._device)

    def logits(self, images: Array) -> Array:
        import torch

        with torch.inference_mode():
            return np.asarray(self._run(self.place(images)).float().cpu().numpy())

    def seconds(self, batches: Sequence[torch.Tensor]) -> float:
        import torch

        event: Any = torch.cuda.Event
        marks = []
        with torch.inference_mode():
            for images in batches:
                start, end = event(enable_timing=True), event(enable_timing=True)
                start.record()
                self._run(images)
                end.record()
                marks.append((start, end))
        torch.cuda.synchronize()
        return sum(float(start.elapsed_time(end)) for start, end in marks) / 1000.0

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self._normalise(images).to(self.dtype)
        logits: torch.Tensor = self._network(x.contiguous(memory_format=self.layout))
        return logits


class TorchvisionModel(Loaded):
    """A torchvision model with random weights on the GPU, timed on normalised images that lie there.

    For a worker in an interpreter that has torch, torchvision and numpy, and nothing else that trtkit
    needs. `spec`: `model` and `image_size` (pixels) of the network, `batch`, `half` and `compiled` as in
    `TorchMode`, and `sample_seconds`, for which one batch is repeated, `most_repeats` times at most. A
    round is one batch. `facts`: versions, and the GPU's name.

    Raises TrtkitError without a GPU or without enough memory on it.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        import torch
        import torchvision
        from torchvision.models import get_model

        _prepare_cuda()
        torch.manual_seed(0)
        mode = TorchMode("cuda", half=spec["half"], compiled=spec["compiled"])
        self.images = spec["batch"]
        shape = (self.images, 3, spec["image_size"], spec["image_size"])
        with _enough_memory():
            self._network = PlacedNetwork(get_model(spec["model"]), mode, normalise=False)
            if mode.half:
                self._network.use_layout(torch.channels_last)
            if mode.compiled:
                self._network.compile()
            dtype, order = self._network.dtype, self._network.layout
            batch = torch.randn(shape, device="cuda", dtype=dtype).to(memory_format=order)
            self._network.seconds([batch] * WARM_UPS)
            once = self._network.seconds([batch])
        repeats = repeats_for(once, spec["sample_seconds"], spec["most_repeats"])
        self._batches = [batch] * repeats
        self.facts = {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "card": torch.cuda.get_device_name(),
        }

    def run(self) -> float:
        with _enough_memory():
            return self._network.seconds(self._batches) / len(self._batches)

    def close(self) -> None:
        import torch

        self._batches = []
        del self._network
        torch.cuda.empty_cache()


@contextmanager
def _enough_memory() -> Iterator[None]:
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrtkitError("out of device memory") from error


def _prepare_cuda() -> None:
    """fp32 is to be fp32, and convolutions the fastest that there are for the sizes that come."""
    import torch

    if not torch.cuda.is_available():
        raise TrtkitError(
            f"torch {torch.__version__} {NO_GPU} here; install a torch for this "
            "machine's CUDA (https://pytorch.org/get-started), or measure it without torch-cuda."
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def _fastest_layout(placed: PlacedNetwork, images: Array) -> str:
    """Take the faster memory layout on that batch; says which and by how much."""
    import torch

    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    seconds = {}
    for name, layout in layouts.items():
        placed.use_layout(layout)
        seconds[name] = _fastest(placed.logits, images)
    best, other = sorted(layouts, key=lambda name: seconds[name])
    placed.use_layout(layouts[best])
    return f"{best}: {1e3 * seconds[best]:.3g} ms a batch, {other} {1e3 * seconds[other]:.3g} ms"


def _compile(placed: PlacedNetwork, examples: Sequence[Array]) -> str:
    """Compile for the sizes of `examples`; says which those are."""
    placed.compile()
    try:
        for example in examples:
            placed.logits(example)
            placed.logits(example)
    # What a missing or failing compiler raises differs; all of it derives from these.
    except (RuntimeError, OSError, ImportError) as error:
        raise TrtkitError(
            f"torch.compile does not work here ({first_line(error)}); install a C++ compiler such as "
            "g++, or measure it without torch-compile."
        ) from error
    return f"compiled for batches of {', '.join(str(len(example)) for example in examples)}"


def _fastest(logits: Logits, images: Array) -> float:
    """Seconds of the fastest of a few runs, after one that does not count."""
    logits(images)
    return min(timed(lambda: logits(images)) for _ in range(LAYOUT_TRIALS))


def _architecture(model: onnx.ModelProto) -> str | None:
    """What the card says; only a model that was not split still has it."""
    from trtkit.graph.card import METADATA_KEY, ModelCard

    if not any(prop.key == METADATA_KEY for prop in model.metadata_props):
        return None
    return ModelCard.read_from(model, "The model in the bundle").architecture
