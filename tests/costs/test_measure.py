"""A real model measured block by block. No time is asserted: what is measured and what it is of are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trtkit.costs.measure import ProfileRequest, by_kind, by_segment, measure_profile
from trtkit.costs.profile import Profile
from trtkit.costs.workbench import measure_cuts
from trtkit.engines.base import LayerTime
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.engines.options import BuildOptions
from trtkit.graph.card import ModelCard
from trtkit.graph.files import read_model
from trtkit.graph.tree import Model
from trtkit.photos.samples import SampleImages, generate_images


@pytest.fixture(scope="module")
def model(full_exports: Path) -> Model:
    graph = read_model(full_exports / "resnet18.onnx")
    return Model("resnet18", graph, ModelCard.read_from(graph, "resnet18"))


@pytest.fixture(scope="module")
def profile(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("trtkit.costs.workbench.ROUND_SECONDS", 0.1)
        return measure_profile(
            ProfileRequest(
                model=model,
                digest="d",
                backend=OnnxRuntimeBackend(),
                precision="fp16",
                options=BuildOptions(),
                batch=2,
                samples=SampleImages(generate_images(3, model.card.preprocessing), "generated"),
                timing=tmp_path_factory.mktemp("timing"),
            )
        )


def test_every_block_and_cut_is_there(profile: Profile) -> None:
    names = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [block.block for block in profile.blocks] == [*names, "head"]
    assert [cut.block for cut in profile.cuts] == names
    assert all(block.seconds > 0 for block in profile.blocks)
    assert profile.whole > 0
    assert profile.rounds >= 5
    assert (profile.batch, profile.precision, profile.backend) == (2, "fp16", "onnxruntime")
    assert not profile.overlaps


def test_convolutions_are_what_it_computes(profile: Profile) -> None:
    kinds = {each.kind: each for each in profile.kinds}
    # One of the stem, two of each of eight blocks, three shortcuts.
    assert kinds["Conv"].layers == 20
    assert kinds["Gemm"].layers == 1
    assert [each.seconds for each in profile.kinds] == sorted(
        (each.seconds for each in profile.kinds), reverse=True
    )
    # Both are sums over all layers, by medians of sums and sums of medians.
    total = sum(block.seconds for block in profile.blocks)
    assert sum(each.seconds for each in profile.kinds) == pytest.approx(total, rel=0.5)


def test_bytes_of_each_format(profile: Profile) -> None:
    for cut in profile.cuts:
        elements = int(np.prod(cut.shape))
        raw = {name: stored.bytes for name, stored in cut.stored.items()}
        assert list(raw) == ["fp16", "fp16 lz4", "fp16 zstd", "fp32"]
        header = raw["fp16"] - 2 * elements
        assert 0 < header < 300
        assert raw["fp32"] - 4 * elements == header
        # Behind a ReLU a part of the values is zero.
        assert raw["fp16 zstd"] < raw["fp16"]
    assert profile.cuts[0].shape == (64, 16, 16)


def test_its_cuts_are_measured_with_their_own_engines(
    profile: Profile, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtkit.costs.workbench.ROUND_SECONDS", 0.1)
    measured = measure_cuts(
        [profile],
        [model],
        [2, 7],
        hit_rate=1.0,
        backend=OnnxRuntimeBackend(),
        options=BuildOptions(),
        images=generate_images(3, model.card.preprocessing),
        timing=tmp_path,
    )
    assert list(measured) == [2, 7]
    # Nearly all of the network against its last block.
    assert measured[2] > measured[7] > profile.cuts[6].stored["fp16"].read


def test_layers_without_a_name_belong_to_the_one_before() -> None:
    chunks = [
        [
            LayerTime("segment1/conv", "Conv", (1.0, 3.0, 2.0)),
            LayerTime("ReorderOutput", "Reorder", (0.5, 0.5, 0.5)),
            LayerTime("segment2/conv + segment2/relu", "Conv", (4.0, 4.0, 4.0)),
        ],
        [
            LayerTime("segment1/conv", "Conv", (2.0,)),
            LayerTime("ReorderOutput", "Reorder", (0.5,)),
            LayerTime("segment2/conv + segment2/relu", "Conv", (8.0,)),
        ],
    ]
    assert by_segment(chunks, 3, 2) == [pytest.approx(1.25), pytest.approx(2.0), 0.0]
    kinds = by_kind(chunks, 2)
    assert [(each.kind, each.layers) for each in kinds] == [("Conv", 2), ("Reorder", 1)]
    assert kinds[0].seconds == pytest.approx((2.0 + 4.0) / 2)
