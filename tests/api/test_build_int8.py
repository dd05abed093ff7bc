"""int8 bundles: calibrated, judged, cut at an int8 boundary, for the processor and for TensorRT."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import trtkit
from tests.engines.simulated import install
from tests.reports import recorded
from tests.thin import thin_networks
from trtkit.bundle import read_manifest
from trtkit.engines.registry import get_backend
from trtkit.errors import TrtkitError
from trtkit.extras import EXTRAS
from trtkit.graph.files import write_sealed
from trtkit.identity import file_digest
from trtkit.quantization import calibrate
from trtkit.quantization.ranges import Ranges, ranges_path, read_ranges
from trtkit.workspace import Workspace

pytestmark = pytest.mark.skipif(
    not all(package.installed for package in EXTRAS["quantize"].packages),
    reason="ModelOpt is not installed, which has nothing for Python 3.10",
)

NAMES = ("resnet18", "resnet34")
CUT = 2
# ModelOpt leaves convolutions of fewer than 16 channels alone, so that thinner ones would be float.
THINNER = 4
# By the 16 of 80 photos that are held out, if all of them keep their best class.
PROVABLE = 0.82


@pytest.fixture(scope="session")
def quarter_exports(make_once: Callable[..., Path]) -> Path:
    """A folder with resnet18 and resnet34 with a quarter of their channels, random weights."""

    def make(root: Path) -> None:
        with thin_networks(THINNER):
            for name in NAMES:
                trtkit.export(name, weights="random", image_size=64, workspace=root)

    return make_once("quarter-exports", make) / "export"


@pytest.fixture(scope="session")
def calibrated(make_once: Callable[..., Path], quarter_exports: Path, digits: Path) -> Path:
    """A workspace whose models were calibrated on digits, by ModelOpt. Do not change it.

    By `max`: entropy takes ten seconds of a resnet34, whatever its channels.
    """

    def make(root: Path) -> None:
        (root / "export").symlink_to(quarter_exports)
        shutil.copytree(digits, root / "calibration")
        with recorded() as reports:
            trtkit.build(
                NAMES, cut=CUT, precision="int8", backend="onnxruntime", min_agreement=0.0,
                calibration_method="max", workspace=root,
            )  # fmt: skip
        # 80 photos, a fifth of them held out.
        for name in NAMES:
            text = f"Calibrating {name} on 64 photos of {root / 'calibration'}, by max"
            assert text in reports.messages
        assert sum("to calibrate on: 64; " in text for text in reports.messages) == 1

    return make_once("calibrated", make)


@pytest.fixture
def place(tmp_path: Path, calibrated: Path) -> Workspace:
    """A copy that may be changed: exports, photos and ranges, but no bundle."""
    root = tmp_path / "workspace"
    (root / "export").mkdir(parents=True)
    for name in NAMES:
        os.link(calibrated / "export" / f"{name}.onnx", root / "export" / f"{name}.onnx")
    shutil.copytree(calibrated / "calibration", root / "calibration")
    return Workspace(root)


@pytest.fixture(scope="session")
def calibrated_training(make_once: Callable[..., Path], digits: Path) -> Path:
    """A workspace with one trained model under two names, calibrated. Do not change it.

    With all its channels: in a thin one a layer with a bad range changes no class.
    """

    def make(root: Path) -> None:
        place = Workspace(root)
        report = trtkit.train(
            digits, arch="resnet18", weights="random", image_size=32, epochs=2,
            optimizer="adamw", lr=1e-3, augmentation="none", workspace=root,
        )  # fmt: skip
        trtkit.export(report.checkpoint, name="one", workspace=root)
        shutil.copy(place.export_path("one"), place.export_path("two"))
        shutil.copytree(digits, root / "calibration")
        with recorded() as reports:
            trtkit.build(
                ["one"], cut=0, precision="int8", backend="onnxruntime", min_agreement=0.0,
                workspace=root,
            )  # fmt: skip
        text = f"Calibrating one on 64 photos of {root / 'calibration'}, by entropy"
        assert text in reports.messages
        ranges, _ = read_ranges(ranges_path(place.calibration, "one"))
        second = replace(ranges, model="two", digest=file_digest(place.export_path("two")), kept={})
        replace(ranges, kept={}).write(ranges_path(place.calibration, "one"))
        second.write(ranges_path(place.calibration, "two"))

    return make_once("trained", make)


@pytest.fixture
def trained(tmp_path: Path, calibrated_training: Path) -> Workspace:
    """A copy that may be changed, without bundles."""
    for part in ("export", "calibration"):
        shutil.copytree(calibrated_training / part, tmp_path / "trained" / part)
    return Workspace(tmp_path / "trained")


@pytest.fixture
def measured_again(monkeypatch: pytest.MonkeyPatch, place: Workspace) -> list[str]:
    """The models that are calibrated, from now on by what was measured before."""
    known = {name: read_ranges(ranges_path(place.calibration, name))[0] for name in NAMES}
    calls: list[str] = []

    def measure(model, digest, photos, method) -> Ranges:
        calls.append(model.name)
        return replace(known[model.name], digest=digest, images=photos.id, method=method, kept={})

    monkeypatch.setattr(calibrate, "measure_ranges", measure)
    return calls


def build(place: Workspace, *names: str, **options: object):
    usual = {
        "cut": CUT, "precision": "int8", "backend": "onnxruntime", "min_agreement": 0.0,
        "verify_images": 4,
    }  # fmt: skip
    return trtkit.build(names or NAMES, workspace=place.root, **{**usual, **options})


def change_ranges(place: Workspace, name: str, change: Callable[[Ranges], Ranges]) -> None:
    path = ranges_path(place.calibration, name)
    ranges, _ = read_ranges(path)
    change(ranges).write(path)


def nodes(place: Workspace, name: str) -> list[onnx.NodeProto]:
    return list(onnx.load(place.exports / f"{name}.onnx").graph.node)


def layer(place: Workspace, name: str, weight: str) -> onnx.NodeProto:
    """The layer that holds a weight; the exporter chooses the names of nodes and tensors."""
    return next(node for node in nodes(place, name) if weight in node.input)


def scales(path: Path) -> dict[str, float]:
    model = onnx.load(path)
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    return {
        node.input[0]: float(weights[node.input[1]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and weights[node.input[1]].ndim == 0
    }


def test_two_tails_stand_on_one_int8_prefix(calibrated: Path, digits: Path) -> None:
    folder = Workspace(calibrated).find_bundle("resnet18+resnet34-cut2-int8")
    manifest = read_manifest(folder)
    prefix, *tails = manifest.stages
    assert [str(spec) for spec in prefix.outputs] == ["block_2_quantized uint8 N x 16 x 16 x 16"]
    assert [tail.parent for tail in tails] == ["prefix", "prefix"]
    assert (manifest.precision, manifest.computes) == ("int8", "int8 (the rest in fp32)")
    assert manifest.quantized["calibrated_on"] == 64
    assert manifest.quantized["held_out"] == 16
    assert manifest.quantized["models"]["resnet34"]["kept"] == []
    # The first one's feature maps are the second one's, a byte for each value.
    options = trtkit.CacheOptions(mode="always", dtype="int8")
    for tail, (hits, misses) in zip(NAMES, ((0, 80), (80, 0)), strict=True):
        with trtkit.load(folder, tail=tail, cache=options) as pipeline:
            results = list(pipeline.infer([digits]))
        assert not any(result.error for result in results)
        assert (pipeline.stats.hits, pipeline.stats.misses) == (hits, misses)


def test_int8_is_near_fp32_on_real_kernels(calibrated: Path, digits: Path) -> None:
    place = Workspace(calibrated)
    exact = trtkit.build(["resnet18"], cut=0, backend="onnxruntime", workspace=calibrated).folder
    narrow = place.find_bundle("resnet18+resnet34-cut2-int8")
    images = sorted(digits.rglob("*.jpg"))[:16]
    outcomes = []
    for folder in (exact, narrow):
        with trtkit.load(folder, tail="resnet18") as pipeline:
            outcomes.append([result.predictions[0].score for result in pipeline.infer(images)])
    np.testing.assert_allclose(outcomes[1], outcomes[0], rtol=0.2)
    assert outcomes[0] != outcomes[1]


def test_the_file_of_ranges_says_where_they_come_from(
    calibrated: Path, calibrated_training: Path
) -> None:
    text = (calibrated_training / "calibration" / "one.ranges.json").read_text()
    assert (json.loads(text)["method"], json.loads(text)["model"]) == ("entropy", "one")
    value = json.loads((calibrated / "calibration" / "resnet18.ranges.json").read_text())
    assert value["tool"].startswith("nvidia-modelopt ")
    assert (value["method"], value["count"], value["model"]) == ("max", 64, "resnet18")
    first = layer(Workspace(calibrated), "resnet18", "conv1.weight")
    by_kind = {node.op_type: node for node in nodes(Workspace(calibrated), "resnet18")}
    # Behind the last pooling, which a GPU computes in fp16 and the processor in int8.
    pooled = by_kind["GlobalAveragePool"].output[0]
    inner = {first.input[0], by_kind["MaxPool"].input[0], pooled}
    assert inner | {"block_2", "block_8"} <= value["ranges"].keys()
    assert value["edges"][first.name] == [0]


def test_ranges_are_used_again(place: Workspace, measured_again: list[str]) -> None:
    with recorded() as reports:
        build(place)
        build(place, cut=1)
    assert measured_again == []
    expected = "The ranges of resnet18 are those of "
    assert sum(text.startswith(expected) for text in reports.messages) == 2


def test_other_photos_calibrate_anew(place: Workspace, measured_again: list[str]) -> None:
    first = build(place, "resnet18", cut=0)
    assert build(place, "resnet18", cut=0).up_to_date
    next(iter(sorted((place.calibration / "0").iterdir()))).unlink()
    with recorded() as reports:
        second = build(place, "resnet18", cut=0)
    assert measured_again == ["resnet18"]
    assert any(
        "no longer holds (the photos are others): resnet18 is calibrated anew" in text
        for text in reports.messages
    )
    assert first.manifest.build_id != second.manifest.build_id


def test_another_model_of_that_name_calibrates_anew(
    place: Workspace, measured_again: list[str]
) -> None:
    shutil.copy(place.exports / "resnet34.onnx", place.exports / "copy.onnx")
    (place.exports / "resnet18.onnx").unlink()
    (place.exports / "copy.onnx").rename(place.exports / "resnet18.onnx")
    with recorded() as reports, pytest.raises(KeyError):
        # The replacement of ModelOpt has only the old model's tensors.
        build(place, "resnet18", cut=0)
        raise KeyError
    assert any("(the model is another one)" in text for text in reports.messages)
    assert measured_again == ["resnet18"]


def test_another_method_calibrates_anew(place: Workspace, measured_again: list[str]) -> None:
    build(place, "resnet18", cut=0, calibration_method="entropy")
    assert measured_again == ["resnet18"]
    assert read_ranges(ranges_path(place.calibration, "resnet18"))[0].method == "entropy"


def test_a_damaged_file_of_ranges_is_measured_anew(
    place: Workspace, measured_again: list[str]
) -> None:
    ranges_path(place.calibration, "resnet18").write_text("{")
    with recorded() as reports:
        build(place, "resnet18", cut=0)
    assert measured_again == ["resnet18"]
    assert any("no longer holds (the file cannot be read" in text for text in reports.messages)


def test_the_prefix_has_the_first_models_ranges(place: Workspace) -> None:
    def wider(ranges: Ranges) -> Ranges:
        return replace(ranges, ranges={name: 2 * each for name, each in ranges.ranges.items()})

    change_ranges(place, "resnet34", wider)
    report = build(place)
    first, second = (read_ranges(ranges_path(place.calibration, name))[0] for name in NAMES)
    assert second.ranges["block_1"] == pytest.approx(2 * first.ranges["block_1"])
    by_name = {stage.name: scales(report.folder / stage.source) for stage in report.manifest.stages}
    assert by_name["prefix"]["block_1"] == pytest.approx(first.ranges["block_1"] / 255)
    # Behind the cut each has its own.
    assert by_name["resnet34"]["block_3"] == pytest.approx(second.ranges["block_3"] / 255)


def factor(place: Workspace, name: str, by: float, *tensors: str) -> None:
    """Multiply these ranges of a model, all of them without names."""

    def change(ranges: Ranges) -> Ranges:
        return replace(
            ranges,
            ranges={
                tensor: each * by if not tensors or tensor in tensors else each
                for tensor, each in ranges.ranges.items()
            },
        )

    change_ranges(place, name, change)


def test_a_layer_with_a_bad_range_returns_to_float(trained: Workspace) -> None:
    good = build(trained, "one").manifest.quantized["models"]["one"]
    assert good["agreement"] >= 0.9
    bad = layer(trained, "one", "layer3.0.conv2.weight")
    factor(trained, "one", 1 / 500, bad.input[0])
    with recorded() as reports:
        report = build(trained, "one", min_agreement=PROVABLE, calibration_method="entropy")
    record = report.manifest.quantized["models"]["one"]
    assert record["kept"] == [bad.name]
    assert 0 < record["kept_flops_share"] < 0.2
    assert record["agreement"] >= good["agreement"]
    assert any(
        bad.name in text and "1 of " in text and " layers stay float" in text
        for text in reports.messages
    )
    # It is remembered, and not sought again.
    stored = read_ranges(ranges_path(trained.calibration, "one"))[0]
    assert list(stored.kept.values()) == [(bad.name,)]


def test_a_layer_of_the_prefix_that_one_model_needs_float_is_so_for_both(
    trained: Workspace,
) -> None:
    # Without its first layer the network sees nothing; shortcuts go around the others.
    first = layer(trained, "one", "conv1.weight")
    factor(trained, "one", 1e-4, first.input[0])
    report = build(trained, "one", "two", min_agreement=PROVABLE, calibration_method="entropy")
    kept = {name: found["kept"] for name, found in report.manifest.quantized["models"].items()}
    assert kept["one"] == kept["two"] == [first.name]
    assert [stage.name for stage in report.manifest.stages] == ["prefix", "one", "two"]


def test_where_nothing_helps_there_is_no_bundle(trained: Workspace) -> None:
    factor(trained, "one", 1e-4)
    with pytest.raises(
        TrtkitError, match="int8 does not keep the accuracy of one: .* does not help"
    ):
        build(trained, "one", min_agreement=PROVABLE, calibration_method="entropy")
    assert trained.bundles() == []


@pytest.fixture
def by_method(monkeypatch: pytest.MonkeyPatch, trained: Workspace) -> dict[str, float]:
    """What the good ranges of the model are multiplied with by each method; none is stored yet."""
    path = ranges_path(trained.calibration, "one")
    known, _ = read_ranges(path)
    path.unlink()
    factors: dict[str, float] = {}

    def measure(model, digest, photos, method) -> Ranges:
        by = factors.pop(method)
        return replace(
            known, method=method, ranges={name: by * each for name, each in known.ranges.items()}
        )

    monkeypatch.setattr(calibrate, "measure_ranges", measure)
    return factors


def test_where_entropy_is_not_enough_max_is_tried(
    trained: Workspace, by_method: dict[str, float]
) -> None:
    by_method.update(entropy=1e-4, max=1.0)
    with recorded() as reports:
        report = build(trained, "one", min_agreement=PROVABLE)
    assert report.manifest.quantized["method"] == "max"
    assert report.manifest.quantized["models"]["one"]["kept"] == []
    assert any(
        "calibrated by entropy, " in text and text.endswith(" by max") for text in reports.messages
    )
    # Neither is measured again: `by_method` has nothing left.
    build(trained, "one", min_agreement=PROVABLE, cut=1)
    assert read_ranges(ranges_path(trained.calibration, "one"))[0].method == "max"


def test_where_entropy_is_enough_max_is_not_measured(
    trained: Workspace, by_method: dict[str, float]
) -> None:
    by_method.update(entropy=1.0, max=1.0)
    assert build(trained, "one", min_agreement=PROVABLE).manifest.quantized["method"] == "entropy"
    assert by_method == {"max": 1.0}


def test_where_neither_is_enough_max_is_not_measured_again(
    trained: Workspace, by_method: dict[str, float]
) -> None:
    by_method.update(entropy=1e-4, max=1e-5)
    for _ in range(2):
        with pytest.raises(TrtkitError, match="int8 does not keep the accuracy of one"):
            build(trained, "one", min_agreement=PROVABLE)
    stored = read_ranges(ranges_path(trained.calibration, "one"))[0]
    assert (stored.method, stored.rejected) == ("entropy", ("max",))


def test_a_trained_model_keeps_its_top_1(trained: Workspace, digits: Path) -> None:
    report = build(trained, "one", min_agreement=PROVABLE)
    record = report.manifest.quantized["models"]["one"]
    assert record["images"] == 16
    assert abs(record["top1"] - record["reference_top1"]) <= 0.01
    assert 0 < record["error"] < 0.2
    exact = build(trained, "one", precision="fp32", min_agreement=None)
    scores = trtkit.evaluate(
        digits, bundles=[exact.folder, report.folder], part="all", workspace=trained.root
    )
    assert scores.subjects[1].agreement >= 0.9


@pytest.mark.parametrize("version", ["8.5.3.1", "10.3.0", "11.4.0.106"])
def test_tensorrt_gets_an_int8_boundary_in_every_version(
    monkeypatch: pytest.MonkeyPatch, place: Workspace, version: str
) -> None:
    install(monkeypatch, version=version)
    report = build(place, backend="tensorrt")
    prefix, *tails = report.manifest.stages
    assert [str(spec) for spec in prefix.outputs] == ["block_2_quantized int8 N x 16 x 16 x 16"]
    assert prefix.engine["inspector"]["int8"] == 5
    assert tails[0].engine["inspector"]["int8"] >= 14
    assert report.manifest.quantized["form"] == "symmetric"


def test_rtx_builds_real_plans(place: Workspace) -> None:
    backend = get_backend("tensorrt-rtx")
    if backend.cannot_build() is not None:
        pytest.skip(str(backend.cannot_build()))
    report = build(place, "resnet18", backend="tensorrt-rtx")
    prefix, tail = report.manifest.stages
    assert prefix.outputs[0].dtype == tail.inputs[0].dtype == "int8"
    for stage, count in ((prefix, 5), (tail, 15)):
        assert (stage.engine.get("inspector") or stage.engine["network"])["int8"] == count
    # Another form than the processor's kernels want.
    with pytest.raises(TrtkitError, match="was quantized for tensorrt-rtx"):
        trtkit.build(bundle_name=report.folder.name, backend="onnxruntime", workspace=place.root)


def test_an_int8_bundle_is_rebuilt_from_what_it_keeps(place: Workspace) -> None:
    report = build(place, "resnet18")
    for stage in report.manifest.stages:
        (report.folder / stage.file).write_bytes(b"damaged")
    again = trtkit.build(bundle_name=report.folder.name, workspace=place.root)
    assert not again.up_to_date
    assert [stage.id for stage in again.manifest.stages] == [
        stage.id for stage in report.manifest.stages
    ]
    assert again.manifest.quantized == report.manifest.quantized
    with pytest.raises(
        TrtkitError, match="do not apply: a rebuilt bundle keeps its ranges; leave them out"
    ):
        trtkit.build(bundle_name=report.folder.name, calibration_images=3, workspace=place.root)


def test_a_model_that_is_quantized_already(place: Workspace) -> None:
    report = build(place, "resnet18", cut=0)
    # What the bundle keeps is a quantized graph with the card of the export.
    graph = onnx.load(report.folder / report.manifest.stages[0].source)
    exported = onnx.load(place.exports / "resnet18.onnx")
    del graph.metadata_props[:]
    graph.metadata_props.extend(exported.metadata_props)
    write_sealed(graph, place.exports / "done.onnx")
    with recorded() as reports:
        built = build(place, "done", cut=0)
    assert built.manifest.quantized is None
    assert "done is quantized already and is built as it is" in reports.messages
    with pytest.raises(
        TrtkitError,
        match="done is quantized already and cannot be calibrated; leave the --calibration",
    ):
        build(place, "done", cut=0, bundle_name="x", calibration_images=5)
    with pytest.raises(TrtkitError, match="done is quantized already and the other models are not"):
        build(place, "done", "resnet18", cut=0)


def test_without_photos_nothing_is_guessed(place: Workspace) -> None:
    shutil.rmtree(place.calibration)
    with pytest.raises(TrtkitError, match="int8 needs photos .* put some hundred photos"):
        build(place, "resnet18")
    assert place.bundles() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"calibration_method": "percentile"},
            "'percentile' not found; available: auto, entropy, max",
        ),
        ({"calibration_images": 0}, "Cannot calibrate on 0 photos; give 1 or more"),
        (
            {"precision": "fp16", "calibration_images": 5},
            "do not apply: fp16 has no ranges; leave",
        ),
        ({"precision": "fp8"}, "onnxruntime builds fp32, fp16, int8, not fp8"),
        ({"precision": "bf16"}, "onnxruntime builds fp32, fp16, int8, not bf16"),
    ],
)
def test_bad_requests(place: Workspace, options: dict[str, object], message: str) -> None:
    with pytest.raises(TrtkitError, match=message):
        build(place, "resnet18", **options)


def test_auto_and_profile_know_int8(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtkit.costs.workbench.ROUND_SECONDS", 0.1)
    profile = trtkit.profile(
        "resnet18", precision="int8", backend="onnxruntime", photos=4, workspace=place.root
    )
    # 16 x 16 x 16 values of a byte and the entry's header.
    assert 16 * 16 * 16 < profile.cuts[1].stored["fp16"].bytes < 16 * 16 * 16 + 300
    assert {kind.kind for kind in profile.kinds} >= {"QLinearConv", "QLinearAdd"}
    report = build(place, "resnet18", cut="auto", hit_rate=1.0)
    # Whatever the times are: from its last block a model is faster than from its photo.
    assert report.manifest.cut > 0
    assert report.why
