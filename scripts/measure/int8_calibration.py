"""Measure calibrating for int8: seconds, and whether memory is bounded.

The ranges of a model are measured on few photos and on many, as `trtkit build --int8` does it, each in a
process of its own, which starts NVIDIA ModelOpt in another. The peak is the largest sum of the resident
memory of both, looked at every 20 ms, which counts pages that they share twice; beside it stands the
peak of the larger one, as the system saw it (ru_maxrss). Weights are random: neither depends on them.
POSIX only.

    python scripts/measure/int8_calibration.py --json docs/results/int8-calibration.json \\
        --markdown docs/results/int8-calibration.md
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common import Outcome, Table, Target, argument_parser, at_most, positive, progress, run
from int8 import calibration_photos
from memory import MAXRSS_UNIT
from subjects import exported

from trtkit.workspace import Workspace

MOST_SECONDS = 300
# The allocator's arenas differ by a few percent from process to process.
MORE_MEMORY = 1.1
POLL_SECONDS = 0.02


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    few, many = sorted((options.few, options.many))
    name = exported(root, options.model, options.image_size)
    export = Workspace(root).export_path(name)
    outcome, found = Outcome(data={"model": name, "method": options.method}), {}
    for count in (few, many):
        progress(f"Calibrating {name} on {count} photos")
        folder = calibration_photos(root, count)
        found[count] = in_own_process(export, folder, count, options.method)
    where = f"{name} at {options.image_size} x {options.image_size}, {options.method}"
    rows = tuple(
        (
            f"{count} photos",
            f"{each['seconds']:.1f}",
            f"{1e3 * each['seconds'] / count:.0f}",
            f"{each['peak'] / 2**20:,.0f}",
            f"{each['largest'] / 2**20:,.0f}",
        )
        for count, each in found.items()
    )
    columns = (
        "", "seconds", "ms a photo", "peak, both processes, MiB", "peak, the larger one, MiB"
    )  # fmt: skip
    outcome.tables.append(Table(f"Calibrating {where}", columns, rows))
    outcome.data["calibration"] = {str(count): each for count, each in found.items()}
    seconds = found[many]["seconds"]
    outcome.targets += [
        Target(
            f"Calibrating {where}, {many} photos",
            f"below {MOST_SECONDS} s",
            f"{seconds:.1f} s",
            seconds < MOST_SECONDS,
        ),
        at_most(
            f"Peak memory of calibrating {where}, {many} photos against {few}",
            MORE_MEMORY,
            found[many]["peak"] / found[few]["peak"],
        ),
    ]
    return outcome


def in_own_process(export: Path, folder: Path, count: int, method: str) -> dict[str, Any]:
    """Seconds of calibrating, the peak of the process with its children, and of the larger of them."""
    import psutil

    spawn = multiprocessing.get_context("spawn")
    receiving, sending = spawn.Pipe(duplex=False)
    process = spawn.Process(target=calibrate, args=(export, folder, count, method, sending))
    process.start()
    sending.close()
    peak = 0
    watched = psutil.Process(process.pid)
    while not receiving.poll(POLL_SECONDS) and process.is_alive():
        peak = max(peak, resident(watched))
    try:
        answer: dict[str, Any] = receiving.recv()
    except EOFError:
        raise RuntimeError(f"Calibrating {export} on {count} photos failed") from None
    finally:
        process.join()
    return {**answer, "peak": max(peak, answer["largest"])}


def resident(process: Any) -> int:
    """Bytes of a process and its children; those that have ended count nothing."""
    import psutil

    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        # It ended between being listed and being looked at; the next look has the rest.
        return 0
    return total


def calibrate(export: Path, folder: Path, count: int, method: str, answer: Connection) -> None:
    """Calibrate as a build does, and send what it took."""
    import resource

    from trtkit.building.sources import load_model
    from trtkit.graph.precision import name_nodes
    from trtkit.quantization.calibrate import measure_ranges
    from trtkit.quantization.photos import calibration_photos as choose

    model = load_model(export.stem, export)
    name_nodes(model.graph.graph)
    started = time.perf_counter()
    chosen = choose(folder, count)
    ranges = measure_ranges(model, "", chosen, method)
    seconds = time.perf_counter() - started
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    largest = max(resource.getrusage(kind).ru_maxrss for kind in kinds) * MAXRSS_UNIT
    answer.send(
        {"seconds": seconds, "photos": ranges.count, "tool": ranges.tool, "largest": largest}
    )


def main() -> None:
    parser = argument_parser(__doc__, rounds=None)
    parser.add_argument("--model", default="resnet50", help="architecture, default resnet50")
    parser.add_argument("--image-size", type=positive, default=224, help="default 224")
    parser.add_argument("--few", type=positive, default=64, help="photos, default 64")
    parser.add_argument("--many", type=positive, default=512, help="photos, default 512")
    parser.add_argument("--method", choices=("entropy", "max"), default="entropy", help="entropy")
    run(parser, measure)


if __name__ == "__main__":
    main()
