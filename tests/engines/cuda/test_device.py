"""What is said when there is no GPU, or not enough of it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engines.simulated import install
from trtkit.engines.cuda import device
from trtkit.engines.cuda.device import CudaError, Event, Stream
from trtkit.engines.cuda.memory import DeviceMemory, pinned
from trtkit.errors import TrtkitError


def no_gpu():
    return device.missing() is not None


@pytest.mark.skipif(not no_gpu(), reason="there is a GPU here")
def test_the_real_bindings_without_a_gpu():
    assert device.missing() in ("there is no NVIDIA driver", "the NVIDIA driver finds no GPU")
    with pytest.raises(CudaError, match=r"No GPU can be used: .*; `trtkit doctor` shows it\.$"):
        device.current_card()
    with pytest.raises(CudaError, match=r"cudaStreamCreateWithFlags failed: .*\(cudaError"):
        Stream()


def test_a_card_is_what_the_driver_says(monkeypatch):
    install(monkeypatch, device_name="NVIDIA Test", compute_capability=(9, 0), memory=5 << 30)
    card = device.current_card()
    assert (card.name, card.capability, card.memory) == ("NVIDIA Test", "9.0", 5 << 30)
    assert str(card) == "NVIDIA Test (compute capability 9.0)"
    assert device.missing() is None
    assert device.driver_version() == "13.0"


def test_a_driver_that_is_too_old_is_told_from_none(monkeypatch):
    simulation = install(monkeypatch, driver_too_old=True)
    monkeypatch.setattr(
        simulation.cuda, "cudaDriverGetVersion", lambda: (device.bindings().cudaError_t(0), 12020)
    )
    assert device.missing() == (
        "the NVIDIA driver is too old: it offers CUDA 12.2, and cuda-python here is for 13.0"
    )
    monkeypatch.setattr(
        simulation.cuda, "cudaDriverGetVersion", lambda: (device.bindings().cudaError_t(0), 0)
    )
    assert device.missing() == "there is no NVIDIA driver"


def test_no_driver_with_older_bindings(monkeypatch):
    simulation = install(monkeypatch)

    def count():
        raise RuntimeError('Function "cuInit" not found')

    monkeypatch.setattr(simulation.cuda, "cudaGetDeviceCount", count)
    assert device.missing() == "there is no NVIDIA driver"


def test_no_device(monkeypatch):
    install(monkeypatch, no_device=True)
    assert device.missing() == "the NVIDIA driver finds no GPU"


def test_without_cuda_python(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings.runtime", None)
    assert "Using the GPU needs cuda-python" in device.missing()
    with pytest.raises(CudaError, match=r"run `pip install 'trtkit\[tensorrt\]'`"):
        device.bindings()


def test_device_memory_that_runs_out(monkeypatch):
    simulation = install(monkeypatch, memory=4 << 20)
    held = DeviceMemory(3 << 20, "the first")
    with pytest.raises(
        TrtkitError,
        match=r"not enough device memory for the second: 2\.0 MiB are needed, 1\.0 MiB of 4\.0 MiB are "
        r"free; lower --batch",
    ):
        DeviceMemory(2 << 20, "the second")
    held.close()
    DeviceMemory(2 << 20, "the third")
    del held
    simulation.cuda.assert_clean()


def test_pinned_memory_lives_as_long_as_a_view_of_it(monkeypatch):
    simulation = install(monkeypatch)
    array = pinned((4, 3), "float16", "a test")
    assert (array.shape, array.dtype) == ((4, 3), np.float16)
    view = array[1:, :2]
    del array
    assert simulation.cuda.live()["pinned_bytes"] == 24
    view[...] = 1.0
    del view
    assert simulation.cuda.live()["pinned_bytes"] == 0


def test_times_are_the_device_s(monkeypatch):
    install(monkeypatch)
    stream, start, end = Stream(), Event(timing=True), Event(timing=True)
    start.record(stream)
    end.record(stream)
    end.synchronize()
    assert 0.0 <= end.seconds_since(start) < 5.0
    with pytest.raises(CudaError, match="cudaEventElapsedTime failed"):
        end.seconds_since(Event(timing=True))
