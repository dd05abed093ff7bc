"""What is measured does the same on every engine, and does what its name says."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import trtkit
from tests.pictures import write_photos
from trtkit.benchmark import loaded, torch_networks
from trtkit.benchmark.baselines import load_network
from trtkit.benchmark.competitors import load
from trtkit.benchmark.kinds import missing
from trtkit.benchmark.network import merged, source_graphs
from trtkit.benchmark.onnxruntime_networks import onnxruntime_network
from trtkit.benchmark.spec import COMPUTE, END_TO_END, Spec
from trtkit.bundle import read_manifest
from trtkit.cpu import usable_cores
from trtkit.errors import TrtkitError
from trtkit.graph.files import write_sealed
from trtkit.serialization import from_plain, to_plain
from trtkit.workspace import Workspace

COUNT, BATCH = 5, 2
BASELINES = ("onnxruntime", "torch", "openvino")

pytestmark = pytest.mark.usefixtures("thin")


def bundle_of(root: Path) -> Path:
    return next(Workspace(root).engines.glob("*/bundle.json")).parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, count=COUNT, size=(100, 80))
    # Not in the order of their names, so that labels in another order show.
    return tuple(str(path) for path in sorted(folder.iterdir(), reverse=True))


@pytest.fixture
def spec(built, photos, tmp_path):
    def make(kind="trtkit", measure=COMPUTE, tail="resnet34", **changes):
        (tmp_path / "own").mkdir(exist_ok=True)
        options = {"photos": photos, "batch": BATCH, "threads": usable_cores()} | changes
        cache_dir = str(tmp_path / "own")
        bundle = options.pop("bundle", str(bundle_of(built)))
        return Spec(kind, measure, bundle, tail, cache_dir=cache_dir, **options)

    return make


@pytest.fixture
def opened(spec):
    """Loads competitors, and closes them at the end."""
    held = []

    def make(*arguments, **changes):
        held.append(load(spec(*arguments, **changes)))
        return held[-1]

    yield make
    for competitor in held:
        competitor.close()


@pytest.fixture(scope="module")
def expected(built, photos):
    with trtkit.open_bundle(workspace=built, tail="resnet34") as pipeline:
        return [result.predictions[0].index for result in pipeline.infer(photos)]


def test_a_spec_survives_json(spec):
    made = spec(END_TO_END, cache="warm")
    plain = json.loads(json.dumps(to_plain(made)))
    assert from_plain(plain, Spec) == from_plain({**plain, "factory": "a:b"}, Spec) == made


@pytest.mark.parametrize("measure", [COMPUTE, END_TO_END])
@pytest.mark.parametrize("kind", ["trtkit", *BASELINES])
def test_every_kind_gives_the_same_labels(opened, expected, kind, measure):
    if missing(kind):
        pytest.skip(missing(kind))
    loaded = opened(kind, measure)
    loaded.before()
    loaded.run()
    assert loaded.images == COUNT
    assert loaded.labels() == expected
    assert len(set(expected)) > 1


@pytest.mark.slow
def test_compiled_torch_gives_the_same_labels(opened, photos):
    # The smaller of the two and one size of batch: what is compiled takes seconds for each layer.
    same = {"tail": "resnet18", "photos": photos[:4]}
    loaded = opened("torch-compile", COMPUTE, **same)
    assert loaded.note == "compiled for batches of 2"
    assert loaded.labels() == opened("trtkit", COMPUTE, **same).labels()


def test_compiled_torch_compiles_nothing_more_for_a_smaller_last_batch(opened, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    loaded = opened("torch-compile", COMPUTE, tail="resnet18")
    assert loaded.note == "compiled for batches of 2, 1"
    before = torch._dynamo.utils.counters["frames"]["total"]
    assert loaded.labels() == opened("trtkit", COMPUTE, tail="resnet18").labels()
    assert torch._dynamo.utils.counters["frames"]["total"] == before > 0


def test_the_baselines_compute_what_was_exported(built, exports, photos):
    folder = bundle_of(built)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    for tail in ("resnet18", "resnet34"):
        parts = source_graphs(folder, read_manifest(folder), tail)
        whole = onnxruntime_network(onnx.load(exports / f"{tail}.onnx"), 1)
        wanted = whole.logits(images)
        assert len(parts) == 2
        for kind in BASELINES:
            if missing(kind):
                continue
            network = load_network(kind, parts, classes=1000, threads=1, examples=[images])
            logits = network.logits(images)
            assert (logits.dtype, logits.shape) == (np.float32, (3, 1000))
            # OpenVINO computes in bfloat16 where the processor can.
            limit = 1e-4 if kind != "openvino" else 2e-2
            assert np.abs(logits - wanted).max() < limit * np.abs(wanted).max()


def test_stages_that_use_a_name_for_different_things_are_merged():
    def stage(taken, given, factor):
        weight = onnx.numpy_helper.from_array(np.float32([factor]), "weight")
        nodes = [
            onnx.helper.make_node("Mul", [taken, "weight"], ["inner"]),
            onnx.helper.make_node("Relu", ["inner"], [given]),
        ]
        ends = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 1])
            for name in (taken, given)
        ]
        graph = onnx.helper.make_graph(nodes, "stage", ends[:1], ends[1:], [weight])
        opset = onnx.helper.make_opsetid("", 17)
        return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)

    # The second takes what the first gives, under a name of its own.
    parts = [stage("image", "boundary", 2), stage("feature", "middle", 3), stage("x", "logits", 5)]
    network = onnxruntime_network(merged(parts), 1)
    assert network.logits(np.float32([[1], [2]])).tolist() == [[30], [60]]
    parts[1].opset_import[0].version = 16
    with pytest.raises(TrtkitError, match="cannot be merged"):
        merged(parts)


def test_the_threads_are_those_asked_for(opened, monkeypatch):
    import onnxruntime

    given = []
    real = onnxruntime.InferenceSession

    def session(model, options, **rest):
        given.append(options.intra_op_num_threads)
        return real(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    opened("onnxruntime", threads=3)
    assert given == [3]
    threads = torch.get_num_threads()
    try:
        opened("torch", threads=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_trtkit_refuses_threads_that_it_would_not_take(spec):
    with pytest.raises(TrtkitError, match=f"may use, not {usable_cores() + 1} threads; give"):
        load(spec(threads=usable_cores() + 1))


def test_torch_takes_the_faster_layout_and_says_so(opened, monkeypatch):
    seconds = iter([2.0, 0.5])
    monkeypatch.setattr(torch_networks, "_fastest", lambda logits, images: next(seconds))
    assert opened("torch").note == "channels_last: 500 ms a batch, contiguous 2e+03 ms"


def test_off_looks_into_no_cache(opened):
    loaded = opened("trtkit", END_TO_END)
    loaded.run()
    stats = loaded.pipeline.stats
    assert (stats.images, stats.hits, stats.misses) == (COUNT, 0, 0)


def test_cold_misses_in_every_run(opened, expected, tmp_path):
    loaded = opened("trtkit", END_TO_END, cache="cold")
    for _ in range(3):
        loaded.before()
        loaded.run()
        stats = loaded.pipeline.stats
        assert (stats.hits, stats.misses) == (0, COUNT)
        # All is on the disk when the run ends, and only this run's.
        assert loaded.pipeline.cache.store.stats.written == COUNT
        assert len(list((tmp_path / "own").iterdir())) == 1
    assert loaded.labels() == expected
    assert loaded.pipeline.stats.hits == 0


def test_warm_hits_in_every_run(opened, expected):
    loaded = opened("trtkit", END_TO_END, cache="warm")
    for _ in range(2):
        stats = loaded.pipeline.stats
        hits, misses = stats.hits, stats.misses
        loaded.before()
        loaded.run()
        assert (stats.hits - hits, stats.misses - misses) == (COUNT, 0)
    assert loaded.labels() == expected


def test_a_warm_cache_that_does_not_keep_all_is_refused(spec, monkeypatch):
    monkeypatch.setattr(loaded.PrefixCache, "put", lambda self, key, feature: None)
    with pytest.raises(TrtkitError, match=f"does not keep {COUNT} of {COUNT} photos"):
        load(spec(measure=END_TO_END, cache="warm"))


def test_closing_leaves_nothing_in_the_folder(spec, tmp_path):
    loaded = load(spec(measure=END_TO_END, cache="warm"))
    (tmp_path / "own" / "of-somebody-else").mkdir()
    loaded.close()
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["of-somebody-else"]


def test_a_photo_that_fails_is_no_result(spec, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    loaded = load(spec(measure=END_TO_END, photos=(str(tmp_path / "bad.jpg"),)))
    with pytest.raises(TrtkitError, match=r"bad\.jpg cannot be measured"):
        loaded.run()
    loaded.close()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "caffe"}, "Competitor `caffe` not found; available: trtkit, torch"),
        (
            {"measure": "latency"},
            "Measure `latency` not found; available: compute, end to end.",
        ),
        ({"cache": "hot"}, "Cache `hot` not found; available: off, cold, warm."),
        ({"cache": "warm"}, "trtkit, compute, has no warm cache, only trtkit, end to end, has one"),
        (
            {"kind": "onnxruntime", "measure": END_TO_END, "cache": "cold"},
            "onnxruntime, end to end, has no cold cache, only trtkit, end to end, has one",
        ),
        ({"photos": ()}, "0 photos"),
        ({"batch": 0}, "batches of 0"),
        ({"batch": 10**6}, "takes batches of 1 to 64 images, not 1000000"),
        ({"tail": "resnet99"}, "Tail `resnet99` not found"),
    ],
)
def test_what_there_is_not_is_refused(spec, changes, problem):
    with pytest.raises(TrtkitError, match=problem):
        load(spec(**changes))


def test_a_cache_needs_a_folder(spec):
    made = {**to_plain(spec(measure=END_TO_END, cache="cold")), "cache_dir": ""}
    with pytest.raises(
        TrtkitError, match="^A cold cache needs a folder, but '' is not one; make it first.$"
    ):
        load(made)


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory, exports):
    """Bundles without a split, by name: a resnet18, and a foreign one that only looks like it."""
    root = tmp_path_factory.mktemp("unsplit")
    (root / "export").mkdir()
    whole = onnx.load(exports / "resnet18.onnx")
    write_sealed(whole, root / "export" / "resnet18.onnx")
    # The same weights, the same names, another network.
    next(node for node in whole.graph.node if node.op_type == "Relu").op_type = "Tanh"
    write_sealed(whole, root / "export" / "other.onnx")
    card = json.loads(whole.metadata_props[0].value) | {"architecture": "foreign", "blocks": []}
    whole.metadata_props[0].value = json.dumps(card)
    write_sealed(whole, root / "export" / "foreign.onnx")
    for name in ("resnet18", "other", "foreign"):
        trtkit.build([name], cut=0, precision="fp32", bundle_name=name, workspace=root)
    return Workspace(root).engines


@pytest.mark.parametrize("kind", BASELINES)
def test_a_bundle_without_a_split_is_measured(opened, unsplit, kind):
    if missing(kind):
        pytest.skip(missing(kind))
    where = {"tail": "resnet18", "bundle": str(unsplit / "resnet18")}
    assert opened(kind, **where).labels() == opened("trtkit", **where).labels()


def test_a_cache_without_a_split_is_refused(spec, unsplit):
    with pytest.raises(
        TrtkitError, match="is not split, so it has nothing to put into a warm cache"
    ):
        load(
            spec(
                measure=END_TO_END, cache="warm", tail="resnet18", bundle=str(unsplit / "resnet18")
            )
        )


@pytest.mark.parametrize(
    ("name", "said"),
    [("foreign", "foreign model cannot be rebuilt"), ("other", "is not the exported one")],
)
def test_torch_refuses_a_model_that_it_cannot_rebuild(spec, opened, unsplit, name, said):
    where = {"tail": name, "bundle": str(unsplit / name)}
    with pytest.raises(TrtkitError, match=said):
        load(spec("torch", **where))
    # The others run it all the same.
    assert opened("onnxruntime", **where).labels() == opened("trtkit", **where).labels()


def test_a_compiler_that_fails_is_a_sentence(spec, monkeypatch):
    def compile_(network, **options):
        def fail(images):
            raise RuntimeError("No working C++ compiler found.\n at line 1")

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(
        TrtkitError, match=r"does not work here \(No working C\+\+ compiler found\)"
    ):
        load(spec("torch-compile"))
