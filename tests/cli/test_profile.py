"""trtkit profile, and --cut auto, on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.profiles import make_profile
from trtkit.cli.main import app
from trtkit.workspace import Workspace


@pytest.fixture(autouse=True)
def fixed_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile of fixed times instead of a measured one."""
    profile = make_profile(sizes=[4096, 2048, 1024])
    monkeypatch.setattr("trtkit.api.profile.profile", lambda name, **options: profile)


def run(*arguments: object):
    return CliRunner().invoke(app, ["profile", *map(str, arguments)])


def test_a_row_for_each_cut_and_why() -> None:
    ended = run("model")
    assert ended.exit_code == 0
    cuts, layers = ended.stdout.strip().split("\n\n")
    header, *rows = [line.split("\t") for line in cuts.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3", ""]
    third = dict(zip(header, rows[2], strict=True))
    assert third["block ms"] == "30.00"
    assert third["stored KiB"] == "1"
    assert third["warm ms"] == "2.50"
    assert third["saved ms"] == "60.50"
    assert third["break-even hit rate"] == "2.4%"
    assert rows[3][1:3] == ["head", "2.00"]
    assert layers.splitlines()[1].split("\t") == ["Conv", "3", "60.00", "96.8%"]
    assert "Cut 3 takes the least time of 3 cuts" in ended.stderr


def test_json_has_the_choice(tmp_path: Path) -> None:
    ended = run("model", "--json", "--storage-per-image", "2K", "--hit-rate", "0.5")
    value = json.loads(ended.stdout)
    assert value["choice"]["cut"] == 3
    assert value["computed"] == pytest.approx(0.063)
    assert value["cuts"][0]["stored"]["fp16"]["saved"] == pytest.approx(0.063 - 0.0525)


def test_a_picture(tmp_path: Path) -> None:
    assert run("model", "--plot", tmp_path / "p.png").exit_code == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--plot", "p.txt"], "p.txt"),
        (["--fp16", "--fp32"], "--fp32 and --fp16 exclude each other"),
        (["--hit-rate", "7"], "A hit rate of 7 is not a share"),
        (["--storage-per-image", "much"], "'much' is not a size for storage per image"),
    ],
)
def test_bad_requests_are_refused_before_measuring(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(name: str, **options: object) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr("trtkit.api.profile.profile", measure)
    ended = run("model", *arguments)
    assert ended.exit_code != 0
    assert sentence in str(ended.exception)


def test_auto_says_why(
    make_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_workspace("resnet18")
    profile = make_profile([0.01] * 8)
    monkeypatch.setattr("trtkit.building.cut.kept_profile", lambda place, name, settings: profile)
    monkeypatch.setattr(
        "trtkit.costs.workbench.measure_cuts",
        lambda profiles, models, cuts, **options: dict.fromkeys(cuts, 0.01) | {8: 0.005},
    )
    ended = CliRunner().invoke(
        app, ["build", "--cut", "auto", "--hit-rate", "1", "--workspace", str(place.root)]
    )
    assert ended.exit_code == 0, ended.exception
    assert "resnet18-cut8-fp32" in ended.stdout
    assert "Checked by measuring: cut 7 10 ms, cut 8 5 ms." in ended.stderr
