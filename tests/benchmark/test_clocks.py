"""What the machine says of itself, and what is made of it. The texts are those of real machines."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from trtkit.benchmark import clocks
from trtkit.benchmark.clocks import Clocks, GpuReading, Reading, read, warnings

TICKS = os.sysconf("SC_CLK_TCK")

# nvidia-smi --query-gpu=index,name,clocks.sm,clocks.mem,temperature.gpu,clocks_event_reasons.active
SMI = """\
0, NVIDIA A100-SXM4-40GB, 1410, 1215, 34, 0x0000000000000000
1, NVIDIA A100-SXM4-40GB, 210, 1215, 28, 0x0000000000000001
2, Tesla T4, 585, 5000, 85, 0x0000000000000064
3, NVIDIA GeForce GT 1030, [N/A], [N/A], 41, [N/A]
"""
STAT = """\
cpu  3105127 116084 738756 2359130 58851 0 4112 10501 0 0
cpu0 1314164 57372 301643 1505826 10465 0 671 5183 0 0
cpu1 1790963 58711 437112 853304 48385 0 3440 5317 0 0
intr 120463838 9 0 0
"""
PRESSURE = """\
some avg10=4.29 avg60=4.36 avg300=3.80 total=6111530316
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""


def test_what_nvidia_smi_says():
    busy, idle, hot, old = clocks.gpus_of(SMI)
    assert busy == GpuReading("NVIDIA A100-SXM4-40GB", 1410, 1215, 34, False, ())
    assert idle.idle is True and idle.sm_mhz == 210
    assert hot.slowed == (
        "at its power limit",
        "slowed down by the driver for its heat",
        "slowed down by its hardware for its heat",
    )
    assert old == GpuReading("NVIDIA GeForce GT 1030", None, None, 41, None, ())
    assert clocks.gpus_of("No devices were found\n") == ()


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi on the PATH that runs that shell script."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def make(script: str) -> None:
        path = tmp_path / "bin" / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return make


ASKED = "index,name,clocks.sm,clocks.mem,temperature.gpu"
LINE = "0, Tesla T4, 585, 5000, 85, 0x4"


def test_nvidia_smi_is_asked_in_the_words_of_its_driver(smi):
    smi(
        f'[ "$*" = "--query-gpu={ASKED},clocks_event_reasons.active --format=csv,noheader,nounits" ]'
        f" && echo '{LINE}'"
    )
    assert [gpu.name for gpu in clocks.listed_gpus()] == ["Tesla T4"]
    # Before driver 535.
    smi(
        'case "$*" in *clocks_event_reasons*) echo Field is not a valid field to query.; exit 2;; esac\n'
        f"echo '{LINE}'"
    )
    assert clocks.listed_gpus()[0].slowed == ("at its power limit",)


@pytest.mark.parametrize("script", ["exit 9", "echo no driver", "exec /nowhere"])
def test_without_a_driver_there_are_no_gpus(smi, script):
    smi(script)
    assert clocks.listed_gpus() == ()


def test_without_nvidia_smi_there_are_no_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clocks.listed_gpus() == ()


def test_an_nvidia_smi_that_hangs_is_left_alone(smi, monkeypatch):
    monkeypatch.setattr(clocks, "NVIDIA_SMI_SECONDS", 0.2)
    smi("exec /bin/sleep 60")
    start = time.monotonic()
    assert clocks.listed_gpus() == ()
    assert time.monotonic() - start < 20


def test_what_proc_and_sys_say(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    files = {
        "proc/loadavg": "1.28 1.18 1.21 3/104 10742\n",
        "proc/pressure/cpu": PRESSURE,
        "proc/stat": STAT,
        "proc/77/stat": f"77 (a (b) c) S 1 70 70 0 -1 0 1 2 3 4 {5 * TICKS} {TICKS} {TICKS} 0 20 0",
        "proc/78/stat": f"78 (x) S 1 71 71 0 -1 0 1 2 3 4 {9 * TICKS} 0 0 0 20 0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "800000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "3400000\n",
        "sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "4100000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
        "sys/class/devfreq/17000000.ga10b/cur_freq": "1020000000\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own = sum(os.times()[:4])
    found = read({0, 1}, {70}, tmp_path)
    assert found.gpus == (GpuReading("17000000.ga10b", 1020.0),)
    # Core 2 is not used.
    assert (found.cpu_mhz, found.cpu_throttles) == (3400.0, 7)
    assert (found.load, found.pressure) == (1.28, 4.29)
    both = 1314164 + 57372 + 301643 + 671 + 5183 + 1790963 + 58711 + 437112 + 3440 + 5317
    assert found.busy_seconds == both / TICKS
    # The process of session 70, and this one.
    assert own + 7 <= found.own_seconds <= own + 8


def test_a_system_that_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = read({0}, {1}, tmp_path)
    assert found == Reading(found.seconds)
    assert warnings(found, replace(found, seconds=found.seconds + 9), 1) == ()


def test_the_same_twice_is_no_reason_to_doubt():
    gpus = clocks.gpus_of(SMI)[:2]
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
