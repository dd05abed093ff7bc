"""The simulated GPU catches the mistakes that it is there to catch."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

from tests.engines.simulated import SimulatedCuda, SimulationError  # noqa: E402
from tests.engines.simulated.helpers import ok, streams  # noqa: E402

Error = real.cudaError_t
Kind = real.cudaMemcpyKind
VALUES = np.arange(16, dtype=np.float32)
GLOBAL = real.cudaStreamCaptureMode.cudaStreamCaptureModeGlobal


def pinned(cuda, size):
    address = ok(cuda.cudaMallocHost(size))
    return address, cuda.memory.pinned.view(address, size, "test").view(np.float32)


def test_every_function_is_a_real_one_with_its_arguments():
    names = [name for name in dir(SimulatedCuda) if name.startswith("cuda")]
    assert len(names) > 35
    for name in names:
        first = getattr(real, name).__doc__.splitlines()[0]
        given = re.fullmatch(rf"{name}\((.*)\)", first)[1]
        words = [part.split(":")[0].split()[-1] for part in given.split(",") if part.strip()]
        assert list(inspect.signature(getattr(SimulatedCuda, name)).parameters)[1:] == words


def test_what_the_real_module_has_not_does_not_exist_here():
    cuda = SimulatedCuda()
    assert cuda.cudaMemcpyKind is Kind
    with pytest.raises(AttributeError):
        _ = cuda.cudaNothing
    with pytest.raises(SimulationError, match="no cudaMallocAsync"):
        _ = cuda.cudaMallocAsync


def copy_through_two_streams(seed, *, wait):
    """Whether what one stream uploads arrives when another downloads it."""
    cuda = SimulatedCuda(seed=seed)
    first, second = streams(cuda)
    event = ok(cuda.cudaEventCreateWithFlags(real.cudaEventDisableTiming))
    address, host = pinned(cuda, 64)
    device, out = ok(cuda.cudaMalloc(64)), np.zeros(16, np.float32)
    host[:] = VALUES
    ok(cuda.cudaMemcpyAsync(device, address, 64, Kind.cudaMemcpyHostToDevice, first))
    ok(cuda.cudaEventRecord(event, first))
    if wait:
        ok(cuda.cudaStreamWaitEvent(second, event, 0))
    ok(cuda.cudaMemcpyAsync(out, device, 64, Kind.cudaMemcpyDeviceToHost, second))
    return np.array_equal(out, VALUES)


def test_a_missing_wait_shows():
    assert all(copy_through_two_streams(seed, wait=True) for seed in range(30))
    assert not all(copy_through_two_streams(seed, wait=False) for seed in range(30))


def test_overwriting_pinned_memory_too_early_shows():
    def arrives(seed, *, wait):
        cuda = SimulatedCuda(seed=seed)
        (stream,) = streams(cuda, 1)
        address, host = pinned(cuda, 64)
        device = ok(cuda.cudaMalloc(64))
        host[:] = VALUES
        ok(cuda.cudaMemcpyAsync(device, address, 64, Kind.cudaMemcpyHostToDevice, stream))
        if wait:
            ok(cuda.cudaStreamSynchronize(stream))
        host[:] = 0
        ok(cuda.cudaStreamSynchronize(stream))
        return cuda.read(device, 64) == VALUES.tobytes()

    assert all(arrives(seed, wait=True) for seed in range(30))
    assert not all(arrives(seed, wait=False) for seed in range(30))


def test_pageable_memory_is_staged_at_the_call():
    cuda = SimulatedCuda(busy=0)
    (stream,) = streams(cuda, 1)
    device, host = ok(cuda.cudaMalloc(64)), VALUES.copy()
    ok(cuda.cudaMemcpyAsync(device, host, 64, Kind.cudaMemcpyHostToDevice, stream))
    host[:] = 0
    ok(cuda.cudaStreamSynchronize(stream))
    assert cuda.read(device, 64) == VALUES.tobytes()


@pytest.mark.parametrize(
    ("offset", "count", "kind", "said"),
    [
        (4, 64, Kind.cudaMemcpyHostToDevice, "64 bytes at offset 4"),
        (4096, 4, Kind.cudaMemcpyHostToDevice, "in no device allocation"),
        (0, 64, Kind.cudaMemcpyDeviceToHost, "for a copy that is H2D"),
    ],
)
def test_a_wrong_copy_is_refused(offset, count, kind, said):
    cuda = SimulatedCuda()
    (stream,) = streams(cuda, 1)
    device = ok(cuda.cudaMalloc(64))
    with pytest.raises(SimulationError, match=said):
        cuda.cudaMemcpyAsync(device + offset, VALUES, count, kind, stream)
    assert len(cuda.mistakes) == 1


def test_freed_memory_and_destroyed_objects_are_known():
    cuda = SimulatedCuda()
    (stream,) = streams(cuda, 1)
    device = ok(cuda.cudaMalloc(64))
    ok(cuda.cudaFree(device))
    with pytest.raises(SimulationError, match="was freed"):
        cuda.cudaMemsetAsync(device, 0, 64, stream)
    with pytest.raises(SimulationError, match="freed already"):
        cuda.cudaFree(device)
    ok(cuda.cudaStreamDestroy(stream))
    with pytest.raises(SimulationError, match="a destroyed Stream"):
        cuda.cudaStreamSynchronize(stream)
    with pytest.raises(SimulationError, match="default stream"):
        cuda.cudaMemsetAsync(device, 0, 64, 0)


def test_leaks_are_found():
    cuda = SimulatedCuda()
    device = ok(cuda.cudaMalloc(64))
    with pytest.raises(SimulationError, match="cudaMalloc of 64 bytes"):
        cuda.assert_clean()
    ok(cuda.cudaFree(device))
    cuda.assert_clean()
    assert cuda.peak_bytes["device"] == 64


def test_memory_and_devices_run_out():
    cuda = SimulatedCuda(memory=100)
    assert cuda.cudaMalloc(101) == (Error.cudaErrorMemoryAllocation, None)
    assert cuda.cudaGetLastError() == (Error.cudaErrorMemoryAllocation,)
    assert SimulatedCuda(no_device=True).cudaGetDeviceCount() == (Error.cudaErrorNoDevice, None)
    old = SimulatedCuda(driver_too_old=True)
    assert old.cudaGetDeviceCount() == (Error.cudaErrorInsufficientDriver, None)


def test_events_have_real_semantics():
    cuda = SimulatedCuda(busy=0)
    first, second = streams(cuda)
    event, silent = (ok(cuda.cudaEventCreateWithFlags(flags)) for flags in (0, 2))
    ok(cuda.cudaStreamWaitEvent(second, event, 0))
    ok(cuda.cudaStreamSynchronize(second))
    ok(cuda.cudaEventRecord(event, first))
    while cuda.cudaEventQuery(event)[0] == Error.cudaErrorNotReady:
        pass
    ok(cuda.cudaEventRecord(silent, first))
    ok(cuda.cudaStreamSynchronize(first))
    assert cuda.cudaEventElapsedTime(event, silent)[0] == Error.cudaErrorInvalidResourceHandle
    assert ok(cuda.cudaEventElapsedTime(event, event)) == 0


def test_a_capture_records_and_forbids_to_synchronise():
    cuda = SimulatedCuda()
    first, second = streams(cuda)
    device = ok(cuda.cudaMalloc(64))
    event = ok(cuda.cudaEventCreateWithFlags(real.cudaEventDisableTiming))
    back = ok(cuda.cudaEventCreateWithFlags(real.cudaEventDisableTiming))

    def record(join):
        ok(cuda.cudaStreamBeginCapture(first, GLOBAL))
        ok(cuda.cudaEventRecord(event, first))
        ok(cuda.cudaStreamWaitEvent(second, event, 0))
        ok(cuda.cudaMemsetAsync(device, 7, 64, second))
        ok(cuda.cudaEventRecord(back, second))
        if join:
            ok(cuda.cudaStreamWaitEvent(first, back, 0))
        return cuda.cudaStreamEndCapture(first)

    assert record(join=False)[0] == Error.cudaErrorStreamCaptureUnjoined
    graph = ok(record(join=True))
    launchable = ok(cuda.cudaGraphInstantiate(graph, 0))
    ok(cuda.cudaGraphDestroy(graph))
    assert cuda.read(device, 4) == b"\xff" * 4
    ok(cuda.cudaGraphLaunch(launchable, first))
    ok(cuda.cudaStreamSynchronize(first))
    assert cuda.read(device, 4) == b"\x07" * 4
    ok(cuda.cudaGraphExecDestroy(launchable))
    with pytest.raises(SimulationError, match="destroyed Exec"):
        cuda.cudaGraphLaunch(launchable, first)
    ok(cuda.cudaStreamBeginCapture(first, GLOBAL))
    assert cuda.cudaMalloc(64)[0] == Error.cudaErrorStreamCaptureUnsupported
    assert cuda.cudaStreamEndCapture(first)[0] == Error.cudaErrorStreamCaptureInvalidated


def test_what_a_finalizer_frees_inside_another_call_is_freed_after_it():
    cuda = SimulatedCuda(busy=0)
    (stream,) = streams(cuda, 1)
    kept, dropped = ok(cuda.cudaMalloc(64)), ok(cuda.cudaMalloc(64))
    seen = []

    def collected():
        ok(cuda.cudaFree(dropped))
        seen.append(len(cuda.memory.device.live))

    with cuda.locked():
        cuda.enqueue(cuda.stream(stream), "collect", collected)
    ok(cuda.cudaMemsetAsync(kept, 0, 64, stream))
    ok(cuda.cudaStreamSynchronize(stream))
    assert seen == [2]
    assert cuda.live()["device_allocations"] == 1
