"""The simulated TensorRT catches the mistakes that it is there to catch, in every version."""

from __future__ import annotations

import importlib
import importlib.util
import json

import numpy as np
import pytest

real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

from onnx import TensorProto, helper  # noqa: E402

from tests.engines.simulated import VERSIONS, SimulationError, install, make_tensorrt  # noqa: E402
from tests.engines.simulated.api import LISTS  # noqa: E402
from tests.engines.simulated.helpers import ok, streams  # noqa: E402
from tests.graph.onnx_graphs import classifier, make_model, run  # noqa: E402

Error = real.cudaError_t
Kind = real.cudaMemcpyKind
SHAPE = (2, 3, 8, 8)
GLOBAL = real.cudaStreamCaptureMode.cudaStreamCaptureModeGlobal


def built(simulation, model=None, *, verbosity="DETAILED", flags=(), monitor=None):
    """The plan of a model, the classifier by default, or None."""
    trt = simulation.trt
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    creation = trt.NetworkDefinitionCreationFlag
    batch = 1 << int(creation.EXPLICIT_BATCH) if hasattr(creation, "EXPLICIT_BATCH") else 0
    network = builder.create_network(batch)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse((model or classifier()).SerializeToString())
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.profiling_verbosity = getattr(trt.ProfilingVerbosity, verbosity)
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if monitor is not None:
        config.progress_monitor = monitor
    profile = builder.create_optimization_profile()
    shape = tuple(network.get_input(0).shape)[1:]
    profile.set_shape(network.get_input(0).name, (1, *shape), (2, *shape), (4, *shape))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def loaded(simulation, plan):
    trt = simulation.trt
    return trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)


class Prepared:
    """A context on its own stream, with its buffers, that may use scratch memory given to it."""

    def __init__(self, simulation, engine, scratch=None):
        self.cuda = cuda = simulation.cuda
        self.trt = trt = simulation.trt
        (self.stream,) = streams(cuda, 1)
        self.buffers = {name: ok(cuda.cudaMalloc(2 * 192 * 4)) for name in ("x", "g")}
        if scratch is None:
            self.context = engine.create_execution_context()
        elif hasattr(trt, "ExecutionContextAllocationStrategy"):
            strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            self.context = engine.create_execution_context(strategy)
        else:
            self.context = engine.create_execution_context_without_device_memory()
        if scratch is not None:
            self.context.device_memory = scratch
        assert self.context.set_input_shape("x", SHAPE)
        for name, address in self.buffers.items():
            assert self.context.set_tensor_address(name, address)

    def upload(self, images):
        kind = Kind.cudaMemcpyHostToDevice
        ok(self.cuda.cudaMemcpyAsync(self.buffers["x"], images, images.nbytes, kind, self.stream))

    def execute(self):
        return self.context.execute_async_v3(int(self.stream))

    def download(self):
        out = np.empty(tuple(self.context.get_tensor_shape("g")), np.float32)
        kind = Kind.cudaMemcpyDeviceToHost
        ok(self.cuda.cudaMemcpyAsync(out, self.buffers["g"], out.nbytes, kind, self.stream))
        ok(self.cuda.cudaStreamSynchronize(self.stream))
        return out

    def close(self):
        del self.context
        for address in self.buffers.values():
            ok(self.cuda.cudaFree(address))
        ok(self.cuda.cudaStreamDestroy(self.stream))


def single(op, *, opset=17, dtype=TensorProto.FLOAT, **attributes):
    """A model of one node, and behind it a Cast to float."""
    nodes = [
        helper.make_node(op, ["x"], ["y"], "only", **attributes),
        helper.make_node("Cast", ["y"], ["g"], "cast", to=TensorProto.FLOAT),
    ]
    shape = ["N", 3, 8, 8]
    return make_model(nodes, shape, ("g", shape), dtype=dtype, opset=opset)


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_and_runs(version, monkeypatch, images):
    simulation = install(monkeypatch, version)
    name = simulation.trt.__name__
    assert importlib.import_module(name) is simulation.trt
    assert importlib.util.find_spec(name) is not None
    plan = built(simulation)
    assert plan.nbytes == len(bytes(plan))
    engine = loaded(simulation, plan)
    assert engine.get_tensor_profile_shape("x", 0)[2] == (4, 3, 8, 8)
    prepared = Prepared(simulation, engine)
    prepared.upload(images)
    assert prepared.execute()
    assert np.allclose(prepared.download(), run(classifier(), images), atol=1e-5)
    inspector = engine.create_engine_inspector()
    said = inspector.get_engine_information(simulation.trt.LayerInformationFormat.JSON)
    first = json.loads(said)["Layers"][0]
    assert first["Name"] == "conv1 + relu1"
    assert first["Inputs"][0]["Format/Datatype"] == "Row major linear FP32"
    prepared.close()
    del inspector, prepared, engine
    simulation.cuda.assert_clean()


