"""trtkit bench with real engines, and what it refuses. How fast anything was is not tested."""

from __future__ import annotations

import json

import pytest

import trtkit
import trtkit.api.bench
from tests.photos import write_photos
from trtkit.benchmark import contest
from trtkit.errors import TrtkitError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, count=3, size=(90, 70))
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.mark.slow
def test_a_bundle_against_its_baselines(built, photos, monkeypatch):
    # Compiling takes a minute; it has a test of its own.
    monkeypatch.setattr(contest, "BASELINES", ("torch", "onnxruntime"))
    told: list[str] = []
    report = trtkit.bench(
        [photos], tails=["resnet18"], batches=[2], count=4, seconds=0.01, workspace=built,
        progress=told.append,
    )  # fmt: skip
    compute, whole = report.contests
    assert [compute.measure, whole.measure] == ["compute", "end to end"]
    assert told == [f"{compute.bundle}, resnet18: {m}, batch 2" for m in ("compute", "end to end")]
    for held in report.contests:
        assert held.photos == 3 and held.baseline == "torch" and held.rounds == 1
        for figure in held.figures:
            assert figure.problem is None, figure
            assert figure.agreement == 1 and figure.images_per_second > 0
    assert len(compute.figures) == 3 and len(whole.figures) == 5
    assert report.notes == ("There are 3 photos where 4 were asked for: those are measured.",)
    again = json.loads(json.dumps(report.to_json()))
    assert again["contests"][1]["figures"][4]["competitor"].endswith("cache warm")
    assert again["machine"]["processor"] and again["threads"] >= 1


def test_quick_shares_two_minutes(built, photos, monkeypatch):
    seen = []

    def hold(manifest, specs, baseline, settings, advance):
        seen.append((settings, len(next(iter(specs.values())).photos)))
        return contest.Contest("b", "t", "compute", 1, 1, "torch", 1, "out of time", ())

    monkeypatch.setattr("trtkit.api.bench.hold", hold)
    trtkit.bench([photos], batches=[1, 8], quick=True, workspace=built)
    # Two tails, two kinds of figure, two batch sizes.
    assert [settings.seconds for settings, _ in seen] == [120 / 8] * 8
    # Three photos fill a batch of eight by coming again.
    assert {count for _, count in seen} == {8}
    seen.clear()
    report = trtkit.bench(
        [photos], tails=["resnet34"], measures=["compute"], seconds=5, width=0.5, workspace=built
    )
    assert len(seen) == 2 and (seen[0][0].seconds, seen[0][0].width) == (5, 0.5)
    assert not report.interrupted


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batches": [0]}, "The batches 0 were asked for; give 1 or more."),
        ({"measures": ["speed"]}, "The measure 'speed' was asked for; choose compute, end to end."),
        ({"baseline": "tensorflow"}, "The baseline 'tensorflow' was asked for; choose torch"),
        ({"baseline": "openvino"}, "The baseline openvino was asked for, but openvino is not"),
        ({"tails": ["resnet50"]}, "There is no tail 'resnet50'"),
        ({"bundles": ["nothing"]}, "There is no bundle 'nothing'"),
        ({"seconds": -1}, "-1 was asked for; give one above 0"),
    ],
)
def test_requests_that_cannot_be_carried_out(built, photos, options, sentence, monkeypatch):
    absent = {"openvino": "openvino is not installed; pip install openvino"}
    monkeypatch.setattr("trtkit.api.bench.missing", absent.get)
    with pytest.raises(TrtkitError) as caught:
        trtkit.bench([photos], **options, workspace=built)
    assert sentence in str(caught.value)


def test_photos_are_needed(built, photos):
    with pytest.raises(TrtkitError, match="give photos to measure on, or put some into calib"):
        trtkit.bench(workspace=built)
    with pytest.raises(TrtkitError, match="None of the photos of .* can be read"):
        trtkit.bench([photos / "broken.jpg"], workspace=built)
