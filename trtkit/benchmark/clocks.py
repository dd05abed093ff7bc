"""What the machine did beside the measuring: clocks, heat, and the work of other processes.

Everything is read where it can be; what a system does not tell is None or absent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
# A clock that moved by more than this share of itself made ratios of different rounds differ.
MOVED = 0.05
# Of the cores' time; below it are the system's own threads, and the tools that read all this.
OTHERS_BUSY = 0.05
NVIDIA_SMI_SECONDS = 10.0

_GPU_FIELDS = ("index", "name", "clocks.sm", "clocks.mem", "temperature.gpu")
# The name of the reasons since driver 535, and the one before.
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
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
    """A GPU at one moment: its clocks in MHz, its temperature in degrees Celsius.

    `idle`: it had nothing to do, so that its clocks say nothing; None where that is not told.
    `slowed`: why it did not run as fast as it can.
    """

    name: str
    sm_mhz: float | None = None
    memory_mhz: float | None = None
    temperature: float | None = None
    idle: bool | None = None
    slowed: tuple[str, ...] = ()


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
    """The machine now. Takes the time that nvidia-smi takes, where there is one.

    `cores`: the numbers of those that are used. `sessions`: the ids of the sessions whose processes
    are the program's own. `root`: where /proc and /sys are found.
    """
    return Reading(
        seconds=time.monotonic(),
        gpus=listed_gpus() or jetson_gpus(root),
        cpu_mhz=_fastest_core(cores, root),
        cpu_throttles=_throttles(cores, root),
        load=_number(_text(root / "proc/loadavg").partition(" ")[0]),
        pressure=pressure_of(_text(root / "proc/pressure/cpu")),
        busy_seconds=busy_of(_text(root / "proc/stat"), cores),
        own_seconds=_own_seconds(sessions, root),
    )


def warnings(before: Reading, after: Reading, cores: int) -> tuple[str, ...]:
    """What made figures that were measured between two readings on `cores` cores doubtful.

    Clocks of a GPU that is idle in one of them are not compared.
    """
    found = []
    for number, (first, last) in enumerate(zip(before.gpus, after.gpus, strict=False)):
        what = f"GPU {number} ({last.name})"
        for why in dict.fromkeys((*first.slowed, *last.slowed)):
            found.append(f"{what} was {why}.")
        if not (first.idle or last.idle):
            found += _moved(f"the clock of {what}", first.sm_mhz, last.sm_mhz)
            found += _moved(f"the memory clock of {what}", first.memory_mhz, last.memory_mhz)
    found += _moved("the processor's clock", before.cpu_mhz, after.cpu_mhz)
    if before.cpu_throttles is not None and after.cpu_throttles is not None:
        times = after.cpu_throttles - before.cpu_throttles
        if times > 0:
            found.append(f"the processor was slowed down for its heat ({times} times).")
    others = others_busy(before, after)
    if others is not None and others > OTHERS_BUSY * cores:
        found.append(f"other processes kept {others:.1f} of {cores} cores busy.")
    return tuple(found)


def others_busy(before: Reading, after: Reading) -> float | None:
    """How many cores worked for other processes between two readings, on average; None if not told."""
    taken = (before.busy_seconds, after.busy_seconds, before.own_seconds, after.own_seconds)
    if any(value is None for value in taken) or after.seconds <= before.seconds:
        return None
    busy_before, busy_after, own_before, own_after = (value or 0.0 for value in taken)
    others = (busy_after - busy_before) - (own_after - own_before)
    return max(0.0, others) / (after.seconds - before.seconds)


def listed_gpus() -> tuple[GpuReading, ...]:
    """The GPUs that nvidia-smi lists; none where it is missing, fails or takes over ten seconds."""
    if shutil.which("nvidia-smi") is None:
        return ()
    for reasons in _REASONS:
        query = ["nvidia-smi", f"--query-gpu={','.join((*_GPU_FIELDS, reasons))}"]
        query.append("--format=csv,noheader,nounits")
        try:
            answer = subprocess.run(
                query, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True
            )
        except subprocess.CalledProcessError:
            # A driver that does not know this name of the reasons.
            continue
        except (OSError, subprocess.TimeoutExpired):
            return ()
        return gpus_of(answer.stdout)
    return ()


def gpus_of(answer: str) -> tuple[GpuReading, ...]:
    """The GPUs of nvidia-smi's answer, one a line; what it does not know is `[N/A]` there."""
    found = []
    for line in answer.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(_GPU_FIELDS) + 1:
            continue
        _, name, sm, memory, temperature, reasons = fields
        bits = _hexadecimal(reasons)
        found.append(
            GpuReading(
                name,
                _number(sm),
                _number(memory),
                _number(temperature),
                None if bits is None else bool(bits & _IDLE),
                tuple(text for bit, text in _SLOWED.items() if bits is not None and bits & bit),
            )
        )
    return tuple(found)


def jetson_gpus(root: Path = ROOT) -> tuple[GpuReading, ...]:
    """The GPU of a Jetson, which has no nvidia-smi that tells its clock: what Linux says of it."""
    devices = root / "sys/class/devfreq"
    paths = sorted({path for pattern in _JETSON_GPUS for path in devices.glob(pattern)})
    found = []
    for path in paths:
        hertz = _number(_text(path / "cur_freq"))
        if hertz is not None:
            found.append(GpuReading(path.name, hertz / 1e6))
    return tuple(found)


def pressure_of(text: str) -> float | None:
    """`avg10` of the line `some` of /proc/pressure/cpu."""
    for line in text.splitlines():
        kind, *fields = line.split()
        if kind == "some":
            averages = dict(field.split("=", 1) for field in fields if "=" in field)
            return _number(averages.get("avg10", ""))
    return None


def busy_of(text: str, cores: Collection[int]) -> float | None:
    """Seconds that `cores` have worked, by /proc/stat, the time that a host took from them included."""
    busy, found = 0, False
    for line in text.splitlines():
        name, *fields = line.split() or [""]
        number = name.removeprefix("cpu")
        if not (name.startswith("cpu") and number.isdigit() and int(number) in cores):
            continue
        # User, nice, system, (idle, waiting for disks,) interrupts of two kinds, taken by the host.
        user, nice, system, _, _, hard, soft, stolen = map(int, fields[:8])
        busy += user + nice + system + hard + soft + stolen
        found = True
    return busy / _ticks() if found else None


def session_seconds(text: str, sessions: Collection[int]) -> float:
    """Processor time, by its /proc/PID/stat, of a process and children that have ended.

    0 for one of another session.
    """
    # Behind the name, which may hold anything.
    fields = text.rpartition(")")[2].split()
    if len(fields) < 15 or int(fields[3]) not in sessions:
        return 0.0
    return sum(map(int, fields[11:15])) / _ticks()


def _own_seconds(sessions: Collection[int], root: Path) -> float | None:
    """Of this process, its children that have ended, and all processes of `sessions`."""
    processes = root / "proc"
    if not processes.is_dir():
        return None
    own = sum(os.times()[:4])
    for path in processes.glob("[0-9]*/stat"):
        # One that has ended meanwhile reads as empty.
        own += session_seconds(_text(path), sessions)
    return own


def _fastest_core(cores: Collection[int], root: Path) -> float | None:
    folder = root / "sys/devices/system/cpu"
    read_ = [_number(_text(folder / f"cpu{core}/cpufreq/scaling_cur_freq")) for core in cores]
    return max((kilohertz / 1000 for kilohertz in read_ if kilohertz), default=None)


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


def _hexadecimal(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")
