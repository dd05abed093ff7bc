"""Every command of `trtkit` on the fixed workspace, in parts that need the files of the parts before."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recorded.workspace import MEAN, STD
from trtkit.serialization import write_json

PAIR = "thin-a+thin-b-cut4-fp32"


@dataclass(frozen=True)
class Step:
    """One command line.

    `columns` are the columns of its tables that hold measured values. With `measured` every value of
    what it prints is measured, and only the form is recorded. `needs` is a package that it cannot do
    without; `before` changes the workspace first. With `unproved` it may end with 1 as well as with 0.
    """

    name: str
    line: tuple[str, ...]
    columns: tuple[str, ...] = ()
    measured: bool = False
    unproved: bool = False
    needs: str | None = None
    before: Callable[[Path], None] | None = None


def fix_costs(root: Path) -> None:
    """Put fixed costs in place of those that the builds measured, which decide what is chosen later."""
    for path in root.glob("engines/*/bundle.json"):
        manifest = json.loads(path.read_text())
        if manifest["costs"] is not None:
            manifest["costs"] = _fixed(manifest["costs"])
            write_json(path, manifest)


def _fixed(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _fixed(part, name) for name, part in value.items()}
    cheap = {"read": 1e-5, "read_cold": 1e-5, "write": 1e-5, "decode": 1e-4, "prefix": 2e-3}
    return cheap.get(key, 1e-3) if isinstance(value, float) else value


def step(name: str, line: str, *more: str, **options: object) -> Step:
    """`line` is split at blanks; `more` are arguments that have blanks."""
    return Step(name, (*line.split(), *more), **options)  # type: ignore[arg-type]


MEAN_OPTION, STD_OPTION = (",".join(map(str, values)) for values in (MEAN, STD))
FOREIGN = f"--classes labels.txt --mean {MEAN_OPTION} --std {STD_OPTION}"
TRAIN = "train digits --arch resnet18 --weights random --image-size 32 --batch 16"
BUILD = "build --backend onnxruntime --verify-images 4"
GPU = "build --verify-images 4 --batch 1,2,4"
INFER = f"infer photos --bundle {PAIR} --top 4"
SPEED = ("images/s",)
INDEX = "ingest gate.mp4 --segment 2 --min-size 12"
CONTEST = f"--bundle {PAIR} --tail thin-a --batch 2 --measure compute --photos 2 --threads 1"
MODELOPT = "nvidia-modelopt"

PARTS = {
    "machine": (
        step("version", "--version"),
        step("doctor", "doctor --json", measured=True),
        step("doctor-table", "doctor", measured=True),
    ),
    "training": (
        # The second model is trained on the frozen prefix of the first one.
        step("train", f"{TRAIN} --name first --epochs 1 --augmentation none --json"),
        step(
            "train-on-prefix",
            f"{TRAIN} --name second --prefix-from checkpoints/first/best.safetensors --cut 2 --epochs 1 "
            "--optimizer adamw --augment 1 --no-flip --seed 3 --cache-dir training-cache",
        ),
        step(
            "train-freeze",
            f"{TRAIN} --name frozen --mode freeze --epochs 2 --cache-dir training-cache",
        ),
        step("train-bottleneck", f"{TRAIN} --name fitted --mode bottleneck --json"),
        step("train-resume", "train digits --name frozen --resume --json"),
    ),
    "exporting": (
        step("export-first", "export checkpoints/first/best.safetensors --name first --json"),
        step("export-second", "export checkpoints/second/best.safetensors --name second"),
        step("export-random", "export resnet18 --weights random --seed 5 --image-size 32 --json"),
        step("export-foreign", f"export thin-a.onnx {FOREIGN} --json"),
        step("export-foreign-table", f"export thin-b.onnx {FOREIGN}"),
        step("export-quantized", f"export ready-a.onnx {FOREIGN} --json"),
        step("export-quantized-table", f"export ready-b.onnx {FOREIGN}"),
        step("cuts", "cuts thin-a --json"),
        step("cuts-table", "cuts first"),
        step("cuts-of-random", "cuts resnet18 --json"),
    ),
    "building": (
        step("build-two-tails", f"{BUILD} thin-a thin-b --cut 4 --json"),
        step("build-one-tail", f"{BUILD} thin-a --cut 6 --bundle late --batch 1,4,16"),
        step("build-fp16-embeddings", f"{BUILD} thin-a thin-b --cut 4 --fp16 --embeddings --json"),
        step("build-up-to-date", f"{BUILD} thin-a thin-b --cut 4 --fp16 --embeddings --json"),
        step("build-again", "build --bundle late --verify-images 4 --json"),
        step("build-whole", f"{BUILD} thin-b --cut 0 --json"),
        step("build-trained", f"{BUILD} first second --cut 2 --json"),
        step("build-random", f"{BUILD} resnet18 --cut 6 --fp16 --bundle random --json"),
        step("build-quantized", f"{BUILD} ready-a ready-b --cut 4 --int8 --min-agreement 0 --json"),
        step(
            "build-calibrated",
            f"{BUILD} thin-a --cut 4 --int8 --calibration-method max --min-agreement 0 --embeddings --json",
            needs=MODELOPT,
        ),
    ),
    "classifying": (
        # The cache is cold and then warm.
        step(
            "infer-cold",
            f"{INFER} --cache always --format jsonl --stats cold.json",
            before=fix_costs,
        ),
        step("infer-warm", f"{INFER} --cache always --format csv --stats warm.json"),
        step(
            "infer-mixed",
            f"{INFER} digits/1 --cache always --tail thin-b --batch 5 --stats mix.json",
        ),
        step("infer-off", f"{INFER} --no-cache --tail thin-b --format csv --stats off.json"),
        step(
            "infer-auto",
            f"{INFER} --format jsonl --cache-dir other-cache --stats auto.json",
        ),
        step("infer-file", f"{INFER} --output out.jsonl --cache-dtype fp32 --cache always"),
        step(
            "infer-codec",
            f"{INFER} --cache always --cache-dir other-cache --cache-codec zstd --stats zstd.json",
        ),
        step(
            "infer-broken",
            f"infer broken.jpg photos --bundle {PAIR} --format jsonl --top 1 --no-cache",
        ),
        step(
            "infer-broken-table",
            f"infer broken.jpg photos --bundle {PAIR} --format csv --top 1 --no-cache",
        ),
        step(
            "infer-embeddings",
            "infer photos --bundle thin-a+thin-b-cut4-fp16 --format jsonl --no-cache",
        ),
        step("infer-whole", "infer photos --bundle thin-b-fp32 --format jsonl --workers 1"),
        step(
            "infer-trained",
            "infer digits/2 --no-cache --bundle first+second-cut2-fp32 --tail second --top 4",
        ),
        step("infer-random", "infer photos --no-cache --bundle random --format csv"),
        step(
            "infer-quantized",
            "infer photos --no-cache --bundle ready-a+ready-b-cut4-int8 --tail ready-b",
        ),
        step(
            "infer-calibrated",
            "infer photos --bundle thin-a-cut4-int8 --cache always --cache-dtype int8",
            needs=MODELOPT,
        ),
        step("cache-info", "cache info --json"),
        step("cache-info-table", "cache info"),
        step("cache-verify", "cache verify --json"),
        step("cache-verify-repair", "cache verify --repair"),
        step("cache-clear", "cache clear --json"),
        step("cache-clear-empty", "cache clear --cache-dir other-cache"),
    ),
    "measuring": (
        step("evaluate", f"evaluate digits --bundle {PAIR} --json"),
        step(
            "evaluate-table",
            f"evaluate digits --bundle {PAIR} --tail thin-a --plot confusion.png",
            columns=SPEED,
        ),
        step(
            "evaluate-several",
            "evaluate digits --bundle first+second-cut2-fp32 "
            "--checkpoint checkpoints/first/best.safetensors --part val",
            columns=SPEED,
        ),
        step("profile", "profile thin-a --backend onnxruntime --photos 2 --json", measured=True),
        step(
            "bench",
            f"bench photos {CONTEST} --seconds 1 --quick --baseline onnxruntime --json",
            measured=True,
        ),
        step("bench-stored", "bench --from bench.json --report bench.html --plot bench.png --json"),
        step("bench-stored-table", "bench --from bench.json"),
        step("bench-compared", "bench --from bench.json --compare slow.json --json"),
        step("bench-compared-table", "bench --from slow.json --compare bench.json"),
    ),
    "footage": (
        step("ingest", f"{INDEX} --bundle thin-a+thin-b-cut4-fp16 --json"),
        step("ingest-again", f"{INDEX} --json"),
        step(
            "ingest-elsewhere",
            f"{INDEX} --bundle {PAIR} --store plain --clusters off --maps none --motion knn",
        ),
        step("store-info", "store info --json"),
        step("store-info-table", "store info"),
        step("query", "query 2 --format jsonl --output 2.jsonl --gallery found.html --explain"),
        step("query-table", "query 1"),
        step("query-csv", "query 2 --format csv --from 0.5 --to 2 --limit 2 --gap 0.2 --forget"),
        step("query-without-maps", "query 2 --store plain --format jsonl"),
        step("store-export", "store export objects.parquet"),
        # What it chooses depends on measured times.
        step(
            "tune-dry",
            "tune --recall 0.5 --precision 0.5 --confidence 0.95 --dry-run",
            measured=True,
            unproved=True,
        ),
        step(
            "tune",
            "tune --recall 0.5 --precision 0.5 --confidence 0.95 --seed 2 --plot t.png --json",
            measured=True,
            unproved=True,
        ),
        step("query-tuned", "query 2 --format jsonl", measured=True),
        step("store-compact", "store compact"),
        step("store-verify", "store verify --json"),
    ),
    "refusals": (
        step("wrong-doctor", "doctor everything"),
        step("wrong-train", "train nowhere --arch resnet18"),
        step("wrong-train-option", f"{TRAIN} --name x --cut 2"),
        step("wrong-export", "export resnet5"),
        step("wrong-export-option", "export thin-a.onnx --weights random"),
        step("wrong-cuts", "cuts nothing"),
        step("wrong-profile", "profile nothing"),
        step("wrong-profile-option", "profile thin-a --hit-rate 7"),
        step("wrong-build", f"{BUILD} nothing --cut 2"),
        step("wrong-build-cut", f"{BUILD} thin-a thin-b --cut 9"),
        step("wrong-build-options", f"{BUILD} thin-a --cut 4 --fp16 --int8"),
        step("wrong-build-auto", f"{BUILD} first thin-a --cut auto"),
        step("wrong-infer", "infer nowhere"),
        step("wrong-infer-tail", "infer photos --tail nobody"),
        step("wrong-infer-usage", "infer photos --top many"),
        step("wrong-evaluate", "evaluate photos"),
        step("wrong-bench", "bench photos --bundle nothing"),
        step("wrong-bench-usage", "bench photos --photos 0"),
        step("wrong-ingest", "ingest nowhere.mp4"),
        step("wrong-query", "query", "no such class"),
        step("wrong-tune", "tune --recall 1.5"),
        step("wrong-store-info", "store info --store nowhere"),
        step("wrong-store-verify", "store verify --store nowhere"),
        step("wrong-store-compact", "store compact --store nowhere"),
        step("wrong-store-export", "store export labels.txt/objects.parquet"),
        step("wrong-cache-info", "cache info --cache-dir /dev/null/nowhere"),
        step("wrong-cache-verify", "cache verify --cache-dir labels.txt"),
        step("wrong-cache-clear", "cache clear --cache-dir labels.txt"),
    ),
    "gpu": (
        # On a simulated GPU with TensorRT.
        step("gpu-doctor", "doctor --json", measured=True),
        step("gpu-build", f"{GPU} thin-a thin-b --cut 4 --fp16 --bundle gpu --json"),
        step(
            "gpu-build-table",
            f"{GPU} --batch 1 thin-a thin-b --cut 4 --bundle gpu32 --embeddings",
        ),
        step("gpu-rebuild", "build --bundle gpu --json"),
        step(
            "gpu-infer-cold",
            "infer photos --bundle gpu --cache always --gpu-cache 1M --stats gc.json --format jsonl",
        ),
        step(
            "gpu-infer-warm",
            "infer photos --bundle gpu --cache always --gpu-cache 1M --stats gw.json --format jsonl",
        ),
        step("gpu-evaluate", "evaluate digits --bundle gpu32 --json"),
        step("wrong-gpu-build", f"{GPU} thin-a --cut 4 --backend onnxruntime --tf32"),
    ),
}

COMMANDS = (
    "", "doctor", "train", "export", "cuts", "profile", "build", "infer", "evaluate", "bench", "ingest",
    "query", "tune", "cache", "cache info", "cache verify", "cache clear", "store", "store info",
    "store verify", "store compact", "store export",
)  # fmt: skip
