"""NVIDIA's own parser and builder on every architecture. TensorRT for RTX builds without a GPU.

Weights are random and images small, and all but one architecture of each family thin: how an architecture
parses depends on none of that.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from torch import nn
from torchvision import models

from tests.graph.onnx_graphs import classifier
from tests.quantized import quantize
from tests.reports import RecordingReporter, recorded
from tests.thin import thin_networks
from trtkit.building.adoption import adopt_file
from trtkit.engines.base import BuiltEngine, StageBuild
from trtkit.engines.options import BuildOptions
from trtkit.engines.registry import RTX
from trtkit.engines.tensorrt.backend import TensorRTBackend
from trtkit.engines.tensorrt.versions import Api
from trtkit.errors import TrtkitError
from trtkit.graph.boundaries import cut_points
from trtkit.graph.card import ModelCard
from trtkit.graph.export import export_graph
from trtkit.graph.precision import compute_half
from trtkit.graph.tree import Model, StageGraph, stage_tree
from trtkit.models.architectures import as_blocks
from trtkit.models.names import ARCHITECTURES
from trtkit.preprocessing import Preprocessing
from trtkit.reporting import reporting
from trtkit.serialization import to_plain

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has no wheel here")

PRECISIONS = ("fp32", "fp16", "int8")
SIZE = 32
CLASSES = 10
IMAGE = ("image", "uint8", (None, SIZE, SIZE, 3))
LOGITS = ("logits", "float32", (None, CLASSES))
# Convolutions, those of the shortcuts included, and fully connected layers, counted by hand from
# https://github.com/pytorch/vision/tree/main/torchvision/models (resnet.py and vgg.py).
LAYERS = {
    "resnet18": 21, "resnet34": 37, "resnet50": 54, "resnet101": 105, "resnet152": 156,
    "resnext50_32x4d": 54, "wide_resnet50_2": 54,
    "vgg11": 11, "vgg13": 13, "vgg16": 16, "vgg19": 19,
}  # fmt: skip
# With all their channels; the others have an eighth of them.
REAL = ("resnet18", "vgg11")
# Exports and builds that take most of this file's time.
LARGE = ("resnet101", "resnet152")
# What a plan holds besides weights: kernels in an intermediate form, in bytes. Measured with 1.7.1:
# 290 to 330 kB whatever the graph is, and for each heavy layer 2 kB, or 150 kB in int8.
OVERHEAD = 400_000
LAYER_OVERHEAD = {"fp32": 5_000, "fp16": 5_000, "int8": 180_000}


@dataclass(frozen=True)
class Exported:
    """An architecture's graph and the same graph quantized; not to be changed."""

    architecture: str
    card: ModelCard
    plain: onnx.ModelProto
    quantized: onnx.ModelProto

    @property
    def blocks(self) -> int:
        return len(self.card.blocks)

    @property
    def layers(self) -> int:
        return LAYERS[self.architecture.removesuffix("_bn")]

    @functools.cached_property
    def boundaries(self) -> list[tuple[str, tuple[int | None, ...]]]:
        """The name and shape of the feature map after each block."""
        points = cut_points(self.plain, self.card)
        return [(point.tensor, (None, *point.shape)) for point in points]

    def stages(self, cut: int) -> Iterator[tuple[str, list[StageGraph]]]:
        """The stages of a cut at each precision. What is built from them changes them."""
        plain = self._tree(self.plain, cut, "fp32")
        # The graphs of fp32 and fp16 differ in nothing before they are built; hashing takes long.
        yield "fp32", [_copy(stage) for stage in plain]
        yield "fp16", [_copy(stage) for stage in plain]
        yield "int8", [_copy(stage) for stage in self._tree(self.quantized, cut, "int8")]

    def _tree(self, graph: onnx.ModelProto, cut: int, precision: str) -> list[StageGraph]:
        return stage_tree([Model(self.architecture, graph, self.card)], cut, precision)


def _copy(stage: StageGraph) -> StageGraph:
    graph = onnx.ModelProto()
    graph.CopyFrom(stage.graph)
    return replace(stage, graph=graph)


@dataclass(frozen=True)
class Plan:
    """A built stage: what the backend says of it, its size in bytes and what its weights were."""

    engine: BuiltEngine
    size: int
    operators: Counter[str]
    weights: int

    @property
    def network(self) -> dict[str, int]:
        return self.engine.record["network"]