@pytest.mark.parametrize(
    ("version", "owner", "name"),
    [
        ("11.4.0.106", "BuilderFlag", "FP16"),
        ("rtx1.7", "BuilderFlag", "FP16"),
        ("8.5.3.1", "IBuilderConfig", "builder_optimization_level"),
        ("11.4.0.106", "ILayer", "precision"),
        ("8.6.1", "DataType", "INT64"),
        ("11.4.0.106", "ICudaEngine", "device_memory_size"),
    ],
)
def test_what_a_version_lacks_does_not_exist(version, owner, name, monkeypatch):
    trt = install(monkeypatch, version).trt
    with pytest.raises(AttributeError):
        getattr(getattr(trt, owner), name)


def test_unknown_names_cannot_be_set(monkeypatch):
    trt = install(monkeypatch, "8.5.3.1").trt
    config = trt.Builder(trt.Logger()).create_builder_config()
    for name in ("builder_optimization_level", "progress_monitor", "nothing"):
        with pytest.raises(AttributeError):
            setattr(config, name, 3)
    assert not hasattr(trt, "IProgressMonitor")
    with pytest.raises(TypeError):
        _ = 1 << trt.BuilderFlag.FP16
    with pytest.raises(SimulationError, match=r"no IBuilderConfig\.algorithm_selector"):
        _ = config.algorithm_selector


def test_a_damaged_or_foreign_plan_is_refused(monkeypatch):
    simulation = install(monkeypatch)
    plan = bytes(built(simulation))
    for damaged in (plan[:-1], plan[:20], b"", plan[:-9] + bytes([plan[-9] ^ 1]) + plan[-8:]):
        assert loaded(simulation, damaged) is None
    assert len([text for kind, text in simulation.library.messages if kind == "ERROR"]) == 4
    assert loaded(install(monkeypatch, "10.16.1.11"), plan) is None
    assert loaded(install(monkeypatch, compute_capability=(7, 5)), plan) is None
    assert loaded(install(monkeypatch), plan) is not None


def test_scratch_memory_shared_by_two_streams_is_noticed(monkeypatch):
    def runs(seed, *, wait):
        simulation = install(monkeypatch, seed=seed)
        cuda, engine = simulation.cuda, loaded(simulation, plan)
        scratch = ok(cuda.cudaMalloc(engine.device_memory_size))
        both = [Prepared(simulation, engine, scratch) for _ in range(2)]
        for prepared in both:
            assert prepared.execute()
            if wait:
                ok(cuda.cudaStreamSynchronize(prepared.stream))
        try:
            ok(cuda.cudaDeviceSynchronize())
        except SimulationError as error:
            assert "scratch memory used by two engines at once" in str(error)
            return False
        return True

    plan = bytes(built(install(monkeypatch)))
    assert all(runs(seed, wait=True) for seed in range(10))
    assert not all(runs(seed, wait=False) for seed in range(10))


def test_an_execution_in_a_graph(monkeypatch, images):
    simulation = install(monkeypatch)
    cuda, engine = simulation.cuda, loaded(simulation, built(simulation))
    prepared = Prepared(simulation, engine)
    ok(cuda.cudaStreamBeginCapture(prepared.stream, GLOBAL))
    assert not prepared.execute()
    assert cuda.cudaStreamEndCapture(prepared.stream)[0] == Error.cudaErrorStreamCaptureInvalidated
    assert prepared.execute()
    ok(cuda.cudaStreamBeginCapture(prepared.stream, GLOBAL))
    assert prepared.execute()
    graph = ok(cuda.cudaStreamEndCapture(prepared.stream))
    launchable = ok(cuda.cudaGraphInstantiate(graph, 0))
    for scale in (1, 2):
        prepared.upload(images * scale)
        ok(cuda.cudaGraphLaunch(launchable, prepared.stream))
        assert np.allclose(prepared.download(), run(classifier(), images * scale), atol=1e-5)
    assert (cuda.captures, cuda.launches) == (1, 2)


def test_shapes_outside_the_profile_and_missing_addresses_are_refused(monkeypatch):
    simulation = install(monkeypatch)
    context = loaded(simulation, built(simulation)).create_execution_context()
    (stream,) = streams(simulation.cuda, 1)
    assert not context.set_input_shape("x", (5, 3, 8, 8))
    assert context.infer_shapes() == ["x"]
    assert context.set_input_shape("x", SHAPE)
    assert not context.execute_async_v3(int(stream))
    assert "addresses are not set" in simulation.library.messages[-1][1]


