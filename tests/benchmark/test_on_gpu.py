"""The baselines of a GPU where there is none: simulated, or the same code on the CPU.

What torch, ONNX Runtime and TensorRT do on a real one is in tests/gpu.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import trtkit
from tests.chains import with_roles
from tests.engines.simulated import install
from tests.engines.simulated.plans import engines
from tests.graph.onnx_graphs import classifier, run
from tests.pictures import write_photos
from trtkit.benchmark import onnxruntime_networks, tensorrt_engines, torch_networks
from trtkit.benchmark.baselines import load_network
from trtkit.benchmark.competitors import load
from trtkit.benchmark.kinds import KINDS, TorchMode
from trtkit.benchmark.network import merged, source_graphs
from trtkit.benchmark.onnxruntime_networks import CPU, onnxruntime_on_device
from trtkit.benchmark.spec import COMPUTE, END_TO_END, Spec
from trtkit.benchmark.tensorrt_engines import PlacedEngines
from trtkit.benchmark.torch_networks import torch_network
from trtkit.bundle import read_manifest
from trtkit.cpu import usable_cores
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError
from trtkit.photos.samples import generate_images
from trtkit.workspace import Workspace

PHOTOS = np.random.default_rng(0).standard_normal((7, 3, 8, 8)).astype(np.float32)
LOGITS = run(classifier(), PHOTOS)


# torch and ONNX Runtime, with the CPU as their device.


pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture(scope="module")
def exported(built):
    folder = Workspace(built).bundles()[0]
    manifest = read_manifest(folder)
    return source_graphs(folder, manifest, "resnet18"), generate_images(
        3, manifest.preprocessing, seed=1
    )


@pytest.fixture(scope="module")
def expected(exported):
    parts, images = exported
    return load_network("onnxruntime", parts, classes=1000, threads=1, examples=[images]).logits(
        images
    )


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class FakeEvent:
    """torch.cuda.Event: the second of two is 1.5 ms later than the first."""

    now = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at: float | None = None

    def record(self) -> None:
        FakeEvent.now += 1.5
        self.at = FakeEvent.now

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at - self.at


@pytest.mark.parametrize("half", [False, True])
def test_torch_in_either_precision(exported, expected, monkeypatch, half):
    parts, images = exported
    network = torch_network(TorchMode("cpu", half=half), parts, 1000, 1, [images])
    logits = network.logits(images)
    assert (logits.dtype, logits.shape) == (np.float32, expected.shape)
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    # Half precision is half precision.
    assert (1e-5 < error < 4e-2) if half else error < 1e-5
    assert network.note.split(":")[0] in ("contiguous", "channels_last")


def test_torch_tells_the_time_of_its_events(exported, monkeypatch):
    _, images = exported
    forwarded, waited = [], []
    placed = torch_networks.PlacedNetwork(torch.nn.Flatten(), TorchMode("cpu"))
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(len(forwarded)))
    monkeypatch.setattr(placed, "_run", lambda x: forwarded.append(x))
    batches = [placed.place(images), placed.place(images[:1])]
    assert placed.seconds(batches) == pytest.approx(2 * 0.0015)
    # What was measured is what was placed, and the events were waited for once all was queued.
    assert forwarded == batches and waited == [2]


@pytest.fixture
def torch_settings():
    """What torch computes in on a GPU, put back at the end. These objects refuse monkeypatch."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    yield matmul, cudnn
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def test_torch_on_a_gpu_is_asked_for_fp32_that_is_fp32(monkeypatch, torch_settings):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    matmul, cudnn = torch_settings
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    torch_networks._prepare_cuda()
    assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (False, False, True)


