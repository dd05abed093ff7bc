"""Profiles with given times, for tests of what follows from them."""

from __future__ import annotations

from collections.abc import Sequence

from trtkit.costs.profile import BlockTime, CutCost, KindTime, Profile
from trtkit.store.costs import StoreCosts

FORMATS = ("fp16", "fp16 lz4", "fp16 zstd", "fp32")


def make_profile(
    blocks: Sequence[float] = (0.010, 0.020, 0.030),
    head: float = 0.002,
    *,
    model: str = "model",
    decode: float = 0.001,
    serve: float = 0.0,
    read: float = 0.0005,
    write: float = 0.0015,
    sizes: Sequence[int] | None = None,
    overlaps: bool = False,
) -> Profile:
    """A model with blocks of these seconds; cut N has a map of `sizes[N - 1]` bytes, 1000 by default."""
    sizes = sizes or [1000] * len(blocks)
    return Profile(
        model=model,
        digest="d" * 64,
        backend="onnxruntime",
        backend_version="1.0",
        precision="fp16",
        machine=("a processor", "2 cores", "onnxruntime"),
        created="2026-01-01T00:00:00+00:00",
        photos="16 generated images",
        batch=1,
        threads=2,
        rounds=9,
        whole=sum(blocks) + head,
        decode=decode,
        serve=serve,
        overlaps=overlaps,
        blocks=(
            *(BlockTime(f"block{n}", s) for n, s in enumerate(blocks, start=1)),
            BlockTime("head", head),
        ),
        kinds=(KindTime("Conv", len(blocks), sum(blocks)), KindTime("Gemm", 1, head)),
        cuts=tuple(
            CutCost(
                cut=number,
                block=f"block{number}",
                tensor=f"t{number}",
                shape=(size,),
                flops_share=number / (len(blocks) + 1),
                prefix=sum(blocks[:number]),
                tail=sum(blocks[number:]) + head,
                stored={form: StoreCosts(size, read, 2 * read, write) for form in FORMATS},
            )
            for number, size in enumerate(sizes, start=1)
        ),
    )
