"""All tails of a bundle in one pass, measured beside the same models one by one."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.pictures import write_photos
from trtkit.benchmark.competitors import load
from trtkit.benchmark.contest import competitors_of
from trtkit.benchmark.groups import groups_of
from trtkit.benchmark.spec import ALL, APART, COMPUTE, END_TO_END, Spec
from trtkit.bundle import read_manifest
from trtkit.cpu import usable_cores
from trtkit.workspace import Workspace

COUNT = 7


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, count=COUNT, size=(80, 70))
    return tuple(map(str, sorted(folder.iterdir())))


@pytest.fixture
def bundle(built) -> Path:
    return Workspace(built).find_bundle(None)


def labels(bundle: Path, photos, tail: str, kind: str = "trtkit", **options) -> list[int]:
    spec = Spec(
        **{
            "kind": kind, "measure": COMPUTE, "bundle": str(bundle), "tail": tail, "photos": photos,
            "batch": 3, "threads": usable_cores(), **options,
        }
    )  # fmt: skip
    with closing(load(spec)) as loaded:
        assert loaded.images == COUNT
        assert loaded.run() is None
        return loaded.labels()


@pytest.mark.parametrize("measure", [COMPUTE, END_TO_END])
def test_every_photo_goes_through_every_tail(bundle, photos, measure):
    alone = [
        label
        for tail in ("resnet18", "resnet34")
        for label in labels(bundle, photos, tail, measure=measure)
    ]
    assert len(set(alone)) > 2
    assert labels(bundle, photos, ALL, measure=measure) == alone
    assert labels(bundle, photos, ALL, measure=measure, one_by_one=True) == alone
    assert labels(bundle, photos, ALL, "onnxruntime", measure=measure) == alone


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_each_tail_has_its_own_photos(bundle, photos, batch):
    alone = labels(bundle, photos, "resnet18")[::2] + labels(bundle, photos, "resnet34")[1::2]
    assert labels(bundle, photos, APART, batch=batch) == alone
    assert labels(bundle, photos, APART, one_by_one=True) == alone
    assert labels(bundle, photos, APART, "onnxruntime") == alone


def test_all_is_two_contests(bundle, built, photos, tmp_path):
    groups = groups_of(Workspace(built), [bundle], [ALL])
    assert [group.tail for group in groups] == [ALL, APART]
    specs = competitors_of(
        groups[0].bundles, ALL, photos, baselines=("onnxruntime", "tensorrt"), measure=COMPUTE,
        batch=1, threads=1, scratch=tmp_path, built=tmp_path,
    )  # fmt: skip
    name = "trtkit fp16 on onnxruntime"
    assert list(specs) == ["onnxruntime", f"{name}, one by one", name]
    assert [spec.one_by_one for spec in specs.values()] == [False, True, False]
    assert [tail.name for tail in read_manifest(bundle).tails] == ["resnet18", "resnet34"]
