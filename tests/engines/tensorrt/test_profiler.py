"""What TensorRT's profiler says of each layer, with every version's own API."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

from tests.engines.simulated import VERSIONS, install
from tests.engines.simulated.plans import backend_for
from tests.graph.segmented import points, residual
from trtkit.engines.base import StageBuild
from trtkit.engines.options import BuildOptions
from trtkit.engines.tensorrt.layers import LayerSource, layer_sources
from trtkit.engines.tensorrt.profiler import make_profiler
from trtkit.errors import TrtkitError
from trtkit.graph.boundaries import label_segments, segment_of

LAYERS = [
    ("segment1/stem_conv + segment1/stem_relu", "CaskConvolution"),
    ("segment2/block1_a_conv + segment2/block1_a_relu", "CaskConvolution"),
    ("segment2/block1_b_conv", "CaskConvolution"),
    ("segment2/block1_add", "Add"),
    ("segment2/block1_relu", "Relu"),
    ("segment3/head_pool", "GlobalAveragePool"),
    ("segment3/head_flat", "Flatten"),
]


def images(batch=4):
    return np.random.default_rng(0).standard_normal((batch, 3, 8, 8)).astype(np.float32)


class Built:
    """The engine file of a labelled residual network, and measuring its layers."""

    def __init__(self, folder, version, profiles=((1, 4, 8),)):
        model, tensors = residual(blocks=1)
        label_segments(model, points(tensors))
        self.backend = backend_for(version)
        self.path = folder / "whole-0.plan"
        stage = StageBuild("whole", model, "fp32", True, True, BuildOptions(profiles=profiles))
        self.record = self.backend.build(stage, self.path, folder / "timing").record

    def measure(self, runs=3, **inputs):
        given = inputs or {"x": images()}
        return self.backend.layer_times(self.path, self.record, given, runs)


def by_run(simulation):
    """Give each layer of each run a time of its own, in milliseconds: 10 a run, 0.5 a layer."""
    names: list[str] = []

    def milliseconds(name, run):
        if name not in names:
            names.append(name)
        return 10 * run + names.index(name) / 2

    simulation.library.layer_ms = milliseconds


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_come_in_the_order_of_the_engines_work(monkeypatch, tmp_path, version):
    simulation = install(monkeypatch, version)
    layers = Built(tmp_path, version).measure()
    assert [(layer.name, layer.kind) for layer in layers][:-1] == LAYERS
    assert layers[-1].name == "segment3/head_gemm"
    assert [segment_of(layer.name) for layer in layers] == [1, 2, 2, 2, 2, 3, 3, 3]
    del layers
    simulation.cuda.assert_clean()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("runs", [1, 4])
def test_the_first_run_is_dropped_and_no_other(monkeypatch, tmp_path, version, runs):
    simulation = install(monkeypatch, version)
    built = Built(tmp_path, version)
    by_run(simulation)
    for place, layer in enumerate(built.measure(runs)):
        expected = [(10 * (run + 1) + place / 2) / 1000 for run in range(1, runs + 1)]
        assert layer.seconds == pytest.approx(expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_is_queued_without_waiting_and_told_when_asked(monkeypatch, tmp_path, version):
    install(monkeypatch, version)
    built = Built(tmp_path, version)
    engine = built.backend.load(built.path, built.record, "")
    placed, profiler = engine.place({"x": images()}), make_profiler(engine.api)
    placed.binding.attach(profiler)
    placed.binding.enqueue()
    assert profiler.take() == []
    assert placed.binding.report()
    assert len(profiler.take()) == len(LAYERS) + 1
    assert profiler.take() == []


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_captured_into_a_graph(monkeypatch, tmp_path, version):
    simulation = install(monkeypatch, version)
    Built(tmp_path, version).measure()
    assert (simulation.cuda.captures, simulation.cuda.launches) == (0, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_order_of_the_device_gives_the_same(monkeypatch, tmp_path, version):
    found = set()
    for seed in range(5):
        simulation = install(monkeypatch, version, seed=seed)
        built = Built(tmp_path, version)
        by_run(simulation)
        found.add(tuple(built.measure()))
    assert len(found) == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("raised", [KeyboardInterrupt, ZeroDivisionError])
def test_what_is_raised_while_a_layer_is_told_is_raised_again(
    monkeypatch, tmp_path, capsys, version, raised
):
    """NVIDIA's bindings print an exception of a callback and go on."""
    simulation = install(monkeypatch, version)
    built = Built(tmp_path, version)

    class Interrupted(float):
        def __float__(self):
            raise raised

    simulation.library.layer_ms = lambda name, run: Interrupted(1) if run == 2 else 1.0
    with pytest.raises(raised):
        built.measure()
    assert "Exception caught" not in capsys.readouterr().err
    simulation.library.layer_ms = lambda name, run: 1.0
    assert len(built.measure()) == len(LAYERS) + 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": images(9)}, r"whole takes batches of 1 to 8, not 9"),
        ({"x": images()[:, :2]}, r"takes x float32 N x 3 x 8 x 8, not float32 4 x 2 x"),
        ({"x": images().astype(np.float16)}, r"not float16 4 x 3 x 8 x 8; convert it"),
        ({"y": images()}, r"available: y; pass it by that name"),
    ],
)
def test_inputs_that_the_engine_does_not_take(monkeypatch, tmp_path, version, given, message):
    install(monkeypatch, version)
    with pytest.raises(TrtkitError, match=message):
        Built(tmp_path, version).measure(**given)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_that_fails(monkeypatch, tmp_path, version):
    simulation = install(monkeypatch, version)
    built = Built(tmp_path, version)
    simulation.library.fail_execute = True
    with pytest.raises(TrtkitError, match=r"could not run whole on 4 images \(.*that the test"):
        built.measure()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_profiler_that_is_told_nothing(monkeypatch, tmp_path, version):
    simulation = install(monkeypatch, version)
    built = Built(tmp_path, version)
    simulation.library.fail_report = True
    with pytest.raises(
        TrtkitError,
        match=r"ran whole, but did not report the times of its layers \(.*reportToProfiler",
    ) as caught:
        built.measure()
    assert "\n" not in str(caught.value)


