"""Arrays of other libraries on the device are read where they lie, and ours by them."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.chains import device_chain
from tests.engines.simulated import install
from tests.engines.simulated.plans import engines, on_device
from tests.graph.onnx_graphs import classifier, run
from trtkit.engines.cuda import dlpack
from trtkit.engines.cuda.array import device_view
from trtkit.engines.cuda.device import Stream
from trtkit.errors import TrtkitError

PHOTOS = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
CPU = (1, 0)
DTYPES = ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"]


class Interface:
    """An array of another library, as pycuda's GPUArray and CuPy's ndarray show themselves."""

    def __init__(self, tensor, **changes):
        self.owner = tensor
        self.__cuda_array_interface__ = {**tensor.__cuda_array_interface__, **changes}


class Capsule:
    """An array of another library that has DLPack alone."""

    def __init__(self, tensor):
        self.owner = tensor
        self.asked = []

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, *, stream=None):
        self.asked.append(stream)
        return self.owner.__dlpack__(stream=stream)


@pytest.mark.parametrize("wrap", [lambda tensor: tensor, Interface, Capsule])
def test_a_chain_reads_another_library_s_array_where_it_lies(monkeypatch, tmp_path, wrap):
    simulation = install(monkeypatch)
    chain = device_chain(engines(tmp_path))
    given_array = wrap(on_device(PHOTOS))
    chain.on_device(given_array)
    simulation.cuda.log.clear()
    logits = chain.on_device(given_array)
    assert not [kind for _, kind in simulation.cuda.log if kind.startswith("memcpy")]
    expected = run(classifier(), PHOTOS)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-5)
    if isinstance(given_array, Capsule):
        assert all(isinstance(stream, int) and stream > 2 for stream in given_array.asked)


@pytest.mark.parametrize("seed", range(8))
def test_the_engine_waits_for_whoever_fills_the_array(monkeypatch, tmp_path, seed):
    install(monkeypatch, seed=seed, busy=0.0)
    whole = engines(tmp_path, cut=False)[0]
    stream = Stream()
    late = on_device(PHOTOS, stream)
    output = whole.run({"x": late})["g"]
    np.testing.assert_allclose(output.numpy(), run(classifier(), PHOTOS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("named", [True, False])
def test_an_interface_is_waited_for_by_the_stream_it_names_or_else_altogether(
    monkeypatch, tmp_path, named, seed
):
    install(monkeypatch, seed=seed, busy=0.0)
    whole = engines(tmp_path, cut=False)[0]
    stream = Stream()
    late = on_device(PHOTOS, stream)
    other = Interface.__new__(Interface)
    other.__cuda_array_interface__ = {
        "shape": late.shape, "typestr": "<f4", "data": (late.pointer, False),
        **({"version": 3, "stream": stream.pointer} if named else {"version": 2}),
    }  # fmt: skip
    output = whole.run({"x": other})["g"]
    np.testing.assert_allclose(output.numpy(), run(classifier(), PHOTOS), rtol=1e-4, atol=1e-5)


def test_dlpack_goes_before_an_interface_that_names_no_stream(monkeypatch):
    install(monkeypatch)

    class Torch(Capsule):
        @property
        def __cuda_array_interface__(self):
            raise AssertionError("torch's interface does not say what to wait for")

    tensor = Torch(on_device(PHOTOS))
    view = device_view(tensor, Stream())
    assert (view.pointer, view.shape) == (tensor.owner.pointer, PHOTOS.shape)
    assert len(tensor.asked) == 1


def test_what_an_engine_cannot_take(monkeypatch, tmp_path):
    install(monkeypatch)
    whole = engines(tmp_path, cut=False)[0]
    with pytest.raises(TrtkitError, match="takes x float32 N x 3 x 8 x 8, not float64"):
        whole.run({"x": on_device(PHOTOS.astype(np.float64))})
    with pytest.raises(TrtkitError, match="takes x float32 .* not float32 4 x 3 x 8 x 7"):
        whole.run({"x": PHOTOS[..., :7]})
    with pytest.raises(TrtkitError, match="available: y; pass it by that name"):
        whole.run({"y": PHOTOS})
    with pytest.raises(TrtkitError, match="whole takes batches of 1 to 8, not 9"):
        whole.run({"x": np.concatenate([PHOTOS, PHOTOS, PHOTOS[:1]])})
    with pytest.raises(TrtkitError, match="Engines read contiguous arrays, not .*; copy it"):
        whole.run({"x": Interface(on_device(PHOTOS), strides=(768, 256, 4, 32))})

    class Turned:
        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, **options):
            return torch.zeros(3, 4).T.__dlpack__()

    with pytest.raises(
        TrtkitError, match=r"not one of shape \(4, 3\) with strides \(1, 4\); copy it"
    ):
        device_view(Turned(), Stream())
    plain = np.ascontiguousarray(PHOTOS)
    assert device_view(plain, Stream()) is None
    assert device_view(torch.from_numpy(plain), Stream()) is None, "torch on the CPU"


def test_memory_lives_as_long_as_somebody_shows_it(monkeypatch):
    simulation = install(monkeypatch)
    tensor = on_device(PHOTOS)
    held = device_view(Capsule(tensor), Stream())
    alive = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert alive() is not None
    del held
    gc.collect()
    assert alive() is None
    simulation.cuda.assert_clean()


@given(
    hnp.arrays(
        st.sampled_from(DTYPES), hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
    )
)
@settings(max_examples=80, deadline=None)
def test_a_capsule_is_what_other_libraries_understand(array):
    array = np.ascontiguousarray(array)

    class Producer:
        def __dlpack__(self, **options):
            return dlpack.make_capsule(
                array.ctypes.data, array.shape, array.dtype.name, CPU, owner=array
            )

        def __dlpack_device__(self):
            return CPU

    theirs = np.from_dlpack(Producer())
    assert theirs.dtype == array.dtype
    np.testing.assert_array_equal(theirs, array)
    if array.size:
        assert theirs.ctypes.data == array.ctypes.data
        assert torch.from_dlpack(Producer()).data_ptr() == array.ctypes.data
    taken = dlpack.take_capsule(array.__dlpack__())
    assert (taken.shape, taken.dtype) == (array.shape, array.dtype.name)
    assert not array.size or taken.pointer == array.ctypes.data


def test_capsules_are_let_go_used_or_not():
    before = len(dlpack._alive)
    array = np.arange(6, dtype=np.int32)
    unused = dlpack.make_capsule(array.ctypes.data, (6,), "int32", CPU, owner=array)
    used = dlpack.take_capsule(
        dlpack.make_capsule(array.ctypes.data, (6,), "int32", CPU, owner=array)
    )
    assert len(dlpack._alive) == before + 2
    del unused
    assert len(dlpack._alive) == before + 1
    del used
    gc.collect()
    assert len(dlpack._alive) == before


def test_a_torch_tensor_with_strides_is_told_apart():
    taken = dlpack.take_capsule(torch.arange(12.0).reshape(3, 4).T.__dlpack__())
    assert (taken.shape, taken.strides) == ((4, 3), (1, 4))


def test_a_complex_array_is_refused():
    with pytest.raises(
        TrtkitError, match="Engines take integers and floats of 8 to 64 bits, not .* DLPack type 5"
    ):
        dlpack.take_capsule(torch.zeros(2, dtype=torch.complex64).__dlpack__())