@pytest.fixture(scope="module")
def backend() -> TensorRTBackend:
    return TensorRTBackend(RTX)


@pytest.fixture(scope="module")
def timing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("timing")


def export(architecture: str) -> onnx.ModelProto:
    """The real depth and order of layers, and less width but of REAL."""
    if architecture not in REAL:
        with thin_networks():
            network = models.get_model(architecture, weights=None, num_classes=CLASSES)
    elif architecture.startswith("vgg"):
        network = narrow_head(models.get_model(architecture, weights=None, init_weights=False))
    else:
        network = models.get_model(architecture, weights=None, num_classes=CLASSES)
    return graph_of(architecture, network, SIZE)


def narrow_head(network: nn.Module) -> nn.Module:
    """A VGG whose fully connected layers have 64 channels instead of 4096: 6 MB, not 480."""
    head = network.classifier
    head[0], head[3], head[6] = nn.Linear(512 * 49, 64), nn.Linear(64, 64), nn.Linear(64, CLASSES)
    return network


def graph_of(architecture: str, network: nn.Module, size: int) -> onnx.ModelProto:
    labels = [str(number) for number in range(CLASSES)]
    card = ModelCard(architecture, "random", labels, Preprocessing(size, size, size), [])
    return export_graph(as_blocks(architecture, network.eval()), card)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
        for name in ARCHITECTURES
        # ResNeXt and Wide ResNet of 101 layers are those of 50 with more of the same blocks.
        if name.removesuffix("_bn") in LAYERS
    ],
)
def exported(request, tmp_path_factory) -> Exported:
    """One architecture at a time: pytest drops one before it asks for the next."""
    architecture = request.param
    plain = export(architecture)
    path = quantize(plain, tmp_path_factory.mktemp("quantized") / "model.onnx")
    quantized = onnx.load(path)
    path.unlink()
    return Exported(architecture, ModelCard.read_from(quantized, architecture), plain, quantized)


def build(
    backend: TensorRTBackend, timing: Path, stage: StageGraph, precision: str, **options
) -> Plan:
    nodes, weights = stage.graph.graph.node, stage.graph.graph.initializer
    operators = Counter(node.op_type for node in nodes)
    nbytes = sum(len(weight.raw_data) for weight in weights)
    destination = timing / "engine.plan"
    root, leaf = stage.parent is None, stage.classes is not None
    built = backend.build(
        StageBuild(stage.name, stage.graph, precision, root, leaf, BuildOptions(**options)),
        destination,
        timing,
    )
    size = destination.stat().st_size
    destination.unlink()
    return Plan(built, size, operators, nbytes)


def ends(plan: Plan) -> list[tuple[str, str, tuple[int | None, ...]]]:
    engine = plan.engine
    return [(spec.name, spec.dtype, spec.shape) for spec in (*engine.inputs, *engine.outputs)]


def check_precision(plan: Plan, precision: str) -> None:
    """Every heavy layer of the network has the type asked for; none is lost or added."""
    found = plan.operators
    # VGG's average pool is two products by constant matrices: nothing quantizes those.
    plain = found["MatMul"] if precision == "int8" else 0
    heavy = found["Conv"] + found["Gemm"] + found["MatMul"]
    others = dict.fromkeys(("unknown", *PRECISIONS), 0)
    expected = {**others, "fp16": plain, "heavy": heavy}
    expected[precision] = heavy - plain
    assert plan.network == expected


def check_size(plan: Plan, precision: str) -> None:
    """A plan holds each weight once, as wide as the precision; quantized ones are bytes already."""
    held = plan.weights // (2 if precision == "fp16" else 1)
    overhead = OVERHEAD + LAYER_OVERHEAD[precision] * plan.network["heavy"]
    assert held <= plan.size < 1.005 * held + overhead


