"""Building and loading plans with every TensorRT's own API, and what is said when it goes wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.engines.simulated import VERSIONS, install
from tests.engines.simulated.plans import backend_for, engines, on_device
from tests.graph.onnx_graphs import classifier, run
from tests.reports import RecordingReporter, recorded
from trtkit.engines.base import StageBuild
from trtkit.engines.cuda.device import Stream
from trtkit.engines.cuda.memory import DeviceMemory
from trtkit.engines.options import BuildOptions
from trtkit.engines.registry import TENSORRT, get_backend
from trtkit.engines.tensorrt.engine import Binding, load_engine
from trtkit.engines.tensorrt.layers import network_layers
from trtkit.engines.tensorrt.library import load_library
from trtkit.engines.tensorrt.versions import Api
from trtkit.errors import TrtkitError
from trtkit.reporting import reporting
from trtkit.serialization import from_plain, to_plain

PHOTOS = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
WITH_FLAGS = ("8.5.3.1", "8.6.1")


def stage(precision="fp32", model=None, **options):
    return StageBuild(
        "whole", model or classifier(), precision, True, True, BuildOptions(**options)
    )


def build(tmp_path, version="10.3.0", precision="fp32", model=None, **options):
    path = tmp_path / "whole-1.plan"
    built = backend_for(version).build(
        stage(precision, model, **options), path, tmp_path / "timing"
    )
    return built, path


@pytest.mark.parametrize("version", VERSIONS)
def test_every_option_a_version_has_is_asked_for_in_its_words(monkeypatch, tmp_path, version):
    simulation = install(monkeypatch, version=version)
    options = {"tf32": True, "workspace_memory": 64 << 20}
    rtx = version.startswith("rtx")
    if not rtx and version != "11.4.0.106":
        options["own_tactics"] = True
    if version != "8.5.3.1":
        options |= {"optimization_level": 2, "hardware_compatible": not rtx}
    with recorded() as reports:
        built, path = build(tmp_path, version, "fp16", **options)
    header = simulation.library.builds[-1]
    asked = json.dumps(header)
    assert "TF32" in header["flags"]
    assert ("FP16" in header["flags"]) == (version in WITH_FLAGS)
    assert ("OBEY_PRECISION_CONSTRAINTS" in header["flags"]) == (version in WITH_FLAGS)
    assert ("AMPERE_PLUS" in asked) == (version != "8.5.3.1" and not rtx)
    assert built.record["flags"]["workspace_memory"] == 64 << 20
    assert bool(reports.phases) == (version not in WITH_FLAGS)
    assert all(0.0 <= share <= 1.0 for _, share in reports.phases)
    backend = backend_for(version)
    engine = backend.load(path, built.record, "trtkit build")
    np.testing.assert_allclose(
        engine.run({"x": PHOTOS})["g"].numpy(), run(classifier(), PHOTOS), atol=0.02
    )


@pytest.mark.parametrize("version", WITH_FLAGS)
def test_heavy_layers_are_held_to_fp16_and_no_others(monkeypatch, version):
    trt = install(monkeypatch, version=version).trt
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    api = Api(trt, "tensorrt")
    network = builder.create_network(api.network_flags(strong=False))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(classifier().SerializeToString())
    heavy = [index for index, _ in network_layers(network, trt)]
    before = [network.get_layer(index).precision for index in range(network.num_layers)]
    api.hold_to_half(builder.create_builder_config(), network, heavy)
    after = [network.get_layer(index).precision for index in range(network.num_layers)]
    assert len(heavy) == 3
    assert [index for index, kind in enumerate(after) if kind != before[index]] == heavy
    assert {after[index] for index in heavy} == {trt.DataType.HALF}


@pytest.mark.parametrize("version", VERSIONS)
def test_tf32_is_off_unless_asked_for(monkeypatch, tmp_path, version):
    simulation = install(monkeypatch, version=version)
    build(tmp_path, version)
    assert "TF32" not in simulation.library.builds[-1]["flags"]


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"optimization_level": 3}, "--optimization-level"),
        ({"hardware_compatible": True}, "--hardware-compatible"),
        ({"version_compatible": True}, "--version-compatible"),
    ],
)
def test_an_option_the_version_lacks(monkeypatch, tmp_path, options, flag):
    install(monkeypatch, version="8.5.3.1")
    with pytest.raises(
        TrtkitError,
        match=rf"tensorrt 8\.5\.3\.1 does not have {flag}, which came with TensorRT 8\.6",
    ):
        build(tmp_path, "8.5.3.1", **options)
    assert not list(tmp_path.glob("*.plan"))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_record_says(monkeypatch, tmp_path, version):
    install(monkeypatch, version=version, device_name="NVIDIA Test", compute_capability=(8, 9))
    built, _ = build(tmp_path, version, "fp16", profiles=((1, 4, 8), (2, 2, 2)))
    record = built.record
    assert (record["gpu"], record["compute_capability"]) == ("NVIDIA Test", "8.9")
    assert record["version"] == backend_for(version).version
    assert record["flags"]["profiles"] == [[1, 4, 8], [2, 2, 2]]
    assert record["build_seconds"] >= 0
    counts = {"heavy": 3, "int8": 0, "fp16": 3, "fp32": 0, "unknown": 0}
    assert record["inspector"] == counts
    # Below 10 the network does not say yet what its engine will compute in.
    assert record["network"] == ({} if version in WITH_FLAGS else counts)
    assert [(s.name, s.dtype) for s in (*built.inputs, *built.outputs)] == [
        ("x", "float32"), ("g", "float32"),
    ]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_in_another_precision_than_asked_for_is_found_out(monkeypatch, tmp_path, version):
    simulation = install(monkeypatch, version=version)
    simulation.library.deliver = "fp32"
    with pytest.raises(
        TrtkitError,
        match=r"3 of 3 heavy layers of the engine of whole are not fp16: "
        r".*\(fp32\).*; nothing was kept",
    ):
        build(tmp_path, version, "fp16")


def test_the_narrowest_profile_that_fits_is_used(monkeypatch, tmp_path):
    install(monkeypatch)
    engine = engines(tmp_path, cut=False, profiles=((1, 4, 8), (2, 2, 2), (3, 4, 5)))[0]
    assert engine.batch == (1, 8)
    assert [engine.profile_for(images) for images in range(1, 9)] == [0, 1, 2, 2, 2, 0, 0, 0]
    for images in (1, 2, 4):
        np.testing.assert_allclose(
            engine.run({"x": PHOTOS[:images]})["g"].numpy(),
            run(classifier(), PHOTOS[:images]),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip


def test_messages_name_the_stage_as_the_user_does(monkeypatch, tmp_path):
    install(monkeypatch)
    built, path = build(tmp_path)
    # A bundle's files are called after the stage and the digits of their content.
    renamed = path.rename(tmp_path / "my-own-model-0123456789abcdef.plan")
    engine = backend_for("10.3.0").load(renamed, built.record, "trtkit build")
    with pytest.raises(TrtkitError, match="my-own-model takes batches of 1 to 64, not"):
        engine.profile_for(65)


def test_a_plan_that_was_cut_short(monkeypatch, tmp_path):
    install(monkeypatch)
    built, path = build(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        TrtkitError,
        match=r"tensorrt 10\.3\.0 cannot load .*whole-1\.plan \(.+\); run `trtkit build`",
    ) as caught:
        backend_for("10.3.0").load(path, built.record, "trtkit build")
    assert "\n" not in str(caught.value)


def test_a_plan_of_elsewhere_says_where_and_how_to_build_it_here(monkeypatch, tmp_path):
    install(monkeypatch, version="8.6.1", device_name="Orin", compute_capability=(8, 7))
    built, path = build(tmp_path, "8.6.1")
    install(monkeypatch, device_name="NVIDIA A10", compute_capability=(8, 6))
    with pytest.raises(
        TrtkitError,
        match=r"^The engine was built with tensorrt 8\.6\.1 on Orin \(compute capability 8\.7\), here "
        r"is tensorrt 10\.3\.0 on NVIDIA A10 \(compute capability 8\.6\); run `trtkit build --bundle "
        r"b` to build it for this machine\.$",
    ):
        backend_for("10.3.0").load(path, built.record, "trtkit build --bundle b")


def test_a_plan_for_later_versions_runs_code_of_its_own_only_when_it_says_so(monkeypatch, tmp_path):
    install(monkeypatch, version="10.3.0")
    built, path = build(tmp_path, version_compatible=True)
    install(monkeypatch, version="11.4.0.106")
    engine = backend_for("11.4.0.106").load(path, built.record, "trtkit build")
    expected = run(classifier(), PHOTOS)
    np.testing.assert_allclose(
        engine.run({"x": PHOTOS})["g"].numpy(), expected, rtol=1e-4, atol=1e-5
    )
    with pytest.raises(TrtkitError, match=r"cannot load .*whole-1\.plan"):
        load_engine(load_library(TENSORRT), path, "trtkit build", version_compatible=False)
    silent = {**built.record, "flags": {**built.record["flags"], "version_compatible": False}}
    with pytest.raises(TrtkitError, match=r"built with tensorrt 10\.3\.0, here is tensorrt 11"):
        backend_for("11.4.0.106").load(path, silent, "trtkit build")


def odd(op, **attributes):
    """The classifier with an operator behind it that TensorRT does not know."""
    model = classifier()
    model.graph.node.append(helper.make_node(op, ["g"], ["odd"], "the_odd_one", **attributes))
    model.graph.output[0].name = "odd"
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("version", VERSIONS)
def test_an_operator_the_parser_refuses(monkeypatch, tmp_path, version):
    install(monkeypatch, version=version)
    with pytest.raises(
        TrtkitError,
        match=r"cannot parse whole \(node the_odd_one \(Softsign\): .+\); export the model without",
    ) as caught:
        build(tmp_path, version, model=odd("Softsign"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.plan"))


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("memory", r"ran out of device memory while it built whole for up to 64 images \(.*Could not "
                   r"find any implementation for node .*; .* of .* are free\); lower --batch or "
                   r"--workspace-memory"),
        (True, r"found no kernel, often for want of memory, while it built whole .* are free\); lower"),
    ],
)  # fmt: skip
def test_a_build_that_fails(monkeypatch, tmp_path, fail, message):
    simulation = install(monkeypatch)
    simulation.library.fail_build = fail
    with pytest.raises(TrtkitError, match=message) as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.plan"))


def test_a_user_who_ends_a_build_ends_it(monkeypatch, tmp_path):
    install(monkeypatch)

    class Interrupting(RecordingReporter):
        def advance(self, phase, share):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), reporting(Interrupting()):
        build(tmp_path)
    assert not list(tmp_path.glob("*.plan"))


@pytest.mark.parametrize(
    ("precision", "options", "message"),
    [
        (
            "fp32",
            {"profiles": ((4, 4, 4),), "dla": 0},
            "--dla takes fp16, not fp32; build with --fp16",
        ),
        ("fp16", {"dla": 0}, "--dla takes one batch size, not a range; .* such as --batch 8"),
        ("fp16", {"profiles": ((4, 4, 4),), "dla": 3}, "There is no DLA 3: .* finds 2 deep"),
    ],
)
def test_dla_requests_that_cannot_be_carried_out(
    monkeypatch, tmp_path, precision, options, message
):
    install(monkeypatch, dla_cores=2)
    with pytest.raises(TrtkitError, match=message):
        build(tmp_path, precision=precision, **options)


@pytest.mark.parametrize("version", ["8.5.3.1", "10.3.0"])
def test_dla_with_the_gpu_for_what_it_cannot_take(monkeypatch, tmp_path, version):
    simulation = install(monkeypatch, version=version, dla_cores=2)
    build(tmp_path, version, "fp16", profiles=((4, 4, 4),), dla=1)
    header = simulation.library.builds[-1]
    # Up to 10 the accelerators are asked for fp16 with a flag.
    assert {"FP16", "GPU_FALLBACK"} <= set(header["flags"])
    assert (header["device_type"], header["dla_core"]) == ("DLA", 1)


def test_int8_needs_a_quantized_graph(monkeypatch, tmp_path):
    install(monkeypatch)
    with pytest.raises(
        TrtkitError, match="int8 needs a quantized graph, but whole has no QuantizeLinear"
    ):
        build(tmp_path, precision="int8")


def test_a_library_that_cannot_be_imported(monkeypatch):
    install(monkeypatch, import_error="libnvinfer.so.10: cannot open shared object file\nmore")
    with pytest.raises(
        TrtkitError,
        match=r"^tensorrt is installed but broken \(libnvinfer\.so\.10: cannot open shared object "
        r"file\); install it again \(`pip install 'trtkit\[tensorrt\]'`\), `trtkit doctor` shows",
    ):
        get_backend("tensorrt")
    install(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        TrtkitError, match="needs tensorrt, which is not installed; run `pip install"
    ):
        get_backend("tensorrt")


def test_auto_takes_tensorrt_where_there_is_a_gpu(monkeypatch):
    install(monkeypatch)
    assert get_backend("auto").name == "tensorrt"
    install(monkeypatch, version="rtx1.7")
    assert get_backend("auto").name == "tensorrt-rtx"
    install(monkeypatch, no_device=True)
    assert get_backend("auto").name == "onnxruntime"
    install(monkeypatch, version="rtx1.7", compute_capability=(9, 0), device_name="NVIDIA H100")
    assert get_backend("auto").name == "onnxruntime"
    assert get_backend("tensorrt-rtx").cannot_run() == (
        "tensorrt-rtx does not run on NVIDIA H100 (compute capability 9.0), only on 8.0, 8.6, 8.9, 12.0, "
        "12.1"
    )


def test_rtx_builds_beside_a_card_it_does_not_run_on(monkeypatch, tmp_path):
    install(monkeypatch, version="rtx1.7", compute_capability=(9, 0))
    built, path = build(tmp_path, "rtx1.7", "fp16")
    assert built.record["inspector"] is None
    assert path.stat().st_size > 0


def test_tensorrt_without_a_gpu_cannot_build(monkeypatch, tmp_path):
    install(monkeypatch, no_device=True)
    backend = get_backend("tensorrt")
    assert backend.cannot_run() == "the NVIDIA driver finds no GPU"
    with pytest.raises(
        TrtkitError,
        match=r"10\.3\.0 cannot build here \(the NVIDIA driver finds no GPU\); it needs",
    ):
        build(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profiles": ()}, "give MIN,OPT,MAX"),
        ({"profiles": ((0, 1, 2),)}, "1 <= MIN <= OPT <= MAX"),
        ({"profiles": ((2, 4, 8), (1, 1, 1))}, "one of the ranges must hold all the others"),
        ({"optimization_level": 6}, "There is no optimization level 6"),
    ],
)
def test_options_that_contradict_themselves(change, message):
    with pytest.raises(TrtkitError, match=message):
        replace(BuildOptions(), **change)


def test_ranges_may_be_given_in_any_order():
    options = BuildOptions.for_batches([(1, 1, 1), (1, 8, 32), (16, 16, 16), (1, 1, 1)])
    assert options.profiles == ((1, 8, 32), (1, 1, 1), (16, 16, 16))
    assert options.batch == (1, 8, 32)
    assert from_plain(json.loads(json.dumps(to_plain(options))), BuildOptions) == options


@pytest.mark.parametrize("version", VERSIONS)
def test_each_binding_has_the_scratch_memory_it_was_given(monkeypatch, tmp_path, version):
    # On 8.5 the bindings of a profile take turns on one context.
    simulation = install(monkeypatch, version=version)
    engine = engines(tmp_path, version, cut=False)[0]
    photos, stream = on_device(PHOTOS), Stream()
    logits = DeviceMemory(4 * 5 * 4, "logits")
    addresses = {"x": photos.pointer, "g": logits.pointer}
    bindings = []
    for _ in range(2):
        scratch = DeviceMemory(engine.scratch_bytes, "a test")
        bindings.append((Binding(engine, 4, addresses, scratch, stream), scratch))
    for turn in (0, 1, 0):
        photos.wait(stream)
        bindings[turn][0].enqueue()
        stream.synchronize()
    first, scratch = bindings.pop(0)
    del first
    scratch.close()
    bindings[0][0].enqueue()
    stream.synchronize()
    del bindings, scratch, engine, photos, logits, stream
    simulation.cuda.assert_clean()


def test_a_plan_that_does_not_fit_the_device(monkeypatch, tmp_path):
    install(monkeypatch)
    built, path = build(tmp_path)
    install(monkeypatch, memory=1 << 10)
    with pytest.raises(
        TrtkitError,
        match=r"not enough device memory for .* to load .*whole-1\.plan \(.+; [\d.]+ \w+ of 1\.0 KiB "
        r"are free\); end what else uses the GPU",
    ):
        backend_for("10.3.0").load(path, built.record, "trtkit build")
