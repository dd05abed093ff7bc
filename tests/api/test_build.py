"""Building bundles: sharing, verifying, all or nothing, and doing nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import trtkit
from tests.graph.onnx_graphs import run
from tests.pictures import write_photos
from tests.reports import recorded
from trtkit import CacheOptions, TrtkitError
from trtkit.building import assemble
from trtkit.bundle import MANIFEST, read_manifest
from trtkit.costs.caching import entry_bytes
from trtkit.engines.registry import get_backend
from trtkit.photos.samples import generate_images
from trtkit.publishing import LOCK
from trtkit.runtime.models import LoadedModel
from trtkit.runtime.pipeline import load
from trtkit.serialization import from_plain, write_json
from trtkit.store.costs import CacheCosts, machine_of


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def build(place, *names, **options):
    options = {"verify_images": 3, **options}
    return trtkit.build(list(names), workspace=place.root, **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_prefix_and_two_tails(make_workspace, precision):
    place = make_workspace("resnet18", "resnet34")
    report = build(place, cut=2, precision=precision)
    manifest = report.manifest
    assert report.folder == place.engines / f"resnet18+resnet34-cut2-{precision}"
    assert [(s.name, s.parent) for s in manifest.stages] == [
        ("prefix", None), ("resnet18", "prefix"), ("resnet34", "prefix"),
    ]  # fmt: skip
    kept = {name for stage in manifest.stages for name in stage.files()}
    assert set(files(report.folder)) == {MANIFEST, *kept}
    assert len(kept) == 6, "an engine and its source for each stage"
    boundary = manifest.stages[0].outputs[0]
    assert [stage.role for stage in manifest.stages] == ["prefix", "head", "head"]
    assert boundary.kind == "feature_map"
    for tail in manifest.tails:
        (taken,) = tail.inputs
        assert (taken.source, taken.dtype, taken.shape) == (
            boundary.name, boundary.dtype, boundary.shape,
        )  # fmt: skip
    assert boundary.dtype == {"fp32": "float32", "fp16": "float16"}[precision]
    assert boundary.shape == (None, 8, 16, 16)
    images = generate_images(3, manifest.preprocessing, seed=9)
    for name in ("resnet18", "resnet34"):
        whole = run(onnx.load(place.export_path(name)), images)
        with load(report.folder, tail=name) as pipeline:
            logits = pipeline.logits(images)
        error = np.abs(logits - whole).max() / np.abs(whole).max()
        assert error < {"fp32": 1e-5, "fp16": 5e-3}[precision]
        comparison = manifest.verified["tails"][name]
        assert 0 <= comparison["relative_error"] < {"fp32": 1e-5, "fp16": 5e-3}[precision]
        assert comparison["agreement"] == 1.0


def test_the_manifest_is_what_programs_are_promised(make_workspace):
    place = make_workspace("resnet18")
    report = build(place, cut=3)
    value = json.loads((report.folder / MANIFEST).read_text())
    assert {"name", "cut", "precision", "backend", "stages", "verified"} <= value.keys()
    assert (value["name"], value["cut"], value["precision"], value["backend"]) == (
        "resnet18-cut3-fp32", 3, "fp32", "onnxruntime",
    )  # fmt: skip
    for stage in value["stages"]:
        assert {"name", "id", "parent", "file", "inputs", "outputs"} <= stage.keys()
    assert (value["verified"]["source"], value["verified"]["images"]) == ("generated", 3)
    assert read_manifest(report.folder) == report.manifest


def test_photos_in_calibration_are_what_it_is_verified_on(make_workspace):
    place = make_workspace("resnet18")
    write_photos(place.calibration, count=4, size=(80, 80))
    verified = build(place, cut=1).manifest.verified
    assert (verified["source"], verified["images"]) == (str(place.calibration), 3)


def test_a_split_bundle_says_what_its_cache_costs_and_saves_here(make_workspace, own_cache):
    place = make_workspace("resnet18", "resnet34")
    report = build(place, cut=2, precision="fp16")
    costs = from_plain(json.loads((report.folder / MANIFEST).read_text())["costs"], CacheCosts)
    assert costs.machine == machine_of(get_backend("onnxruntime"))
    assert costs.tails.keys() == {"resnet18", "resnet34"}
    assert (costs.batch, costs.overlaps) == (4, False)
    boundary = np.zeros((8, 16, 16), np.float16)
    assert costs.store.keys() == {"fp16"}
    assert costs.store["fp16"].bytes == entry_bytes(boundary, CacheOptions())
    assert min(costs.decode, costs.store["fp16"].read, *costs.tails.values()) > 0
    assert list(own_cache.iterdir()) == []
    with load(report.folder, cache=CacheOptions()) as pipeline:
        assert "computed anew" in pipeline.cache_decision.why


def test_an_unsplit_bundle_has_no_costs(make_workspace):
    report = build(make_workspace("resnet18"), cut=0)
    assert report.manifest.costs is None
    assert json.loads((report.folder / MANIFEST).read_text())["costs"] is None


@pytest.mark.parametrize(
    ("batch", "measured"), [((1, 1, 1), 1), ((1, 2, 64), 2), ((8, 8, 8), 4), ((1, 8, 64), 4)]
)
def test_costs_are_of_batches_that_the_engines_take(make_workspace, batch, measured):
    options = trtkit.BuildOptions(profiles=(batch,))
    report = build(make_workspace("resnet18"), cut=2, options=options, verify_images=1)
    assert report.manifest.costs["batch"] == measured


def test_costs_are_measured_on_a_few_photos_of_all(make_workspace, monkeypatch):
    place = make_workspace("resnet18")
    written = write_photos(place.calibration, count=5, size=(80, 80))
    seen = []
    real = assemble.measure_costs
    monkeypatch.setattr(assemble, "COST_PHOTOS", 3)
    monkeypatch.setattr(
        assemble, "measure_costs", lambda *given: (seen.append(given[2]), real(*given))[1]
    )
    build(place, cut=2, verify_images=5)
    build(place, cut=3, verify_images=1)
    assert seen == [(written[0], written[1], written[3]), (written[0],) * 3]


@pytest.mark.parametrize(
    ("failing", "error"),
    [
        ("engine_costs", TrtkitError("There is no memory.")),
        ("measure_costs", TrtkitError("The disk is full.")),
        ("scratch_folder", OSError(errno.EROFS, "Read-only file system")),
    ],
)
def test_costs_that_cannot_be_measured_fail_no_build(make_workspace, monkeypatch, failing, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(assemble, failing, fail)
    with recorded() as reports:
        report = build(make_workspace("resnet18"), cut=2)
    assert report.manifest.costs is None
    with load(report.folder, cache=CacheOptions()) as pipeline:
        assert pipeline.cache_decision.why.endswith("was not measured on this machine.")
    text = f"The cache will be used, because its costs could not be measured. {error}"
    assert (text in reports.messages) == (failing != "engine_costs")


def test_building_the_same_again_does_nothing(make_workspace):
    place = make_workspace("resnet18")
    first = build(place, cut=2)
    other = build(place, cut=3)
    assert place.find_bundle(None) == other.folder
    before = {path: path.stat().st_mtime_ns for path in first.folder.glob("*.onnx")}
    second = build(place, cut=2)
    assert (first.up_to_date, second.up_to_date) == (False, True)
    assert second.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in first.folder.glob("*.onnx")} == before
    # It is now the one that was asked for last.
    assert place.find_bundle(None) == first.folder


@pytest.mark.parametrize(
    "change",
    [
        {"options": trtkit.BuildOptions(profiles=((1, 4, 8),))},
        {"cut": 3},
        {"precision": "fp16"},
        {"verify_images": 2},
    ],
)
def test_another_request_builds_anew(make_workspace, change):
    place = make_workspace("resnet18")
    build(place, cut=2, bundle_name="b")
    report = build(place, **{"cut": 2, "bundle_name": "b", **change})
    assert not report.up_to_date
    assert set(files(report.folder)) == {
        MANIFEST,
        *(name for stage in report.manifest.stages for name in stage.files()),
    }


def test_a_damaged_bundle_is_built_anew(make_workspace):
    place = make_workspace("resnet18")
    report = build(place, cut=2)
    path = report.folder / report.manifest.stages[1].file
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(TrtkitError, match=r"stage resnet18 is damaged: .*trtkit build"):
        load(report.folder)
    assert not build(place, cut=2).up_to_date
    assert path.read_bytes() == intact
    path.unlink()
    with pytest.raises(TrtkitError, match=r"stage resnet18 cannot be read \(No such file"):
        load(report.folder)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 99}', "\x00\xff"])
def test_a_damaged_manifest_is_one_sentence_and_is_built_anew(make_workspace, content):
    place = make_workspace("resnet18")
    report = build(place, cut=2)
    (report.folder / MANIFEST).write_text(content, encoding="latin-1")
    with pytest.raises(TrtkitError, match=r"manifest .* cannot be read .* build the bundle again"):
        load(report.folder)
    assert not build(place, cut=2).up_to_date
    load(report.folder).close()


def test_a_bundle_for_another_backend_says_so(make_workspace):
    place = make_workspace("resnet18")
    report = build(place, cut=2)
    path = report.folder / MANIFEST
    write_json(path, {**json.loads(path.read_text()), "backend": "tensorrt"})
    with pytest.raises(
        TrtkitError,
        match=r"was built for the tensorrt backend; available here: .*onnxruntime; run `trtkit build "
        "--bundle resnet18-cut2-fp32` to build it for this machine",
    ):
        load(report.folder)


def test_prefixes_that_differ_name_the_weight(make_workspace):
    place = make_workspace("resnet34", "other")
    with pytest.raises(
        TrtkitError, match=r"prefixes differ from block 1 on, first in conv1\.weight; .* one by one"
    ):
        build(place, "resnet34", "other", cut=2)
    assert not list(place.engines.iterdir())


def test_a_cut_past_the_shared_blocks_says_how_far_they_go(make_workspace):
    place = make_workspace("resnet18", "resnet34")
    with pytest.raises(TrtkitError, match="choose a cut up to 2, up to which they are the same"):
        build(place, cut=3)


def test_models_that_prepare_photos_differently_cannot_share(make_workspace):
    # Unsplit ones neither: the bundle has one preprocessing, and one of them would get the other's.
    place = make_workspace("resnet18")
    trtkit.export("resnet34", weights="random", image_size=96, workspace=place.root)
    for cut in (2, 0):
        with pytest.raises(TrtkitError, match=r"prepare photos differently .* --image-size"):
            build(place, cut=cut)


def test_several_unsplit_models_in_one_bundle(make_workspace):
    place = make_workspace("resnet18", "resnet34")
    report = build(place, cut=0)
    assert [(s.name, s.parent) for s in report.manifest.stages] == [
        ("resnet18", None), ("resnet34", None),
    ]  # fmt: skip
    images = generate_images(2, report.manifest.preprocessing, seed=3)
    for name in ("resnet18", "resnet34"):
        with load(report.folder, tail=name) as pipeline:
            logits = pipeline.logits(images)
        expected = run(onnx.load(place.export_path(name)), images)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_bundle_that_is_up_to_date_needs_no_writing(make_workspace, monkeypatch):
    place = make_workspace("resnet18")
    build(place, cut=2)

    def refuse(self, *arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("touch", "mkdir", "write_bytes", "write_text"):
        monkeypatch.setattr(Path, name, refuse)
    assert build(place, cut=2).up_to_date


def test_a_link_that_leads_nowhere_among_the_photos(make_workspace):
    place = make_workspace("resnet18")
    write_photos(place.calibration, count=2, size=(80, 80))
    (place.calibration / "a.jpg").symlink_to("nowhere.jpg")
    assert build(place, cut=1).manifest.verified["images"] == 2
    write_photos(place.calibration / "more", count=1, size=(80, 80))
    (place.calibration / "a.jpg").unlink()
    (place.calibration / "a.jpg").symlink_to(next((place.calibration / "more").iterdir()))
    assert not build(place, cut=1).up_to_date


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut": 9}, "resnet18 has 8 blocks and no cut 9; choose 1 to 8"),
        (
            {"cut": 2, "precision": "fp8"},
            "onnxruntime builds fp32, fp16, int8, not fp8; choose one of those",
        ),
        ({"cut": 2, "precision": "int8"}, "int8 needs photos to measure ranges on"),
        ({"cut": 2, "backend": "openvino"}, "Backend `openvino` not found"),
        ({}, "No --cut given; give the number of the block"),
        ({"cut": 2, "min_agreement": 99}, "give a share from 0 to 1"),
        ({"cut": 2, "options": trtkit.BuildOptions(tf32=True)}, "onnxruntime does not have --tf32"),
        ({"cut": 2, "bundle_name": "../escape"}, "cannot be the name"),
        ({"cut": 2, "verify_images": 0}, "give 1 or more"),
    ],
)
def test_requests_that_cannot_be_carried_out(make_workspace, options, message):
    place = make_workspace("resnet18")
    with pytest.raises(TrtkitError, match=message):
        build(place, "resnet18", **options)
    assert not place.engines.exists() or not list(place.engines.iterdir())


def test_names_that_do_not_exist(make_workspace, tmp_path):
    place = make_workspace("resnet18")
    with pytest.raises(TrtkitError, match="Model `resnet81` not found .*; available: resnet18"):
        build(place, "resnet81", cut=2)
    with pytest.raises(TrtkitError, match="resnet18 is named twice; name each model once"):
        build(place, "resnet18", "resnet18", cut=2)
    with pytest.raises(TrtkitError, match="No exported model in .* run `trtkit export MODEL`"):
        trtkit.build(cut=2, workspace=tmp_path / "empty")


@pytest.mark.parametrize("keep", [0, 100, 100_000])
def test_a_damaged_export(make_workspace, keep):
    place = make_workspace("resnet18")
    path = place.export_path("resnet18")
    content = path.read_bytes()
    path.unlink()  # a hard link to the other tests' file
    path.write_bytes(content[:keep])
    with pytest.raises(TrtkitError, match=r"resnet18") as caught:
        build(place, cut=2)
    assert "\n" not in str(caught.value)


def test_an_engine_that_disagrees_leaves_no_bundle(make_workspace, monkeypatch):
    place = make_workspace("resnet18")
    build(place, cut=2, bundle_name="b")
    before = files(place.engines / "b")
    real = LoadedModel.classify
    monkeypatch.setattr(
        LoadedModel,
        "classify",
        lambda self, images: real(self, images) * (1.0 if self.cut is None else 1.1),
    )
    with pytest.raises(TrtkitError, match=r"resnet18 at fp32 disagrees .* nothing was kept"):
        build(place, cut=3, bundle_name="b")
    assert files(place.engines / "b") == before
    assert sorted(path.name for path in place.engines.iterdir()) == [LOCK, "b"]


def test_a_full_disk_leaves_nothing(make_workspace, monkeypatch):
    place = make_workspace("resnet18")
    build(place, cut=2, bundle_name="b")
    before = files(place.engines / "b")
    real = Path.write_bytes

    def full(self, data):
        if "engines" in self.parts:
            real(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TrtkitError, match=r"cannot be written \(No space left on device\)"):
        build(place, cut=3, bundle_name="b")
    assert files(place.engines / "b") == before
    assert sorted(path.name for path in place.engines.iterdir()) == [LOCK, "b"]


def test_a_read_only_workspace(make_workspace, monkeypatch):
    place = make_workspace("resnet18")

    def refuse(self, *args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(TrtkitError, match=r"cannot be written \(Read-only file system\)"):
        build(place, cut=2)


@pytest.mark.slow
def test_killing_a_build_leaves_the_old_bundle(make_workspace):
    place = make_workspace("resnet18")
    build(place, cut=2, bundle_name="b")
    before = files(place.engines / "b")
    command = [
        sys.executable, "-m", "trtkit", "build", "resnet18", "--cut", "3", "--bundle", "b",
        "--workspace", str(place.root),
    ]  # fmt: skip
    for step in ("Building prefix", "Building resnet18", "Verifying"):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(step):
                break
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert files(place.engines / "b") == before
        load(place.engines / "b").close()
    # The next build sweeps away what the killed ones left.
    build(place, cut=3, bundle_name="b")
    assert sorted(path.name for path in place.engines.iterdir()) == [LOCK, "b"]
