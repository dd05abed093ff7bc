"""What doctor says of GPUs, by NVML and by CUDA."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from tests.engines.simulated import install
from trtkit.runtime.diagnosis import Diagnosis, Gpu, diagnose
from trtkit.workspace import Workspace


def fail(code: int) -> Any:
    def function(*arguments: object) -> None:
        raise pynvml.NVMLError(code)

    return function


@pytest.fixture
def nvml(monkeypatch):
    """Replace functions of NVML, by their names without `nvml`; by default there are two GPUs."""
    state = {"open": 0}

    def replace(**functions: Any) -> dict[str, int]:
        for name, function in functions.items():
            monkeypatch.setattr(pynvml, f"nvml{name}", function)
        return state

    replace(
        Init=lambda: state.update(open=state["open"] + 1),
        Shutdown=lambda: state.update(open=state["open"] - 1),
        DeviceGetCount=lambda: 2,
        DeviceGetHandleByIndex=lambda number: number,
        DeviceGetName=lambda handle: f"NVIDIA A{handle}0",
        DeviceGetCudaComputeCapability=lambda handle: (8, handle),
        DeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=(24564 << 20) + 123),
        SystemGetDriverVersion=lambda: "570.86.15",
    )
    return replace


def look(tmp_path) -> Diagnosis:
    return diagnose(Workspace.at(tmp_path))


def test_the_gpus_that_the_driver_lists(nvml, tmp_path):
    state = nvml()
    diagnosis = look(tmp_path)
    assert diagnosis.gpus == [
        Gpu("NVIDIA A00", "8.0", "570.86.15", 24564),
        Gpu("NVIDIA A10", "8.1", "570.86.15", 24564),
    ]
    assert diagnosis.gpu_problem is None
    assert state["open"] == 0


@pytest.mark.parametrize(
    "unsupported",
    [
        {"DeviceGetMemoryInfo": fail(pynvml.NVML_ERROR_NOT_SUPPORTED)},
        {"Init": fail(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)},
        {"DeviceGetCount": lambda: 0},
    ],
)
def test_a_gpu_that_nvml_does_not_describe_is_described_by_cuda(
    nvml, unsupported, monkeypatch, tmp_path
):
    state = nvml(**unsupported)
    install(monkeypatch, device_name="Orin", compute_capability=(8, 7), memory=8 << 30)
    diagnosis = look(tmp_path)
    assert diagnosis.gpu_problem is None
    (gpu,) = diagnosis.gpus
    assert (gpu.name, gpu.compute_capability, gpu.memory_mib) == ("Orin", "8.7", 8192)
    assert gpu.driver.startswith("for CUDA ")
    assert state["open"] == 0


@pytest.mark.parametrize(
    ("functions", "reason"),
    [
        (
            {"Init": fail(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)},
            "NVML failed (NVML Shared Library Not Found)",
        ),
        ({"DeviceGetCount": lambda: 0}, "NVML lists no GPU"),
    ],
)
def test_why_there_is_no_gpu(nvml, functions, reason, monkeypatch, tmp_path):
    nvml(**functions)
    install(monkeypatch, no_device=True)
    diagnosis = look(tmp_path)
    assert diagnosis.gpus == []
    assert diagnosis.gpu_problem == f"{reason}; the NVIDIA driver finds no GPU"
