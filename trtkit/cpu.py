"""The processor as this process may use it."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")
# Of a container, in the two forms that Linux has had.
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

_owned = False


def usable_cores() -> int:
    """The cores this process may use; fewer than the machine has under taskset or in a container.

    A quota of 1.5 cores' time counts as 2.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(root: str | Path = "/") -> float | None:
    """How many cores' time the control groups of this process allow, None where they set no limit.

    Of nested groups the smallest limit holds. Reads cgroup v1 and v2 below `root`, the system's root.
    """
    # A quota is microseconds in each period of so many; without one it is -1 or the word max.
    quotas = [
        int(match[1]) / int(match[2])
        for folder in _cpu_groups(Path(root))
        for text in (
            _text(folder / "cpu.max"),
            f"{_text(folder / 'cpu.cfs_quota_us').strip()} {_text(folder / 'cpu.cfs_period_us')}",
        )
        if (match := re.fullmatch(r"([1-9]\d*)\s+([1-9]\d*)\s*", text))
    ]
    return min(quotas, default=None)


def _cpu_groups(root: Path) -> Iterator[Path]:
    """The folders of the process's control groups for the processor, each with all those that hold it.

    A container may see its own group as the uppermost, and the path as the machine sees it; what does not
    exist has no quota.
    """
    mount = root / "sys/fs/cgroup"
    groups = [(folder, "/") for folder in (mount, mount / "cpu", mount / "cpu,cpuacct")]
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            groups += [(mount, path), (mount / "unified", path)]
        elif "cpu" in controllers.split(","):
            groups += [(mount / name, path) for name in {controllers, "cpu", "cpu,cpuacct"}]
    for folder, path in groups:
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for count in range(len(parts) + 1):
            yield folder.joinpath(*parts[:count])


def processor_name() -> str:
    """The processor as the system calls it, such as `Intel(R) Xeon(R) Processor`.

    Where it has no name, as on ARM, the board's, such as `NVIDIA Jetson Orin Nano Developer Kit`.
    """
    for line in _text(CPU_INFO).splitlines():
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return _text(BOARD).strip("\0\n ") or platform.processor() or platform.machine()


def processor_features() -> str:
    """What a library's kernels and layouts may depend on: architecture, name and extensions."""
    extensions = {
        line.partition(":")[2].strip()
        for line in _text(CPU_INFO).splitlines()
        if line.lower().startswith(("flags", "features"))
    }
    return "; ".join([platform.machine(), processor_name(), *sorted(extensions)])


def total_memory() -> int | None:
    """Bytes of memory of the machine; None where the system does not tell."""
    return _memory("total")


def available_memory() -> int | None:
    """Bytes that can be had without swapping, files in memory counted; None where nothing says so.

    In a container no more than its limit, which files in memory count against.
    """
    available = _memory("available")
    limits = [int(text) for path in MEMORY_LIMITS if (text := _text(path).strip()).isdecimal()]
    return min(limits if available is None else [available, *limits], default=None)


def _memory(field: str) -> int | None:
    import psutil

    try:
        return int(getattr(psutil.virtual_memory(), field))
    except (OSError, NotImplementedError):
        return None


def _text(path: Path) -> str:
    """What the system says there; nothing where it does not."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def own_process() -> None:
    """Say that this process belongs to trtkit, as the command line's does.

    Backends may then set what holds for the whole process (ONNX Runtime's one thread pool for all
    engines), which a library must not do in somebody else's program.
    """
    global _owned
    _owned = True
    # ONNX Runtime from 1.29 on reports on its use over the network, unless this says no (its Privacy.md).
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def process_is_ours() -> bool:
    return _owned
