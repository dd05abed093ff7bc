"""What the system says of the processor and the memory, and what is made of it where it says nothing."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil
import pytest

from trtkit import cpu

MEMORY = """\
MemTotal: 2000 kB
MemFree: 12 kB
MemAvailable: 1000 kB
Buffers: 1 kB
Cached: 1 kB
Active: 1 kB
Inactive: 1 kB
Shmem: 0 kB
"""


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Write what the system says, by the name of the constant or file; nothing is said else."""

    def path(name: str) -> Path:
        return tmp_path / name

    for name in ("CPU_INFO", "BOARD"):
        monkeypatch.setattr(cpu, name, path(name))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    monkeypatch.setattr(cpu, "MEMORY_LIMITS", (path("v2"), path("v1")))
    return lambda **said: [path(name).write_text(text) for name, text in said.items()]


def test_the_processor_by_its_name(system):
    system(CPU_INFO="processor\t: 0\nmodel name\t: AMD EPYC: 7B13 \nmodel name\t: other\n")
    assert cpu.processor_name() == "AMD EPYC: 7B13"


def test_what_kernels_may_depend_on(system, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    system(
        CPU_INFO="model name\t: EPYC\nflags\t\t: avx2 fma\nmodel name\t: EPYC\nflags\t\t: avx2 fma\n"
    )
    assert cpu.processor_features() == "x86_64; EPYC; avx2 fma"
    system(CPU_INFO="Features\t: asimd\n", BOARD="Orin\0")
    assert cpu.processor_features() == "x86_64; Orin; asimd"


def test_an_arm_board_by_its_own(system):
    system(CPU_INFO="processor\t: 0\nCPU part\t: 0xd42\n", BOARD="Jetson Orin Nano\0")
    assert cpu.processor_name() == "Jetson Orin Nano"


def test_elsewhere_by_what_python_knows(system, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert cpu.processor_name() == "arm64"
    monkeypatch.setattr(platform, "processor", lambda: "i386")
    assert cpu.processor_name() == "i386"


def test_memory_is_what_is_available(system):
    system(meminfo=MEMORY)
    assert cpu.available_memory() == 1000 * 1024
    assert cpu.total_memory() == 2000 * 1024


@pytest.mark.parametrize(
    ("limits", "bytes_"),
    [
        ({"v2": "4096\n"}, 4096),
        ({"v1": "8192\n"}, 8192),
        ({"v2": "max\n"}, 1000 * 1024),
        ({"v1": "9223372036854771712\n"}, 1000 * 1024),
    ],
)
def test_a_container_has_no_more_than_its_limit(system, limits, bytes_):
    system(meminfo=MEMORY, **limits)
    assert cpu.available_memory() == bytes_


def test_where_nothing_says_how_much_memory_there_is(system):
    assert (cpu.available_memory(), cpu.total_memory()) == (None, None)
    system(v2="4096\n")
    assert cpu.available_memory() == 4096


def test_what_may_not_be_read_says_nothing(system, monkeypatch):
    system(CPU_INFO="model name: x\n", v1="4096\n", meminfo=MEMORY)

    def refuse(self, *args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert cpu.available_memory() == 1000 * 1024
    assert cpu.processor_name()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: refuse(None))
    assert cpu.available_memory() is None


def test_this_machine():
    assert cpu.processor_name() == cpu.processor_name().strip() != ""
    memory = cpu.available_memory()
    assert memory is None or memory > 0
    assert cpu.usable_cores() >= 1


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        # cgroup v2, as a container sees it, and as the machine does.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            {
                "proc/self/cgroup": "0::/kubepods/pod1/box\n",
                "sys/fs/cgroup/kubepods/cpu.max": "800000 100000\n",
                "sys/fs/cgroup/kubepods/pod1/cpu.max": "100000 50000\n",
                "sys/fs/cgroup/kubepods/pod1/box/cpu.max": "max 100000\n",
                "sys/fs/cgroup/elsewhere/cpu.max": "1000 100000\n",
            },
            2.0,
        ),
        # cgroup v1, whose container sees its own group at the mount, and the path of the machine.
        (
            {
                "proc/self/cgroup": "3:cpuset:/docker/1\n2:cpu,cpuacct:/docker/1\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/a/b\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        # Both versions side by side.
        (
            {
                "proc/self/cgroup": "1:cpu:/\n0::/x\n",
                "sys/fs/cgroup/unified/x/cpu.max": "200000 100000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            1.0,
        ),
        ({"sys/fs/cgroup/cpu.max": "nonsense", "proc/self/cgroup": "nonsense"}, None),
        ({"sys/fs/cgroup/cpu.max": "0 100000"}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path, files, quota):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cpu.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (0.5, 1), (1.5, 2), (2.0, 2), (9.0, 4)])
def test_a_quota_counts_like_affinity(monkeypatch, quota, cores):
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    monkeypatch.setattr(cpu, "cpu_quota", lambda: quota)
    assert cpu.usable_cores() == cores
