"""Bench reports in their JSON form, made of a few numbers."""

from __future__ import annotations

from typing import Any

from trtkit.benchmark.results import BenchReport
from trtkit.serialization import from_plain

OWN = "trtkit fp16 on onnxruntime"
MACHINE = {
    "trtkit": "0.1.0",
    "processor": "AMD EPYC <7B13>",
    "cores": 2,
    "memory_bytes": 8 * 2**30,
    "gpus": [],
    "backends": [
        {"name": "onnxruntime", "version": "1.23.0"},
        {"name": "tensorrt", "version": None},
    ],
    "features": [{"name": "train", "packages": {"torch": "2.9.1"}}],
}


def figure(
    competitor: str,
    rate: float | None = None,
    ratio: float | None = None,
    *,
    wide: float = 0.01,
    spread: float = 0.05,
    rounds: int = 20,
    agreement: float | None = 1.0,
    note: str = "",
    problem: str | None = None,
) -> dict[str, Any]:
    """Images/s and the times the baseline; the ratio's interval and p10 to p90 reach so far, as shares."""
    if rate is None:
        return {
            "competitor": competitor, "images_per_second": None, "seconds": None, "ratio": None,
            "agreement": None, "note": note, "problem": problem or "it crashed",
        }  # fmt: skip
    median = 32 / rate
    return {
        "competitor": competitor,
        "images_per_second": rate,
        "seconds": {
            "count": rounds, "median": median, "mean": median, "p10": median / (1 + spread),
            "p90": median / (1 - spread), "p99": median / (1 - spread) * 1.5,
            "least": median / (1 + spread), "greatest": 2 * median,
        },
        "ratio": ratio
        and {"low": ratio * (1 - wide), "median": ratio, "high": ratio * (1 + wide)},
        "agreement": agreement,
        "note": note,
        "problem": None,
    }  # fmt: skip


def contest(*figures: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        "bundle": "flowers", "tail": "resnet50", "measure": "compute", "batch": 8, "photos": 32,
        "baseline": "torch", "rounds": 20, "stopped": "narrow enough", "figures": list(figures),
        **changed,
    }  # fmt: skip


def report(*contests: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        "created": "2026-11-21T13:19:56+00:00", "command": "trtkit bench 'my photos' --json",
        "machine": dict(MACHINE), "threads": 2,
        "settings": {"warmup": 1, "least_rounds": 7, "most_rounds": 200, "width": 0.03},
        "notes": [], "contests": list(contests), **changed,
    }  # fmt: skip


def usual() -> dict[str, Any]:
    """Both kinds of figure at two batch sizes: one missing, one wrong, one far ahead."""
    absent = figure("openvino", problem="openvino is not installed; pip install openvino")
    contests = []
    for batch in (1, 8):
        common = (figure("torch", 200.0 + batch, note="channels-last"), absent)
        contests += [
            contest(*common, figure(OWN, 300.0 + batch, 1.5), batch=batch),
            contest(
                *common, figure(f"{OWN}, cache off", 250.0 + batch, 1.25),
                figure(f"{OWN}, cache warm", 9000.0 + batch, 45.0),
                batch=batch, measure="end to end",
            ),
        ]  # fmt: skip
    contests[1]["figures"][-1]["agreement"] = 0.5

    return report(*contests, notes=["There are 3 photos & no more."])


def typed(plain: dict[str, Any]) -> BenchReport:
    return from_plain(plain, BenchReport)