@pytest.mark.parametrize(
    ("version", "flags", "deliver", "format"),
    [
        ("8.6.1", ("FP16",), None, "FP16"),
        ("8.6.1", (), None, "FP32"),
        ("10.3.0", ("FP16",), "fp32", "FP32"),
    ],
)
def test_what_precision_a_build_delivers(version, flags, deliver, format, monkeypatch):
    simulation = install(monkeypatch, version, deliver=deliver)
    engine = loaded(simulation, built(simulation, flags=flags))
    information = engine.create_engine_inspector().get_engine_information(
        simulation.trt.LayerInformationFormat.JSON
    )
    assert format in json.loads(information)["Layers"][0]["Inputs"][0]["Format/Datatype"]


def test_builds_fail_as_real_ones_do(monkeypatch):
    simulation = install(monkeypatch, fail_build=True)
    assert built(simulation) is None
    assert "any implementation for node conv1" in simulation.library.messages[-1][1]
    simulation.library.fail_build = False

    class Cancel(simulation.trt.IProgressMonitor):
        def step_complete(self, phase_name, step):
            return False

    assert built(simulation, monitor=Cancel()) is None
    assert built(simulation) is not None


@pytest.mark.parametrize(
    ("version", "model", "said"),
    [
        (
            "10.3.0",
            single("Einsum", equation="nchw->nchw"),
            "No importer registered for op: Einsum",
        ),
        ("8.6.1", single("Relu", opset=18), "opset 18 is not supported"),
        ("11.4.0.106", single("Identity", dtype=TensorProto.UINT8), "first input has type UInt8"),
    ],
)
def test_the_parser_refuses_what_it_does_not_know(version, model, said, monkeypatch):
    with pytest.raises(AssertionError, match=said):
        built(install(monkeypatch, version), model)


def test_without_a_device(monkeypatch):
    with pytest.raises(TypeError, match="nullptr"):
        built(install(monkeypatch, no_device=True))
    simulation = install(monkeypatch, "rtx1.7", no_device=True)
    plan = built(simulation)
    assert plan is not None
    assert loaded(simulation, plan) is None


def test_a_library_that_cannot_be_imported(monkeypatch):
    install(monkeypatch, import_error="libnvinfer.so.10: cannot open shared object file")
    assert importlib.util.find_spec("tensorrt") is not None
    with pytest.raises(ImportError, match="libnvinfer"):
        importlib.import_module("tensorrt")
    assert importlib.util.find_spec("tensorrt_rtx_bindings") is None


def test_a_context_on_two_streams_at_once_is_noticed(monkeypatch):
    def runs(seed, *, wait):
        simulation = install(monkeypatch, seed=seed)
        cuda = simulation.cuda
        prepared = Prepared(simulation, loaded(simulation, plan))
        other = streams(cuda, 1)[0]
        assert prepared.execute()
        if wait:
            ok(cuda.cudaStreamSynchronize(prepared.stream))
        assert prepared.context.execute_async_v3(int(other))
        try:
            ok(cuda.cudaDeviceSynchronize())
        except SimulationError as error:
            assert "runs on two streams at once" in str(error)
            return False
        return True

    plan = bytes(built(install(monkeypatch)))
    assert all(runs(seed, wait=True) for seed in range(10))
    assert not all(runs(seed, wait=False) for seed in range(10))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("emits", [True, False])
def test_layers_are_told_by_the_run_or_when_asked(version, emits, monkeypatch, capsys):
    simulation = install(monkeypatch, version)
    base = simulation.trt.IProfiler

    class Profiler(base):
        def __init__(self):
            base.__init__(self)
            self.told = []

        def report_layer_time(self, layer_name, ms):
            self.told.append(layer_name)
            if layer_name == "add":
                raise KeyboardInterrupt

    class Forgetful(base):
        def __init__(self):
            """Without the base's, which pybind11 notices."""

    prepared = Prepared(simulation, loaded(simulation, built(simulation)))
    context, profiler = prepared.context, Profiler()
    with pytest.raises(TypeError, match="__init__"):
        context.profiler = Forgetful()
    assert prepared.execute()
    assert not context.report_to_profiler()
    context.profiler, context.enqueue_emits_profile = profiler, emits
    assert context.report_to_profiler() == emits
    assert prepared.execute()
    assert (profiler.told == []) != emits
    assert context.report_to_profiler()
    assert profiler.told == ["conv1 + relu1", "conv2", "add", "pool", "flatten", "gemm"]
    assert "Exception caught in report_layer_time()" in capsys.readouterr().err


def test_a_version_that_lists_no_profiler_has_none(monkeypatch):
    simulation = install(monkeypatch, "10.3.0")
    api = json.loads((LISTS / "10.3.0.json").read_text())
    del api["IProfiler"]
    api["IExecutionContext"].remove("report_to_profiler")
    monkeypatch.setattr(json, "loads", lambda text: api)
    trt = make_tensorrt("10.3.0", simulation.cuda)
    assert not hasattr(trt, "IProfiler")
    assert not hasattr(trt.IExecutionContext, "report_to_profiler")