def test_a_run_with_other_layers(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    built = Built(tmp_path, "10.3.0")
    calls = iter(range(1000))
    simulation.library.layer_name = lambda nodes: f"{nodes[0]} {next(calls) // 24}"
    with pytest.raises(TrtkitError, match="named different layers of whole in different runs"):
        built.measure()


def test_layers_of_one_name_stay_apart(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    built = Built(tmp_path, "10.3.0")
    simulation.library.layer_name = lambda nodes: "copy"
    counted = iter(range(1000))
    simulation.library.layer_ms = lambda name, run: float(next(counted))
    layers = built.measure(1)
    assert [layer.seconds for layer in layers] == [((8 + place) / 1000,) for place in range(8)]


@pytest.mark.parametrize("version", VERSIONS)
def test_kernels_of_the_graph_compiler_are_told_by_the_nodes_in_them(
    monkeypatch, tmp_path, version
):
    """Their own names say nothing; where the inspector knows no nodes either, they stay as they are."""
    simulation = install(monkeypatch, version)
    built = Built(tmp_path, version)
    simulation.library.layer_name = lambda nodes: f"__myl_{nodes[0].rpartition('/')[2]}_myl0"
    layers = built.measure()
    known = simulation.library.has("ILayer", "metadata")
    nodes = " [segment1/stem_conv + segment1/stem_relu]" if known else ""
    assert layers[0].name == f"__myl_stem_conv_myl0{nodes}"
    assert layers[0].kind == "CaskConvolution"
    assert segment_of(layers[4].name) == (2 if known else None)


def test_a_layer_that_the_inspector_does_not_know(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    built = Built(tmp_path, "10.3.0")
    engine = type(built.backend.load(built.path, built.record, ""))
    monkeypatch.setattr(engine, "inspect", lambda self, context: '{"Layers": ["a name alone"]}')
    layers = built.measure()
    assert {layer.kind for layer in layers} == {"unknown"}
    assert [layer.name for layer in layers][:-1] == [name for name, _ in LAYERS]
    assert simulation.library.messages == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_narrowest_profile_that_takes_the_batch_is_measured(monkeypatch, tmp_path, version):
    install(monkeypatch, version)
    built = Built(tmp_path, version, profiles=((1, 4, 8), (1, 1, 1), (8, 8, 8)))
    for batch in (1, 4, 8):
        assert len(built.measure(2, x=images(batch))) == len(LAYERS) + 1


def test_the_first_of_several_layers_of_one_name_says_what_it_is():
    said = (
        '{"Layers": [{"Name": "a", "LayerType": "Reformat"}, {"Name": "a", "LayerType": "NoOp"}, '
        '{"Name": "b", "Metadata": "[ONNX Layer: n1]\\u001e[ONNX Layer: n2]"}]}'
    )
    assert layer_sources(said) == {
        "a": LayerSource("Reformat", ()),
        "b": LayerSource("unknown", ("n1", "n2")),
    }
