"""The timing cache: what one build measured, the next one finds."""

from __future__ import annotations

import pytest

from tests.engines.simulated import VERSIONS, install
from tests.engines.simulated.plans import backend_for
from tests.graph.onnx_graphs import classifier
from trtkit.engines.base import StageBuild
from trtkit.engines.tensorrt import builder
from trtkit.errors import TrtkitError


def build(tmp_path, version="10.3.0", model=None):
    stage = StageBuild("whole", model or classifier(), "fp32", True, True)
    place = tmp_path / "timing"
    backend_for(version).build(stage, tmp_path / "whole-1.plan", place)


def larger():
    """A model with a convolution of a shape that the other has not."""
    return classifier(size=16)


@pytest.mark.parametrize("version", [v for v in VERSIONS if not v.startswith("rtx")])
def test_the_second_build_measures_nothing(monkeypatch, tmp_path, version):
    simulation = install(monkeypatch, version=version)
    for _ in range(2):
        build(tmp_path, version)
    first, second = simulation.library.builds
    assert first["timed"] > 0
    assert second["timed"] == 0


def test_each_card_and_version_has_its_own(monkeypatch, tmp_path):
    for version, card in (
        ("10.3.0", "NVIDIA A10"), ("10.3.0", "NVIDIA L4/8"), ("8.6.1", "NVIDIA A10"),
    ):  # fmt: skip
        simulation = install(monkeypatch, version=version, device_name=card)
        build(tmp_path, version)
        assert simulation.library.builds[-1]["timed"] > 0
    assert sorted(path.name for path in (tmp_path / "timing").glob("*.cache")) == [
        "tensorrt-10.3.0-NVIDIA-A10-8.6.cache",
        "tensorrt-10.3.0-NVIDIA-L4-8-8.6.cache",
        "tensorrt-8.6.1-NVIDIA-A10-8.6.cache",
    ]


def test_two_builds_at_once_lose_nothing_of_each_other(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    real = builder.TimingCache.keep

    def keep(self, config):
        # Another build, which started before this one had written, ends first.
        monkeypatch.setattr(builder.TimingCache, "keep", real)
        build(tmp_path, model=larger())
        real(self, config)

    monkeypatch.setattr(builder.TimingCache, "keep", keep)
    build(tmp_path)
    for model in (classifier(), larger()):
        build(tmp_path, model=model)
        assert simulation.library.builds[-1]["timed"] == 0


def test_a_damaged_file_is_measured_anew(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    build(tmp_path)
    path = next((tmp_path / "timing").glob("*.cache"))
    path.write_bytes(path.read_bytes()[:50])
    for measured in (True, False):
        build(tmp_path)
        assert bool(simulation.library.builds[-1]["timed"]) == measured


def test_a_failed_build_writes_none(monkeypatch, tmp_path):
    simulation = install(monkeypatch)
    simulation.library.fail_build = True
    with pytest.raises(TrtkitError, match="find any implementation"):
        build(tmp_path)
    assert not list(tmp_path.rglob("*.cache"))