def middle(exported: Exported) -> int:
    """Cut 7, which deep models are meant to be cut at, or halfway through the others."""
    return min(7, exported.blocks // 2)


def test_the_middle_cut(exported, backend, timing):
    cut = middle(exported)
    tensor, shape = exported.boundaries[cut - 1]
    tails = {}
    for precision, stages in exported.stages(cut):
        prefix, tail = (build(backend, timing, stage, precision) for stage in stages)
        feature = (tensor, "float32" if precision == "fp32" else "float16", shape)
        assert ends(prefix) == [IMAGE, feature]
        assert ends(tail) == [feature, LOGITS]
        for plan in (prefix, tail):
            check_precision(plan, precision)
            check_size(plan, precision)
        products = 2 if exported.architecture.startswith("vgg") else 0
        assert prefix.network["heavy"] + tail.network["heavy"] == exported.layers + products
        tails[precision] = tail
    if exported.architecture not in REAL:
        # Kernels take as much room as weights.
        return
    assert 0.49 < tails["fp16"].size / tails["fp32"].size < 0.52
    # Kernels for int8 take more room: it is not quite half.
    assert 0.5 < tails["int8"].size / tails["fp16"].size < 0.7


def test_the_first_block_and_the_head(exported, backend, timing):
    """Only the small sides: the others are nearly the whole model."""
    for cut, side in ((1, 0), (exported.blocks, 1)):
        tensor, shape = exported.boundaries[cut - 1]
        for precision, stages in exported.stages(cut):
            plan = build(backend, timing, stages[side], precision)
            feature = (tensor, "float32" if precision == "fp32" else "float16", shape)
            assert ends(plan) == ([IMAGE, feature] if side == 0 else [feature, LOGITS])
            check_precision(plan, precision)
            check_size(plan, precision)


@pytest.mark.parametrize("exported", ["resnet18", "resnet50", "vgg11", "vgg19"], indirect=True)
def test_the_whole_model(exported, backend, timing):
    for precision, (stage,) in exported.stages(0):
        plan = build(backend, timing, stage, precision)
        check_precision(plan, precision)
        check_size(plan, precision)
        assert plan.network["heavy"] == exported.layers + plan.operators["MatMul"]
        assert ends(plan) == [IMAGE, LOGITS]


@pytest.mark.parametrize(
    "exported", ["resnet50", pytest.param("resnet152", marks=pytest.mark.slow)], indirect=True
)
def test_cut_4(exported, backend, timing):
    """An early cut of deep models: a small prefix under large tails."""
    tensor, shape = exported.boundaries[3]
    for precision, (first, rest) in exported.stages(4):
        prefix = build(backend, timing, first, precision)
        feature = (tensor, "float32" if precision == "fp32" else "float16", shape)
        assert ends(prefix) == [IMAGE, feature]
        # The stem, three blocks of three and one of the next stage, and both shortcuts.
        assert prefix.network["heavy"] == 1 + 4 * 3 + 2
        check_precision(prefix, precision)
        check_size(prefix, precision)
        if precision == "fp16":
            tail = build(backend, timing, rest, precision)
            assert ends(tail) == [feature, LOGITS]
            assert tail.network["fp16"] == exported.layers - 15


@pytest.mark.slow
def test_a_vgg_at_its_real_size(backend, timing):
    """514 MB of weights, and images of 224: there the average pool does nothing and is left out."""
    network = models.get_model("vgg11", weights=None, num_classes=CLASSES, init_weights=False)
    graph = graph_of("vgg11", network, 224)
    card = ModelCard.read_from(graph, "vgg11")
    (stage,) = stage_tree([Model("vgg11", graph, card)], 0, "fp16")
    plan = build(backend, timing, stage, "fp16")
    assert plan.weights > 500e6
    assert plan.operators["MatMul"] == 0
    check_precision(plan, "fp16")
    check_size(plan, "fp16")
    assert plan.network["heavy"] == 11


# From here on a classifier of three layers: what is refused does not depend on the architecture.


def small() -> onnx.ModelProto:
    """A foreign file, adopted: nodes conv1, relu1, conv2, add, pool, flatten and gemm."""
    foreign = classifier(1, reshape=[1, 4])
    mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    return adopt_file(foreign, mean=mean, std=std, name="m.onnx").adopted.model


@pytest.fixture(scope="module")
def small_quantized(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "quantized.onnx"
    return quantize(small(), path).read_bytes()


@pytest.fixture
def make(backend, tmp_path):
    """Builds a graph as a whole model; what is refused must leave no file."""
    destination = tmp_path / "engine.plan"

    def make(graph, precision="fp32", **options):
        stage = StageBuild("m", graph, precision, True, True, BuildOptions(**options))
        try:
            return backend.build(stage, destination, tmp_path / "timing")
        except BaseException:
            assert not destination.exists()
            raise

    make.destination = destination
    return make


def sentence(error: pytest.ExceptionInfo[TrtkitError]) -> str:
    """The message, which must be one sentence on one line."""
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_an_adopted_foreign_file(make):
    built = make(small())
    assert [(s.name, s.dtype, s.shape) for s in (*built.inputs, *built.outputs)] == [
        ("image", "uint8", (None, 8, 8, 3)),
        ("g", "float32", (None, 5)),
    ]
    assert built.record["network"]["fp32"] == 3


def test_several_ranges_of_images_are_profiles_of_one_plan(make, monkeypatch):
    seen = []
    # Called when all profiles are added; a plan cannot be asked for its profiles without a GPU.
    monkeypatch.setattr(
        Api, "share_profiles", lambda api, config: seen.append(config.num_optimization_profiles)
    )
    sizes = []
    for ranges in ([(1, 4, 8)], [(1, 1, 1), (1, 4, 8)]):
        built = make(small(), profiles=BuildOptions.for_batches(ranges).profiles)
        sizes.append(make.destination.stat().st_size)
    assert built.record["flags"]["profiles"] == [[1, 4, 8], [1, 1, 1]]
    assert seen == [1, 2]
    # Kernels for each range, weights once; hardly any weights here.
    assert sizes[1] > 1.5 * sizes[0]


def widened(stage: onnx.ModelProto, names: set[str]) -> None:
    """Compute these nodes of an fp16 graph in fp32, in place: a conversion that missed them."""
    nodes = []
    for node in stage.graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        for position, source in enumerate(list(node.input)):
            node.input[position] = f"{node.name}_wide_{position}"
            nodes.append(
                helper.make_node("Cast", [source], [node.input[position]], to=TensorProto.FLOAT)
            )
        target = node.output[0]
        node.output[0] = f"{node.name}_wide"
        back = helper.make_node("Cast", [node.output[0]], [target], to=TensorProto.FLOAT16)
        nodes.extend([node, back])
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del stage.graph.node[:]
    stage.graph.node.extend(copies)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(
    ("missed", "named"),
    [
        ({"conv2"}, "1 of 3 heavy layers of .* are not {precision}: conv2 \\(fp32\\);"),
        ({"conv1", "gemm"}, "2 of 3 heavy layers of .* are not {precision}: conv1 .*, gemm "),
    ],
)
def test_a_layer_that_was_left_wide_is_refused_by_name(
    make, monkeypatch, small_quantized, precision, missed, named
):
    def compute(stage, **ends):
        compute_half(stage, **ends)
        widened(stage, missed)

    monkeypatch.setattr("trtkit.graph.precision.compute_half", compute)
    graph = onnx.load_from_string(small_quantized) if precision == "int8" else small()
    with pytest.raises(TrtkitError, match=named.format(precision=precision)) as error:
        make(graph, precision)
    assert "relu1" not in sentence(error)


def test_int8_needs_a_quantized_graph(make, small_quantized):
    with pytest.raises(TrtkitError, match=r"int8 .* m has no QuantizeLinear .* --fp16\.") as error:
        make(small(), "int8")
    sentence(error)
    network = make(onnx.load_from_string(small_quantized), "int8").record["network"]
    assert (network["heavy"], network["int8"]) == (3, 3)


def behind_relu(node: onnx.NodeProto) -> onnx.ModelProto:
    """The small classifier with a node of one input and output, of the same shape, behind its Relu."""
    model = small()
    nodes = list(model.graph.node)
    at = next(index for index, other in enumerate(nodes) if other.op_type == "Relu")
    node.input[:] = ["rectified"]
    node.output[:] = nodes[at].output[:]
    nodes[at].output[:] = ["rectified"]
    nodes.insert(at + 1, node)
    copies = [onnx.NodeProto.FromString(item.SerializeToString()) for item in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    # Valid ONNX: it is TensorRT that does not take it.
    onnx.checker.check_model(model, full_check=True)
    return model


def dilated(name: str) -> onnx.NodeProto:
    window = {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [2, 2, 2, 2]}
    return helper.make_node("MaxPool", ["?"], ["?"], name, **window)


@pytest.mark.parametrize(
    ("node", "name", "why"),
    [
        (dilated("odd_pool"), "odd_pool", "does not support dilations"),
        (dilated(""), "MaxPool_6", "does not support dilations"),
        (
            helper.make_node("LpPool", ["?"], ["?"], "cubes", kernel_shape=[1, 1], p=3),
            "cubes",
            "L2",
        ),
        (
            helper.make_node("Bernoulli", ["?"], ["?"], "coin"),
            "coin",
            r"\(Bernoulli\): it does not support",
        ),
        (helper.make_node("LRN", ["?"], ["?"], "even", size=4), "even", r"\(LRN\): .*windowSize"),
    ],
)
def test_an_operator_that_the_parser_refuses_is_named(make, node, name, why):
    graph = behind_relu(node)
    with pytest.raises(TrtkitError, match=rf"cannot parse m \(.*\bnode {name}\b.*{why}") as error:
        make(graph)
    assert "--backend onnxruntime" in sentence(error)
    assert str(error.value).count("node ") == 1, "the parser reports some nodes twice"


def test_a_transposed_uint8_image_is_refused(make):
    """Why exports cast the image to float before they transpose it."""
    model = small()
    cast, transpose = model.graph.node[0], model.graph.node[1]
    assert (cast.op_type, transpose.op_type) == ("Cast", "Transpose")
    first = helper.make_node("Transpose", ["image"], ["bytes"], "turned", perm=[0, 3, 1, 2])
    second = helper.make_node("Cast", ["bytes"], list(transpose.output), to=TensorProto.FLOAT)
    cast.CopyFrom(first)
    transpose.CopyFrom(second)
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(TrtkitError, match="node turned") as error:
        make(model)
    sentence(error)


def test_progress_is_told_in_phases(make):
    with recorded() as reports:
        make(small())
    shares: dict[str, list[float]] = {}
    for phase, share in reports.phases:
        shares.setdefault(phase, []).append(share)
    assert len(shares) > 1
    assert all(0.0 < share <= 1.0 for _, share in reports.phases)
    # Every phase ends; between are steps that really are parts.
    assert all(1.0 in of_phase for of_phase in shares.values())
    assert any(share < 1.0 for _, share in reports.phases)


def test_a_build_that_is_interrupted_ends_and_leaves_no_file(make):
    class Interrupting(RecordingReporter):
        def advance(self, phase, share):
            super().advance(phase, share)
            raise KeyboardInterrupt

    with recorded() as whole:
        make(small())
    make.destination.unlink()
    interrupting = Interrupting()
    with pytest.raises(KeyboardInterrupt), reporting(interrupting):
        make(small())
    # TensorRT stopped instead of finishing a plan that is thrown away.
    assert 0 < len(interrupting.phases) < len(whole.phases)


@pytest.mark.parametrize(
    ("precision", "options", "message"),
    [
        # The bindings' wheel has no lean runtime to put into the plan.
        ("fp32", {"version_compatible": True}, "leave --version-compatible out"),
        (
            "fp32",
            {"hardware_compatible": True},
            "^Plans of .*; leave --hardware-compatible out",
        ),
        ("fp32", {"own_tactics": True}, "has no kernels but its own; leave --own-tactics out"),
        ("fp32", {"workspace_memory": 1 << 20}, "give --workspace-memory more"),
        (
            "fp16",
            {"dla": 0, "profiles": ((4, 4, 4),)},
            "There is no DLA 0: .* finds 0 deep learning",
        ),
        ("fp32", {"dla": 0, "profiles": ((4, 4, 4),)}, "--dla takes fp16, not fp32"),
        ("fp16", {"dla": 0}, "--dla takes one batch size, not a range"),
    ],
)
def test_an_option_that_cannot_be_had_is_one_sentence(make, precision, options, message):
    with pytest.raises(TrtkitError, match=message) as error:
        make(small(), precision, **options)
    sentence(error)
    # A library that failed once builds the next.
    assert make(small(), precision).record["network"]["heavy"] == 3


@pytest.mark.parametrize(
    "options",
    [
        {"tf32": True},
        {"optimization_level": 0},
        {"optimization_level": 5},
        {"workspace_memory": 1 << 30},
    ],
)
def test_an_option_that_can_be_had_is_recorded(make, options):
    flags = make(small(), "fp16", **options).record["flags"]
    assert flags == {**to_plain(BuildOptions()), **options}
