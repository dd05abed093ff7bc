"""What the machine did while it was measured: clocks, heat, and the work of other processes.

What the system does not report is None or absent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from trtkit.nvml import NvmlError, gpu_handles, supported

ROOT = Path("/")
# A clock that moved by more than this share of itself made ratios of different rounds differ.
MOVED = 0.05
# Of the cores' time; below it are the system's own threads.
OTHERS_BUSY = 0.05
# The bits of nvmlClocksEventReasons in NVML's reference. The others are no slowing down: clocks that
# were set, several cards kept in step.
_IDLE = 0x1
_SLOWED = {
    0x4: "at its power limit",
    0x8: "slowed down by its hardware",
    0x20: "slowed down by the driver for its heat",
    0x40: "slowed down by its hardware for its heat",
    0x80: "slowed down by its power supply",
}
# GPUs of Jetsons among the devices whose clocks Linux scales: Nano and later by chip, or just `gpu`.
_JETSON_GPUS = ("*gpu*", "*.gp10b", "*.gv11b", "*.ga10b")


@dataclass(frozen=True)
class GpuReading:
    """A GPU at one moment: its clocks in MHz, its temperature in degrees Celsius, its power in watts.

    `idle`: it had nothing to do, so that its clocks say nothing; None if unknown.
    `slowed`: why it did not run as fast as it can.
    """

    name: str
    sm_mhz: float | None = None
    memory_mhz: float | None = None
    temperature: float | None = None
    idle: bool | None = None
    slowed: tuple[str, ...] = ()
    watts: float | None = None


@dataclass(frozen=True)
class Reading:
    """The machine at one moment.

    `seconds`: of a clock that only goes forward. `cpu_mhz`: of the fastest core that may be used, as
    the others may be idle. `cpu_throttles`: how often those cores were slowed down for their heat
    since the machine was started. `load`: processes that ran or wanted to, the mean of the last minute.
    `pressure`: percent of the last ten seconds in which a process waited for a core. `busy_seconds`:
    time that those cores have worked for anybody; `own_seconds`: for this program and its workers.
    """

    seconds: float
    gpus: tuple[GpuReading, ...] = ()
    cpu_mhz: float | None = None
    cpu_throttles: int | None = None
    load: float | None = None
    pressure: float | None = None
    busy_seconds: float | None = None
    own_seconds: float | None = None


@dataclass(frozen=True)
class Clocks:
    """Readings before and after a contest, and what is wrong with what was measured between them."""

    before: Reading
    after: Reading
    warnings: tuple[str, ...]

    @classmethod
    def between(cls, before: Reading, after: Reading, cores: int) -> Clocks:
        return cls(before, after, warnings(before, after, cores))


def read(cores: Collection[int], sessions: Collection[int] = (), root: Path = ROOT) -> Reading:
    """The machine now.

    `cores`: the numbers of those that are used. `sessions`: the ids of the sessions whose processes
    are the program's own. `root`: the folder of proc/pressure and sys.
    """
    return Reading(
        seconds=time.monotonic(),
        gpus=nvidia_gpus() or jetson_gpus(root),
        cpu_mhz=_fastest_core(cores),
        cpu_throttles=_throttles(cores, root),
        load=psutil.getloadavg()[0],
        pressure=pressure_of(_text(root / "proc/pressure/cpu")),
        busy_seconds=_busy_seconds(cores),
        own_seconds=_own_seconds(sessions),
    )


def warnings(before: Reading, after: Reading, cores: int) -> tuple[str, ...]:
    """What made figures that were measured between two readings on `cores` cores doubtful.

    Clocks of a GPU that is idle in one of them are not compared.
    """
    sentences = []
    for number, (first, last) in enumerate(zip(before.gpus, after.gpus, strict=False)):
        what = f"GPU {number} ({last.name})"
        for why in dict.fromkeys((*first.slowed, *last.slowed)):
            sentences.append(f"{what} was {why}.")
        if not (first.idle or last.idle):
            sentences += _moved(f"the clock of {what}", first.sm_mhz, last.sm_mhz)
            sentences += _moved(f"the memory clock of {what}", first.memory_mhz, last.memory_mhz)
    sentences += _moved("the processor's clock", before.cpu_mhz, after.cpu_mhz)
    times = _difference(before.cpu_throttles, after.cpu_throttles)
    if times is not None and times > 0:
        sentences.append(f"the processor was slowed down for its heat ({times:.0f} times).")
    others = others_busy(before, after)
    if others is not None and others > OTHERS_BUSY * cores:
        sentences.append(f"other processes kept {others:.1f} of {cores} cores busy.")
    return tuple(sentences)


def others_busy(before: Reading, after: Reading) -> float | None:
    """How many cores worked for other processes between two readings, on average; None if unknown."""
    busy = _difference(before.busy_seconds, after.busy_seconds)
    own = _difference(before.own_seconds, after.own_seconds)
    seconds = after.seconds - before.seconds
    if busy is None or own is None or seconds <= 0:
        return None
    return max(0.0, busy - own) / seconds


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def nvidia_gpus() -> tuple[GpuReading, ...]:
    """The GPUs that NVML lists; none where there is no driver."""
    try:
        with gpu_handles() as handles:
            return tuple(map(_gpu_reading, handles))
    except NvmlError:
        return ()


def gpu_value(function: str, *arguments: Any) -> float | None:
    """The number that a function of pynvml returns, in its unit; None if unsupported."""
    value = supported(function, *arguments)
    return None if value is None else float(value)


def watts(function: str, handle: Any) -> float | None:
    """Watts, of a function of pynvml that returns milliwatts; None if unsupported."""
    milliwatts = gpu_value(function, handle)
    return None if milliwatts is None else milliwatts / 1000


def slowdown_reasons(handle: Any) -> int | None:
    """The bits of nvmlClocksEventReasons that are set for a GPU; None if unsupported."""
    reasons = supported("nvmlDeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:
        # The name before driver 535.
        reasons = supported("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return None if reasons is None else int(reasons)


def _gpu_reading(handle: Any) -> GpuReading:
    import pynvml

    reasons = slowdown_reasons(handle)
    return GpuReading(
        name=str(supported("nvmlDeviceGetName", handle)),
        sm_mhz=gpu_value("nvmlDeviceGetClockInfo", handle, pynvml.NVML_CLOCK_SM),
        memory_mhz=gpu_value("nvmlDeviceGetClockInfo", handle, pynvml.NVML_CLOCK_MEM),
        temperature=gpu_value("nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU),
        idle=None if reasons is None else bool(reasons & _IDLE),
        slowed=tuple(text for bit, text in _SLOWED.items() if reasons and reasons & bit),
        watts=watts("nvmlDeviceGetPowerUsage", handle),
    )


def jetson_gpus(root: Path = ROOT) -> tuple[GpuReading, ...]:
    """The GPU of a Jetson, whose NVML does not tell its clock, as Linux lists it."""
    devices = root / "sys/class/devfreq"
    paths = sorted({path for pattern in _JETSON_GPUS for path in devices.glob(pattern)})
    clocks = ((path.name, _number(_text(path / "cur_freq"))) for path in paths)
    return tuple(GpuReading(name, hertz / 1e6) for name, hertz in clocks if hertz is not None)


def pressure_of(text: str) -> float | None:
    """`avg10` of the line `some` of /proc/pressure/cpu."""
    for line in text.splitlines():
        kind, *fields = line.split()
        if kind == "some":
            averages = dict(field.split("=", 1) for field in fields if "=" in field)
            return _number(averages.get("avg10", ""))
    return None


def _busy_seconds(cores: Collection[int]) -> float:
    """Seconds that `cores` have worked, the time that a host took from them included."""
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    times = psutil.cpu_times(percpu=True)
    return sum(
        getattr(times[core], name, 0.0) for core in cores if core < len(times) for name in names
    )


def _own_seconds(sessions: Collection[int]) -> float | None:
    """Of this process, its children that have ended, and all processes of `sessions`."""
    if not hasattr(os, "getsid"):
        return None
    own = sum(os.times()[:4])
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) in sessions:
                own += sum(process.cpu_times()[:4])
    return own


def _fastest_core(cores: Collection[int]) -> float | None:
    frequencies = psutil.cpu_freq(percpu=True) if hasattr(psutil, "cpu_freq") else []
    # Without limits they are what /proc/cpuinfo says, which a virtual machine makes up.
    scaled = (frequencies[core] for core in cores if core < len(frequencies))
    return max((core.current for core in scaled if core.max), default=None)


def _throttles(cores: Collection[int], root: Path) -> int | None:
    folder = root / "sys/devices/system/cpu"
    names = [f"cpu{core}/thermal_throttle/core_throttle_count" for core in cores]
    counts = [count for name in names if (count := _number(_text(folder / name))) is not None]
    return int(sum(counts)) if counts else None


def _moved(what: str, before: float | None, after: float | None) -> Sequence[str]:
    if not before or not after or abs(after - before) <= MOVED * before:
        return ()
    return (f"{what} went from {before:.0f} to {after:.0f} MHz.",)


def _text(path: Path) -> str:
    """The file's content; empty when the system has no such file, or does not let it be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
