"""`build --cut auto`: a choice from measurements, kept so that the same request builds nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import trtkit
from tests.profiles import make_profile
from trtkit.building.cut import best_cut
from trtkit.building.profiles import ProfileSettings
from trtkit.costs.choice import CutGoal
from trtkit.costs.profile import Profile
from trtkit.errors import TrtkitError
from trtkit.workspace import Workspace


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtkit.costs.workbench.ROUND_SECONDS", 0.1)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Give models these profiles instead of measuring them; the list of models that were profiled."""

    def replace(profiles: dict[str, Profile], cuts: dict[int, float] | None = None) -> list[str]:
        names: list[str] = []

        def kept_profile(place: Workspace, name: str, settings: ProfileSettings) -> Profile:
            names.append(name)
            return profiles[name]

        monkeypatch.setattr("trtkit.building.cut.kept_profile", kept_profile)
        if cuts is not None:
            monkeypatch.setattr(
                "trtkit.costs.workbench.measure_cuts",
                lambda profiles, models, chosen, **options: {cut: cuts[cut] for cut in chosen},
            )
        return names

    return replace


EIGHT = make_profile([0.01] * 8, sizes=[9000, 8000, 7000, 6000, 5000, 4000, 3000, 2000])


def test_the_cut_is_measured_and_built(make_workspace: Callable[..., Workspace]) -> None:
    place = make_workspace("resnet18")
    report = trtkit.build(cut="auto", precision="fp16", hit_rate=1.0, workspace=place.root)
    # Whatever the times are: from its last block a model is faster than from its photo.
    assert report.manifest.cut > 0
    assert len(report.why) == 3
    assert report.why[0].startswith("Cut ")
    assert report.why[2].startswith("Checked by measuring: cut ")
    assert report.to_json()["why"] == list(report.why)
    again = trtkit.build(cut="auto", precision="fp16", hit_rate=1.0, workspace=place.root)
    assert again.up_to_date
    assert again.why == report.why
    assert again.manifest.cut == report.manifest.cut


def test_the_storage_limit_and_the_neighbours_decide(
    make_workspace: Callable[..., Workspace], measured: Callable[..., list[str]]
) -> None:
    place = make_workspace("resnet18")
    measured({"resnet18": EIGHT}, {7: 0.010, 8: 0.012})
    report = trtkit.build(cut="auto", workspace=place.root)
    assert report.manifest.cut == 7
    assert report.why[2] == (
        "Checked by measuring: cut 7 10 ms, cut 8 12 ms, so cut 7 is built instead."
    )
    with pytest.raises(TrtkitError, match=r"fits into 1\.0 KiB per image; .* takes 2\.0 KiB"):
        trtkit.build(cut="auto", storage_per_image=1024, workspace=place.root)


def test_models_are_cut_where_they_are_still_the_same(
    make_workspace: Callable[..., Workspace], measured: Callable[..., list[str]]
) -> None:
    place = make_workspace("resnet18", "resnet34")
    profiled = measured({"resnet18": EIGHT, "resnet34": EIGHT}, {1: 0.03, 2: 0.02})
    report = trtkit.build(cut="auto", workspace=place.root)
    assert profiled == ["resnet18", "resnet34"]
    assert report.manifest.cut == 2
    assert [stage.name for stage in report.manifest.stages] == ["prefix", "resnet18", "resnet34"]


def test_where_computing_is_faster_nothing_is_split(
    make_workspace: Callable[..., Workspace], measured: Callable[..., list[str]]
) -> None:
    place = make_workspace("resnet18")
    measured({"resnet18": make_profile([0.0001] * 8, read=0.1)})
    report = trtkit.build(cut="auto", workspace=place.root)
    assert report.manifest.cut == 0
    assert report.why[0].startswith("Computing is faster: ")
    assert report.manifest.costs is None


def test_models_that_share_no_block(
    make_workspace: Callable[..., Workspace], measured: Callable[..., list[str]]
) -> None:
    place = make_workspace("resnet18", "other")
    profiled = measured({"resnet18": EIGHT, "other": EIGHT})
    with pytest.raises(
        TrtkitError,
        match=r"cannot be cut together, because they share no block; train one on the other's prefix",
    ):
        trtkit.build(["resnet18", "other"], cut="auto", workspace=place.root)
    # It is known without measuring.
    assert profiled == []


def test_the_best_cut_of_the_model_alone() -> None:
    measured = make_profile(sizes=[300, 200, 400])
    assert best_cut(measured, CutGoal()).cut == 3
    assert best_cut(measured, CutGoal(storage=300)).cut == 2


def test_bad_requests(make_workspace: Callable[..., Workspace]) -> None:
    place = make_workspace("resnet18")
    with pytest.raises(TrtkitError, match=r"hit rate of 2 is not a share"):
        trtkit.build(cut="auto", hit_rate=2, workspace=place.root)
    with pytest.raises(TrtkitError, match="apply to --cut auto alone; leave them out"):
        trtkit.build(cut=2, hit_rate=0.5, workspace=place.root)
    with pytest.raises(
        TrtkitError, match="Cut 'best' is not a number; give the number of the block"
    ):
        trtkit.build(cut="best", workspace=place.root)
    assert place.bundles() == []
