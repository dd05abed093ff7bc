"""torchvision models in plain torch on this machine's GPU, timed with CUDA events; prints JSON.

    python scripts/acceptance/torch_baseline.py --models resnet50 --batches 1 8

Eager fp32 with TF32 off, eager fp16 in channels-last order, and with --compile torch.compile of that.
Normalised inputs are on the card, so only the network is timed. cuDNN may search for its fastest kernels
first. Exits with 3 when torch cannot use a GPU. Needs nothing of trtkit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

WARM_UPS = 5


def samples(run: Callable[[], Any], rounds: int, sample_seconds: float) -> list[float]:
    """Device seconds of one call, `rounds` times, each the mean over calls of `sample_seconds`."""
    import torch

    def timed(repeats: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000 / repeats

    for _ in range(WARM_UPS):
        run()
    torch.cuda.synchronize()
    repeats = max(1, min(200, round(sample_seconds / max(timed(1), 1e-9))))
    return [timed(repeats) for _ in range(rounds)]


def modes(compiled: bool) -> dict[str, dict[str, bool]]:
    """What each mode does to the model."""
    found = {"eager fp32": {"half": False, "compiled": False}}
    found["eager fp16"] = {"half": True, "compiled": False}
    if compiled:
        found["compiled fp16"] = {"half": True, "compiled": True}
    return found


def measure(options: argparse.Namespace, model: str, mode: str) -> list[dict[str, Any]]:
    """A row for each batch size: seconds, or the error that came instead."""
    import torch
    from torchvision.models import get_model

    how = modes(options.compile)[mode]
    dtype = torch.float16 if how["half"] else torch.float32
    order = torch.channels_last if how["half"] else torch.contiguous_format
    torch.manual_seed(0)
    network = get_model(model, weights=None).eval().to("cuda", dtype, memory_format=order)
    run = torch.compile(network, dynamic=False) if how["compiled"] else network
    rows = []
    for batch in options.batches:
        row: dict[str, Any] = {"model": model, "mode": mode, "batch": batch}
        try:
            shape = (batch, 3, options.image_size, options.image_size)
            images = torch.randn(shape, device="cuda", dtype=dtype).to(memory_format=order)
            row["seconds"] = samples(partial(run, images), options.rounds, options.sample_seconds)
        except torch.cuda.OutOfMemoryError:
            row["error"] = "out of device memory"
        rows.append(row)
        torch.cuda.empty_cache()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True, help="torchvision's names")
    parser.add_argument("--batches", nargs="+", type=int, required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sample-seconds", type=float, default=0.03)
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    options = parser.parse_args()
    import torch
    import torchvision

    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no GPU that it can use", file=sys.stderr)
        return 3
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    rows = []
    with torch.inference_mode():
        for model in options.models:
            for mode in modes(options.compile):
                rows += measure(options, model, mode)
    found = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "card": torch.cuda.get_device_name(),
        "rows": rows,
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