def test_a_torch_that_sees_no_gpu_says_so(exported, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    parts, images = exported
    for kind in ("torch-cuda", "torch-cuda-fp16", "torch-cuda-compile"):
        assert KINDS[kind].torch.device == "cuda"
        with pytest.raises(TrtkitError, match="finds no GPU that it can use here"):
            load_network(kind, parts, classes=1000, threads=1, examples=[images])


class TinyNetwork(torch.nn.Module):
    """Stands in for a torchvision model; too large for the memory from the fourth image on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 1)
        self.batches: list[torch.Size] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 3:
            raise torch.cuda.OutOfMemoryError
        self.batches.append(images.shape)
        return self.layer(images).flatten(1)


@pytest.fixture
def torchvision_spec(monkeypatch, torch_settings):
    """A GPU that is this CPU, and the spec of a model on it."""
    import torchvision

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    for name, value in (("synchronize", None), ("empty_cache", None), ("get_device_name", "Card")):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    # cuDNN's version is looked up by the cards that it is for.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card: (9, 0))
    monkeypatch.setattr(torchvision.models, "get_model", lambda name: TinyNetwork())
    randn = torch.randn
    monkeypatch.setattr(
        torch_networks, "TorchMode", lambda device, **options: TorchMode("cpu", **options)
    )
    monkeypatch.setattr(torch, "randn", lambda shape, device, dtype: randn(shape, dtype=dtype))
    return {
        "model": "tiny", "image_size": 8, "batch": 2, "half": False, "compiled": False,
        "sample_seconds": 0.006, "most_repeats": 200,
    }  # fmt: skip


@pytest.mark.parametrize("half", [False, True])
def test_a_torchvision_model_is_timed_by_itself(torchvision_spec, half):
    work = torch_networks.TorchvisionModel({**torchvision_spec, "half": half})
    network = work._network._network
    assert work.facts["card"] == "Card" and work.facts["torch"] == torch.__version__
    # 1.5 ms a batch, so that four fill a sample; a round is one of them.
    before = len(network.batches)
    assert work.run() == pytest.approx(0.0015)
    assert network.batches[before:] == [(2, 3, 8, 8)] * 4
    dtype = torch.float16 if half else torch.float32
    assert network.layer.weight.dtype == dtype
    assert network.layer.weight.is_contiguous(memory_format=torch.channels_last) or not half
    assert (work.images, work.labels()) == (2, [])
    work.close()


def test_a_torchvision_model_that_does_not_fit_says_so(torchvision_spec):
    with pytest.raises(TrtkitError, match=r"^out of device memory$"):
        torch_networks.TorchvisionModel({**torchvision_spec, "batch": 4})


def test_onnxruntime_runs_on_what_lies_on_its_device(exported, expected, monkeypatch):
    parts, images = exported
    network = onnxruntime_on_device(merged(parts), 1, CPU, "cpu")
    np.testing.assert_allclose(network.logits(images), expected, rtol=1e-4, atol=1e-4)
    times = iter([10.0, 10.5])
    monkeypatch.setattr(onnxruntime_networks.time, "perf_counter", lambda: next(times))
    placed = [network.on_device.place(images), network.on_device.place(images[:1])]
    assert network.on_device.seconds(placed) == 0.5
    for binding, count in zip(placed, (3, 1), strict=True):
        outputs = binding.get_outputs()[0].numpy()
        np.testing.assert_allclose(outputs, expected[:count], rtol=1e-4, atol=1e-4)


def test_onnxruntime_that_would_take_the_cpu_in_silence_is_refused(exported, monkeypatch):
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is without CUDA")
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    real = onnxruntime.InferenceSession
    # As it does by itself where CUDA cannot be loaded.
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda m, o, providers: real(m, o, providers=[CPU])
    )
    with pytest.raises(TrtkitError, match="cannot use the GPU here"):
        onnxruntime_on_device(merged(exported[0]), 1)


# TensorRT, simulated.


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("profiles", [((1, 4, 8),), ((3, 4, 8),)])
def test_engines_run_on_what_was_placed(monkeypatch, tmp_path, cut, profiles):
    simulation = install(monkeypatch)
    placed = PlacedEngines(with_roles(engines(tmp_path, profiles=profiles, cut=cut)), rows=4)
    batches = [placed.place(PHOTOS[:4]), placed.place(PHOTOS[4:])]
    for _ in range(4):
        assert placed.seconds(batches) > 0
        np.testing.assert_allclose(placed.logits(PHOTOS[4:]), LOGITS[4:], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(placed.logits(PHOTOS[:4]), LOGITS[:4], rtol=1e-4, atol=1e-5)
    # From the second time on as the recorded graphs that the chain runs.
    assert simulation.cuda.launches > 0
    placed.close()
    del placed, batches
    simulation.cuda.assert_clean()


def test_only_the_engines_are_between_the_events(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    placed = PlacedEngines(with_roles(engines(tmp_path)), rows=4)
    batches = [placed.place(PHOTOS[:4]), placed.place(PHOTOS[4:])]
    for _ in range(2):
        placed.seconds(batches)
    simulation.cuda.log.clear()
    placed.seconds(batches)
    kinds = [kind for _, kind in simulation.cuda.log]
    assert len({stream for stream, _ in simulation.cuda.log}) == 1
    # Prefix and tail, each recorded; what brings a batch to where the prefix reads it is before.
    engine = ["graph begin", "engine begin", "engine end", "graph end"]
    assert kinds == ["memcpy D2D", "record", *engine, *engine, "record"] * 2


@pytest.mark.parametrize("graphs", [True, False])
def test_what_fills_the_input_is_repeated(monkeypatch, tmp_path, graphs):
    simulation = install(monkeypatch)
    placed = PlacedEngines(with_roles(engines(tmp_path)), rows=4, graphs=graphs)
    placed.fill(PHOTOS[:4])
    # Prefix and tail.
    assert placed.recorded == (2 if graphs else 0)
    simulation.cuda.log.clear()
    assert placed.device_seconds(4, 3) > 0
    kinds = [kind for _, kind in simulation.cuda.log if kind in ("record", "engine begin")]
    assert kinds == ["record", *["engine begin"] * 6, "record"]
    assert placed.host_seconds(4, 2) > 0
    assert len(placed.buffers) == 3


@pytest.fixture
def gpu_bundle(monkeypatch, make_workspace):
    install(monkeypatch)
    place = make_workspace("resnet18")
    options = BuildOptions.for_batches([(1, 2, 4)])
    report = trtkit.build(
        cut=2, precision="fp16", options=options, verify_images=2, workspace=place.root
    )
    assert report.manifest.backend == "tensorrt"
    return report.folder


@pytest.fixture
def spec(gpu_bundle, tmp_path):
    write_photos(tmp_path / "photos", count=3, size=(80, 70))
    photos = tuple(str(path) for path in sorted((tmp_path / "photos").iterdir()))
    (tmp_path / "kept").mkdir()

    def make(kind: str, measure: str, **changes) -> Spec:
        options = {"batch": 2, "threads": usable_cores(), "built_dir": str(tmp_path / "kept")}
        return Spec(kind, measure, str(gpu_bundle), "resnet18", photos, **(options | changes))

    return make


def test_the_unsplit_engine_is_the_bundle_s_model_in_its_precision(spec, gpu_bundle, tmp_path):
    labels = []
    for kind in ("trtkit", "tensorrt", "onnxruntime"):
        for measure in (COMPUTE, END_TO_END):
            ready = load(spec(kind, measure))
            # The GPU's own time; what begins with files is timed by who waits for it.
            seconds = ready.run()
            assert (seconds is not None and seconds > 0) == (
                measure == COMPUTE and kind != "onnxruntime"
            )
            labels.append(ready.labels())
            ready.close()
    assert len(labels[0]) == 3 and labels == labels[:1] * 6
    plans = list((tmp_path / "kept").glob("*.plan"))
    assert len(plans) == 1
    record = json.loads(plans[0].with_suffix(".json").read_text())
    assert record["flags"]["profiles"] == [[1, 2, 4]]
    assert record["inspector"]["fp16"] == record["inspector"]["heavy"] > 0
    # The timings of the bundle's build were taken, and the workspace was left as it was.
    assert (tmp_path / "kept" / ".timing-cache").is_dir()
    assert {path.name for path in gpu_bundle.iterdir()} == {
        "bundle.json",
        *(name for stage in read_manifest(gpu_bundle).stages for name in stage.files()),
    }


def test_the_unsplit_engine_is_built_once(spec, monkeypatch):
    load(spec("tensorrt", COMPUTE)).close()

    def build(*arguments):
        raise AssertionError("it was built again")

    monkeypatch.setattr(tensorrt_engines, "_build", build)
    load(spec("tensorrt", COMPUTE, batch=1)).close()
    with pytest.raises(TrtkitError, match="takes batches of .*, not 5"):
        load(spec("tensorrt", COMPUTE, batch=5))


def test_without_a_tensorrt_that_runs_there_is_no_engine(built, monkeypatch, tmp_path):
    folder = Workspace(built).bundles()[0]
    manifest = read_manifest(folder)
    install(monkeypatch, no_device=True)
    with pytest.raises(
        TrtkitError,
        match="^TensorRT cannot build an engine here: no TensorRT here runs on this GPU;",
    ):
        tensorrt_engines.unsplit_engine(folder, manifest, manifest.tails[0], Path(tmp_path))
