"""What the machine tells of itself, and what follows for figures that were measured meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace

import psutil
import pynvml
import pytest

from trtkit.benchmark import clocks
from trtkit.benchmark.clocks import Clocks, GpuReading, Reading, read, warnings

# Of each GPU: name, SM and memory clock, temperature, reasons for its clocks; None is not told.
GPUS = (
    ("NVIDIA A100-SXM4-40GB", 1410, 1215, 34, 0x0),
    ("NVIDIA A100-SXM4-40GB", 210, 1215, 28, 0x1),
    ("Tesla T4", 585, 5000, 85, 0x64),
    ("NVIDIA GeForce GT 1030", None, None, 41, None),
)
PRESSURE = """\
some avg10=4.29 avg60=4.36 avg300=3.80 total=6111530316
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""


@pytest.fixture
def nvml(monkeypatch):
    """Puts these GPUs into the place of the driver's."""

    def make(gpus=GPUS, failing=()) -> None:
        def answer(value):
            if value is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return value

        functions = {
            "Init": lambda: None,
            "Shutdown": lambda: None,
            "DeviceGetCount": lambda: len(gpus),
            "DeviceGetHandleByIndex": lambda number: gpus[number],
            "DeviceGetName": lambda gpu: gpu[0],
            "DeviceGetClockInfo": lambda gpu, kind: answer(
                gpu[{pynvml.NVML_CLOCK_SM: 1, pynvml.NVML_CLOCK_MEM: 2}[kind]]
            ),
            "DeviceGetTemperature": lambda gpu, sensor: answer(gpu[3]),
            "DeviceGetCurrentClocksEventReasons": lambda gpu: answer(gpu[4]),
            "DeviceGetCurrentClocksThrottleReasons": lambda gpu: answer(gpu[4]),
        }
        for name, function in functions.items():
            if name in failing:
                function = lambda *arguments: answer(None)  # noqa: E731
            monkeypatch.setattr(pynvml, f"nvml{name}", function)

    return make


def test_what_the_driver_tells_of_its_gpus(nvml):
    nvml()
    busy, idle, hot, old = clocks.nvidia_gpus()
    assert busy == GpuReading("NVIDIA A100-SXM4-40GB", 1410.0, 1215.0, 34.0, False, ())
    assert idle.idle is True and idle.sm_mhz == 210
    assert hot.slowed == (
        "at its power limit",
        "slowed down by the driver for its heat",
        "slowed down by its hardware for its heat",
    )
    assert old == GpuReading("NVIDIA GeForce GT 1030", None, None, 41, None, ())
    nvml(gpus=())
    assert clocks.nvidia_gpus() == ()


def test_an_older_driver_has_another_name_for_the_reasons(nvml, monkeypatch):
    nvml(GPUS[2:3], failing=["DeviceGetCurrentClocksEventReasons"])
    assert clocks.nvidia_gpus()[0].slowed[0] == "at its power limit"
    # As in an older nvidia-ml-py.
    monkeypatch.delattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons")
    assert clocks.nvidia_gpus()[0].slowed[0] == "at its power limit"


@pytest.mark.parametrize("function", ["Init", "DeviceGetCount", "DeviceGetHandleByIndex"])
def test_without_a_driver_there_are_no_gpus(nvml, function):
    nvml(failing=[function])
    assert clocks.nvidia_gpus() == ()


@pytest.fixture
def no_gpu(nvml):
    nvml(failing=["Init"])


