"""Bundles of plans: proved, moved, rebuilt from what they keep; on a simulated GPU."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

import trtkit
from scripts.photos import write_photos
from tests.engines.simulated import install
from trtkit.bundle import MANIFEST, read_manifest
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError
from trtkit.photos.samples import generate_images
from trtkit.runtime.device.runner import DeviceRunner
from trtkit.serialization import write_json
from trtkit.workspace import Workspace

CARD = {"device_name": "NVIDIA A10", "compute_capability": (8, 6)}
OTHER = {"device_name": "NVIDIA L4", "compute_capability": (8, 9)}
SMALL = BuildOptions.for_batches([(1, 2, 4)])


def build(place, *names, **options):
    return trtkit.build(
        list(names), workspace=place.root, **{"verify_images": 2, "options": SMALL, **options}
    )


def rebuild(place, name, **options):
    return trtkit.build(bundle_name=name, workspace=place.root, verify_images=2, **options)


def logits_of(folder, images, **options):
    with trtkit.load(folder, **options) as pipeline:
        return pipeline.logits(images)


@pytest.fixture
def place(make_workspace):
    return make_workspace("resnet18", "resnet34")


def test_a_bundle_records_how_it_was_built(monkeypatch, place):
    install(monkeypatch, **CARD)
    report = build(place, cut=2, precision="fp16")
    manifest = read_manifest(report.folder)
    assert (manifest.backend, manifest.unverified) == ("tensorrt", None)
    assert manifest.verified["by"] == "tensorrt"
    assert [stage.name for stage in manifest.stages] == ["prefix", "resnet18", "resnet34"]
    for stage in manifest.stages:
        assert stage.engine["gpu"] == "NVIDIA A10"
        assert stage.engine["inspector"]["fp16"] == stage.engine["inspector"]["heavy"] > 0
    assert all(c["relative_error"] < 1e-2 for c in manifest.verified["tails"].values())
    kept = {path.name for path in report.folder.iterdir()}
    assert kept == {MANIFEST, *(name for s in manifest.stages for name in s.files())}
    assert build(place, cut=2, precision="fp16").up_to_date


def test_the_prefix_is_one_plan_and_its_logits_are_the_reference_s(monkeypatch, place):
    install(monkeypatch)
    folder = build(place, cut=2).folder
    install(monkeypatch, no_device=True)
    reference = build(place, cut=2, backend="onnxruntime", bundle_name="r").folder
    install(monkeypatch)
    images = generate_images(7, read_manifest(folder).preprocessing, seed=5)
    for tail in ("resnet18", "resnet34"):
        np.testing.assert_allclose(
            logits_of(folder, images, tail=tail),
            logits_of(reference, images, tail=tail),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip


@pytest.mark.parametrize(
    "there", [{**OTHER}, {**CARD, "version": "8.6.1"}, {**CARD, "version": "11.4.0.106"}]
)
def test_a_bundle_from_elsewhere_is_rebuilt_from_the_onnx_it_keeps(
    monkeypatch, place, tmp_path, there
):  # fmt: skip
    install(monkeypatch, **CARD)
    report = build(place, "resnet18", cut=6, precision="fp16", bundle_name="b")
    images = generate_images(3, report.manifest.preprocessing, seed=5)
    before = logits_of(report.folder, images)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(report.folder, elsewhere / "engines" / "b")
    install(monkeypatch, **there)
    with pytest.raises(
        TrtkitError,
        match=r"The engine was built with .*; run `trtkit build --bundle b` to build it",
    ):
        trtkit.load(elsewhere / "engines" / "b")
    here = trtkit.build(bundle_name="b", workspace=elsewhere, verify_images=2)
    assert not here.up_to_date
    assert here.manifest.precision == "fp16"
    assert here.manifest.batch == (1, 2, 4)
    assert [s.id for s in here.manifest.stages] == [s.id for s in report.manifest.stages]
    np.testing.assert_allclose(logits_of(here.folder, images), before, atol=2e-3)
    assert trtkit.build(bundle_name="b", workspace=elsewhere, verify_images=2).up_to_date


def test_a_rebuild_may_change_precision_and_backend_and_back(monkeypatch, place):
    install(monkeypatch, no_device=True)
    build(place, "resnet18", cut=6, precision="fp16", backend="onnxruntime", bundle_name="b")
    install(monkeypatch)
    place.export_path("resnet18").unlink()
    wide = rebuild(place, "b", precision="fp32")
    for stage in wide.manifest.stages:
        assert stage.engine["inspector"]["fp32"] == stage.engine["inspector"]["heavy"] > 0
    install(monkeypatch, no_device=True)
    plain = rebuild(place, "b", backend="onnxruntime")
    assert (plain.manifest.backend, plain.manifest.precision) == ("onnxruntime", "fp32")
    install(monkeypatch)
    again = rebuild(place, "b")
    assert again.manifest.backend == "tensorrt"
    assert [s.id for s in again.manifest.stages] == [s.id for s in wide.manifest.stages]


def test_a_rebuild_keeps_what_is_not_asked_to_change(monkeypatch, place):
    install(monkeypatch)
    first = build(
        place,
        "resnet18",
        cut=6,
        bundle_name="b",
        options={"tf32": True, "workspace_memory": 1 << 28},
    )
    changed = rebuild(
        place, "b", options={"profiles": [(1, 1, 1), (1, 2, 8)], "optimization_level": 0}
    )
    options = changed.manifest.options
    assert (options["tf32"], options["workspace_memory"]) == (True, 1 << 28)
    assert (options["profiles"], options["optimization_level"]) == ([[1, 2, 8], [1, 1, 1]], 0)
    plain = rebuild(place, "b", options={"tf32": False})
    # Feature maps of TF32 and of fp32 are not the same.
    ids = [[stage.id for stage in report.manifest.stages] for report in (first, changed, plain)]
    assert ids[0] == ids[1] != ids[2]


def test_a_rebuild_stays_with_the_library_it_can_still_build_with(monkeypatch, place):
    install(monkeypatch, version="rtx1.7", no_device=True)
    build(place, "resnet18", cut=6, backend="tensorrt-rtx", bundle_name="b")
    assert rebuild(place, "b", precision="fp16").manifest.backend == "tensorrt-rtx"
    install(monkeypatch)
    assert rebuild(place, "b").manifest.backend == "tensorrt"
    install(monkeypatch, no_device=True)
    assert rebuild(place, "b").manifest.backend == "onnxruntime"


def test_what_a_rebuild_needs(monkeypatch, place):
    install(monkeypatch)
    folder = build(place, "resnet18", cut=2, bundle_name="b").folder
    manifest = json.loads((folder / MANIFEST).read_text())
    earlier = {**manifest, "stages": [{**s, "source": None} for s in manifest["stages"]]}
    write_json(folder / MANIFEST, earlier)
    with pytest.raises(TrtkitError, match=r"keeps no ONNX to build from; give the exported models"):
        rebuild(place, "b")
    write_json(folder / MANIFEST, manifest)
    with pytest.raises(TrtkitError, match="Bundle `c` not found in .*; available: "):
        rebuild(place, "c")
    source = next(folder.glob("prefix-source-*.onnx"))
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(TrtkitError, match=r"prefix-source-\w+\.onnx of stage prefix is damaged"):
        rebuild(place, "b")


def test_a_precision_that_is_not_in_the_engine_keeps_no_bundle(monkeypatch, place):
    simulation = install(monkeypatch)
    simulation.library.deliver = "fp32"
    with pytest.raises(TrtkitError, match="5 of 5 heavy layers of the engine of .* are not fp16"):
        build(place, cut=2, precision="fp16")
    assert place.bundles() == []
    assert not [path for path in place.engines.iterdir() if path.name.startswith(".building")]


def test_an_engine_that_computes_something_else_keeps_no_bundle(monkeypatch, place):
    install(monkeypatch)
    real = DeviceRunner.run

    def other(self, wanted, images):
        return {ref: value * 1.01 for ref, value in real(self, wanted, images).items()}

    monkeypatch.setattr(DeviceRunner, "run", other)
    with pytest.raises(TrtkitError, match=r"resnet18 at fp32 disagrees .* nothing was kept"):
        build(place, cut=2)
    assert place.bundles() == []


def test_without_a_gpu_rtx_builds_and_says_that_nothing_was_run(monkeypatch, place, tmp_path):
    install(monkeypatch, version="rtx1.7", no_device=True)
    report = build(place, "resnet18", cut=2, precision="fp16", backend="tensorrt-rtx")
    manifest = report.manifest
    assert (manifest.unverified, manifest.costs) == ("the NVIDIA driver finds no GPU", None)
    assert manifest.verified["by"] == "onnxruntime"
    assert 0 < manifest.verified["tails"]["resnet18"]["relative_error"] < 1e-2
    assert all(stage.engine["inspector"] is None for stage in manifest.stages)
    assert all(stage.engine["network"]["fp16"] for stage in manifest.stages)
    assert build(place, "resnet18", cut=2, precision="fp16", backend="tensorrt-rtx").up_to_date
    name = manifest.name
    with pytest.raises(
        TrtkitError,
        match=rf"{name.replace('+', '.')} was built for tensorrt-rtx, which needs a GPU, but the NVIDIA "
        r"driver finds no GPU; .*`trtkit build --bundle .* --backend onnxruntime` here",
    ):
        trtkit.load(report.folder)
    # On a card it can be used, and is still unverified until it is built there.
    install(monkeypatch, version="rtx1.7", **OTHER)
    assert trtkit.load(report.folder).manifest.unverified
    here = rebuild(place, name)
    assert (here.up_to_date, here.manifest.unverified) == (False, None)
    assert here.manifest.costs["overlaps"], "the engines run beside the processor"
    assert here.manifest.costs["batch"] == here.manifest.batch[1]
    assert here.manifest.verified["by"] == "tensorrt-rtx"
    assert json.loads((here.folder / MANIFEST).read_text())["unverified"] is None


def test_photos_through_plans_and_every_tier_of_the_cache(monkeypatch, place, tmp_path):
    simulation = install(monkeypatch)
    folder = build(place, "resnet18", cut=2, precision="fp16").folder
    write_photos(tmp_path / "photos", count=11, size=(80, 70))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    cache = trtkit.CacheOptions(mode="always", folder=tmp_path / "cache")

    def scores(pipeline):
        return {r.path: r.predictions for r in pipeline.infer([tmp_path / "photos"], top=3)}

    with trtkit.load(folder) as off:
        expected = scores(off)
    hits = []
    for gpu_cache in (0, 0, 1 << 20, 1 << 30):
        with trtkit.load(folder, cache=cache, gpu_cache=gpu_cache) as pipeline:
            for _ in range(2):
                found = scores(pipeline)
                assert found.keys() == expected.keys()
                for path, predictions in found.items():
                    for mine, theirs in zip(predictions, expected[path], strict=True):
                        assert mine.index == theirs.index
                        assert mine.score == pytest.approx(theirs.score, rel=1e-3)
            hits.append((pipeline.stats.hits, pipeline.stats.misses, pipeline.stats.gpu_hits))
    count = len(expected) - 1
    assert hits[0] == (count, count, 0)
    assert hits[1] == (2 * count, 0, 0)
    assert hits[3] == (2 * count, 0, count)
    assert hits[2][:2] == (2 * count, 0)
    del off, pipeline
    simulation.cuda.assert_clean()


def test_a_gpu_cache_without_a_gpu(place):
    folder = build(place, "resnet18", cut=2, backend="onnxruntime").folder
    cache = trtkit.CacheOptions(folder=place.root / "cache")
    with pytest.raises(
        TrtkitError,
        match="runs on onnxruntime on the CPU, which has no GPU cache; leave --gpu-cache out",
    ):
        trtkit.load(folder, cache=cache, gpu_cache=1 << 20)
    with pytest.raises(
        TrtkitError,
        match="no use: the cache behind it is switched off; leave --gpu",
    ):
        trtkit.load(folder, gpu_cache=1 << 20)
    whole = build(place, "resnet18", cut=0, backend="onnxruntime").folder
    with pytest.raises(TrtkitError, match="no use: bundle .* is not split; leave --gpu-cache out"):
        trtkit.load(whole, cache=cache, gpu_cache=1 << 20)
    with (
        trtkit.load(folder) as pipeline,
        pytest.raises(TrtkitError, match="use logits\\(\\), or build"),
    ):
        pipeline.logits_on_device(np.zeros((1, 64, 64, 3), np.uint8))


def test_int8_from_a_quantized_export(monkeypatch, full_exports, tmp_path):
    from tests.quantized import quantize

    install(monkeypatch)
    place = Workspace(tmp_path)
    (tmp_path / "export").mkdir()
    os.link(full_exports / "resnet18.onnx", place.export_path("resnet18"))
    report = build(place, "resnet18", cut=2)
    images = generate_images(2, report.manifest.preprocessing, seed=1)
    quantize(place.export_path("resnet18"), place.export_path("small"), images)
    with pytest.raises(
        TrtkitError,
        match="prefix cannot be built in fp16, because it is quantized: .* build with --int8",
    ):
        build(place, "small", cut=2, precision="fp16")
    with pytest.raises(TrtkitError, match="int8 needs photos to measure ranges on"):
        build(place, "resnet18", cut=2, precision="int8")
    built = build(place, "small", cut=2, precision="int8").manifest
    for stage in built.stages:
        assert stage.engine["inspector"]["int8"] == stage.engine["inspector"]["heavy"]
    assert built.stages[0].outputs[0].dtype == "float16"

    real = DeviceRunner.run

    def one_of_two(self, wanted, images):
        outputs = real(self, wanted, images)
        for logits in outputs.values():
            logits[0] = -logits[0]
        return outputs

    monkeypatch.setattr(DeviceRunner, "run", one_of_two)
    with pytest.raises(
        TrtkitError,
        match=r"agreement 50\.0% \(at least 0\.99\): 1 get another class.* nothing was kept",
    ):
        build(place, "small", cut=3, precision="int8")
    low = build(place, "small", cut=3, precision="int8", min_agreement=0.5)
    assert low.manifest.verified["tails"]["small"]["agreement"] == 0.5


def test_plans_are_damaged_or_gone(monkeypatch, place):
    install(monkeypatch)
    report = build(place, "resnet18", cut=2)
    path = next(report.folder.glob("prefix-*.plan"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrtkitError, match=r"prefix-\w+\.plan of stage prefix is damaged"):
        trtkit.load(report.folder)
    path.unlink()
    with pytest.raises(TrtkitError, match="cannot be read"):
        trtkit.load(report.folder)
    assert not build(place, "resnet18", cut=2).up_to_date
