"""`trtkit profile`: measured anew, kept in the workspace, and used again by `build --cut auto`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import trtkit
from trtkit.api.profile import profile
from trtkit.building.profiles import profiles_folder
from trtkit.costs.choice import CutGoal
from trtkit.errors import TrtkitError
from trtkit.workspace import Workspace


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtkit.costs.workbench.ROUND_SECONDS", 0.1)


def test_what_was_measured_is_kept(make_workspace: Callable[..., Workspace]) -> None:
    place = make_workspace("resnet18")
    first = profile("resnet18", precision="fp16", workspace=place.root)
    assert len(list(profiles_folder(place).glob("*.json"))) == 1
    assert profile("resnet18", precision="fp16", again=False, workspace=place.root) == first
    # Asked for by itself it is measured again, and takes the place of the other.
    second = profile("resnet18", precision="fp16", workspace=place.root)
    assert second != first
    assert profile("resnet18", precision="fp16", again=False, workspace=place.root) == second
    assert len(list(profiles_folder(place).glob("*.json"))) == 1
    # It is no bundle.
    assert place.bundles() == []


def test_of_something_else_it_is_measured_anew(make_workspace: Callable[..., Workspace]) -> None:
    place = make_workspace("resnet18")
    first = profile("resnet18", precision="fp16", workspace=place.root)
    other = profile("resnet18", precision="fp32", again=False, workspace=place.root)
    assert (first.precision, other.precision) == ("fp16", "fp32")
    kept = next(iter(profiles_folder(place).glob("*.json")))
    kept.write_text("{}")
    for precision in ("fp16", "fp32"):
        profile("resnet18", precision=precision, again=False, workspace=place.root)
    assert json.loads(kept.read_text())["model"] == "resnet18"


def test_it_is_offered_by_the_package(make_workspace: Callable[..., Workspace]) -> None:
    with pytest.raises(TrtkitError, match="Model `nothing` not found"):
        trtkit.profile("nothing", workspace=make_workspace("resnet18").root)


@pytest.mark.parametrize("options", [{"batch": 0}, {"photos": 0}])
def test_less_than_one(options: dict[str, int], make_workspace: Callable[..., Workspace]) -> None:
    with pytest.raises(TrtkitError, match="give 1 or more of each"):
        profile("resnet18", workspace=make_workspace("resnet18").root, **options)


def test_a_hit_rate_that_is_no_share() -> None:
    with pytest.raises(TrtkitError, match=r"A hit rate of 1\.5"):
        CutGoal(hit_rate=1.5)


def test_a_backend_that_cannot_run_here(
    make_workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    from trtkit.engines.cuda.device import missing

    if missing() is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(
        TrtkitError,
        match=r"tensorrt-rtx needs a GPU to be profiled, but .*; profile where there is one",
    ):
        profile("resnet18", backend="tensorrt-rtx", workspace=make_workspace("resnet18").root)