def test_what_the_system_tells(tmp_path, monkeypatch, no_gpu):
    files = {
        "proc/pressure/cpu": PRESSURE,
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
        "sys/class/devfreq/17000000.ga10b/cur_freq": "1020000000\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    times = namedtuple("times", "user nice system idle iowait irq softirq steal guest guest_nice")
    frequency = namedtuple("frequency", "current min max")
    cpus = [times(11, 1, 2, 500, 40, 3, 4, 5, 600, 700), times(20, *[0] * 9), times(9, *[9] * 9)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: cpus)
    monkeypatch.setattr(
        psutil, "cpu_freq", lambda percpu: [frequency(mhz, 400, 4400) for mhz in (800, 3400, 4100)]
    )
    monkeypatch.setattr(psutil, "getloadavg", lambda: (1.28, 1.18, 1.21))
    reading = read({0, 1}, (), tmp_path)
    assert reading.gpus == (GpuReading("17000000.ga10b", 1020.0),)
    # Core 2 is not used; the time of guests is in that of users already.
    assert (reading.cpu_mhz, reading.cpu_throttles) == (3400.0, 7)
    assert (reading.load, reading.pressure) == (1.28, 4.29)
    assert reading.busy_seconds == 11 + 1 + 2 + 3 + 4 + 5 + 20


def test_own_work_is_that_of_the_sessions_and_of_this_process(monkeypatch, tmp_path, no_gpu):
    times = namedtuple("times", "user system children_user children_system iowait")

    class Process:
        def __init__(self, pid: int) -> None:
            self.pid = pid

        def cpu_times(self):
            if self.pid == 72:
                raise psutil.NoSuchProcess(72)
            return times(4, 1, 1, 1, 100)

    def session(pid: int) -> int:
        if pid == 71:
            raise ProcessLookupError
        return 80 if pid == 73 else 70

    monkeypatch.setattr(psutil, "process_iter", lambda: map(Process, (70, 71, 72, 73)))
    monkeypatch.setattr(os, "getsid", session)
    own = sum(os.times()[:4])
    assert own + 7 <= read({0}, {70}, tmp_path).own_seconds <= own + 8


def test_a_system_that_tells_nothing(tmp_path, monkeypatch, no_gpu):
    # As psutil returns what stands in /proc/cpuinfo.
    nominal = namedtuple("frequency", "current min max")(2500.0, 0.0, 0.0)
    monkeypatch.setattr(psutil, "cpu_freq", lambda percpu: [nominal])
    monkeypatch.delattr(os, "getsid")
    reading = read({0}, {1}, tmp_path)
    assert reading == Reading(reading.seconds, load=reading.load, busy_seconds=reading.busy_seconds)
    later = replace(reading, seconds=reading.seconds + 9)
    assert warnings(reading, later, 1) == ()


def test_the_same_twice_is_no_reason_to_doubt():
    gpus = (GpuReading("A100", 1410.0, 1215.0, 34.0, False), GpuReading("A100", 210.0, idle=True))
    reading = Reading(0.0, gpus, 3400.0, 7, 1.0, 4.0, 100.0, 50.0)
    later = replace(reading, seconds=10.0, busy_seconds=120.0, own_seconds=70.0)
    assert Clocks.between(reading, later, 2).warnings == ()


def gpu(**changes) -> Reading:
    return Reading(0.0, (replace(GpuReading("T4", 1500.0, 5000.0, 60.0, False), **changes),))


def test_a_clock_that_moved_is_told_unless_the_gpu_was_idle():
    assert warnings(gpu(), gpu(sm_mhz=1430.0), 1) == ()
    assert warnings(gpu(), gpu(sm_mhz=1400.0), 1) == (
        "the clock of GPU 0 (T4) went from 1500 to 1400 MHz.",
    )
    assert warnings(gpu(), gpu(sm_mhz=300.0, idle=True), 1) == ()
    assert warnings(gpu(sm_mhz=300.0, idle=True), gpu(), 1) == ()
    assert warnings(gpu(), gpu(memory_mhz=405.0), 1) == (
        "the memory clock of GPU 0 (T4) went from 5000 to 405 MHz.",
    )
    # A Jetson does not tell whether it is idle.
    assert warnings(gpu(idle=None), gpu(idle=None, sm_mhz=1600.0), 1) != ()


def test_what_was_slowed_down_is_told_once():
    hot = gpu(slowed=("slowed down by the driver for its heat",))
    told = ("GPU 0 (T4) was slowed down by the driver for its heat.",)
    assert warnings(gpu(), hot, 1) == warnings(hot, gpu(), 1) == warnings(hot, hot, 1) == told
    cool, throttled = Reading(0.0, cpu_throttles=3), Reading(9.0, cpu_throttles=5)
    assert warnings(cool, throttled, 1) == (
        "the processor was slowed down for its heat (2 times).",
    )


def test_the_work_of_others_is_what_is_not_ours():
    before = Reading(0.0, busy_seconds=1000.0, own_seconds=10.0)
    # Of two cores for ten seconds, ours had eleven seconds.
    after = Reading(10.0, busy_seconds=1019.0, own_seconds=21.0)
    assert clocks.others_busy(before, after) == pytest.approx(0.8)
    assert warnings(before, after, 2) == ("other processes kept 0.8 of 2 cores busy.",)
    assert warnings(before, replace(after, own_seconds=28.5), 2) == ()
    # Ticks are rounded, each for itself.
    assert clocks.others_busy(before, replace(after, own_seconds=30.0)) == 0.0
    assert clocks.others_busy(before, replace(after, own_seconds=None)) is None


def test_the_work_of_our_sessions_is_ours():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not tell")
    cores = os.sched_getaffinity(0)
    code = "import time\nwhile time.process_time() < 0.6: pass\nprint(1, flush=True)\ninput()"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        before = read(cores, ())
        child.stdout.readline()
        ours, anybody = read(cores, (child.pid,)), read(cores, ())
    finally:
        child.communicate(b"\n")
    assert ours.own_seconds - anybody.own_seconds >= 0.5
    assert ours.busy_seconds - before.busy_seconds >= 0
