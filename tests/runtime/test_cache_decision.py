"""Whether `--cache auto` uses the cache: what the build measured decides, and is said."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import trtkit
from tests.engines.simulated import install
from tests.pictures import write_photos
from trtkit import CacheOptions
from trtkit.bundle import MANIFEST
from trtkit.engines.registry import get_backend
from trtkit.runtime.pipeline import load
from trtkit.serialization import to_plain, write_json
from trtkit.store import cache as cache_module
from trtkit.store.cache import PrefixCache, fits_memory
from trtkit.store.costs import CacheCosts, StoreCosts, machine_of

BUNDLE = "resnet18+resnet34-cut2-fp16"
CHEAP = StoreCosts(bytes=1000, read=1e-3, read_cold=1e-3, write=1e-3)
DEAR = replace(CHEAP, read=9e-3, read_cold=9e-3)
UNMEASURED = "Cache used: what it costs was not measured on this machine."


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, count=3, size=(96, 80))
    return folder


@pytest.fixture
def bundle_with(built, tmp_path):
    """The built bundle whose manifest says these costs, an object that JSON can hold."""

    def make(costs: object) -> Path:
        folder = tmp_path / BUNDLE
        if not folder.exists():
            shutil.copytree(built / "engines" / BUNDLE, folder, copy_function=os.link)
        value = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).unlink()  # a hard link to the other tests' file
        write_json(folder / MANIFEST, {**value, "costs": costs})
        return folder

    return make


def costs(stored: StoreCosts, **changed) -> dict:
    """Of this machine: a photo takes 2 + 3 ms anew, and the tail's 5 ms in any case."""
    made = CacheCosts(
        machine=machine_of(get_backend("onnxruntime")), batch=4, decode=2e-3, prefix=3e-3,
        tails={"resnet18": 5e-3, "resnet34": 5e-3}, store={"fp16": stored}, overlaps=False,
    )  # fmt: skip
    return to_plain(replace(made, **changed))


def run(bundle: Path, photos: Path, **options):
    with load(bundle, cache=CacheOptions(**options)) as pipeline:
        results = list(pipeline.infer([photos]))
    assert all(result.error is None for result in results)
    return pipeline


def test_maps_that_are_dearer_to_read_are_neither_read_nor_written(
    bundle_with, photos, own_cache, monkeypatch
):
    bundle = bundle_with(costs(DEAR))
    monkeypatch.setattr(PrefixCache, "open", lambda *args, **options: pytest.fail("it was opened"))
    pipeline = run(bundle, photos)
    assert not own_cache.exists()
    assert pipeline.cache_decision is not None
    said = pipeline.stats_json("auto")["cache"]
    assert said == {
        "mode": "off", "hits": 0, "misses": 0, "evicted": 0, "dropped": 0, "gpu_hits": 0,
        "why": "Cache not used: with a feature map from memory a photo takes 14 ms, computed anew "
        "10 ms (--cache always uses it all the same).",
    }  # fmt: skip


def test_always_uses_it_all_the_same_and_gives_no_reason(bundle_with, photos):
    bundle = bundle_with(costs(DEAR))
    for hits in (0, 3):
        pipeline = run(bundle, photos, mode="always")
        said = pipeline.stats_json("always")["cache"]
        assert (said["mode"], said["hits"], said["why"]) == ("always", hits, None)


def test_off_gives_no_reason(bundle_with, photos):
    pipeline = run(bundle_with(costs(CHEAP)), photos, mode="off")
    assert pipeline.cache_decision is None
    assert pipeline.stats_json("off")["cache"]["why"] is None


def test_maps_that_are_cheaper_to_read_are_used(bundle_with, photos):
    bundle = bundle_with(costs(CHEAP))
    for hits in (0, 3):
        said = run(bundle, photos).stats_json("auto")["cache"]
        assert (said["mode"], said["hits"], said["misses"]) == ("auto", hits, 3 - hits)
        assert said["why"] == (
            "Cache used: with a feature map from memory a photo takes 6 ms, computed anew 10 ms."
        )


def test_each_tail_is_weighed_by_its_own_time(bundle_with, photos):
    # Beside the engines a read of 9 ms is hidden by a tail of 10, and not by one of 1.
    tails = {"resnet18": 1e-3, "resnet34": 10e-3}
    bundle = bundle_with(costs(DEAR, tails=tails, overlaps=True))
    used = {}
    for tail in tails:
        with load(bundle, tail=tail, cache=CacheOptions()) as pipeline:
            used[tail] = pipeline.cache_decision.use
    assert used == {"resnet18": False, "resnet34": True}


def test_the_times_of_several_tails_add_up(bundle_with, photos):
    # Where decoding and reading overlap with the engines, two tails hide a read that one does not.
    bundle = bundle_with(costs(DEAR, overlaps=True))
    for tail, used in (("resnet18", False), ("all", True)):
        with load(bundle, tail=tail, cache=CacheOptions()) as pipeline:
            assert (pipeline.cache is not None) == pipeline.cache_decision.use == used
    assert "a photo takes 10 ms, computed anew 13 ms" in pipeline.cache_decision.why


def test_what_does_not_fit_into_memory_is_weighed_as_on_the_disk(
    bundle_with, photos, own_cache, monkeypatch
):
    bundle = bundle_with(costs(replace(CHEAP, read_cold=9e-3)))
    run(bundle, photos)
    assert run(bundle, photos).stats.hits == 3
    monkeypatch.setattr(cache_module, "available_memory", lambda: 1)
    pipeline = run(bundle, photos)
    assert pipeline.cache is None
    assert "from disk a photo takes 14 ms" in pipeline.cache_decision.why


@pytest.mark.parametrize(
    "odd",
    [
        None,
        {},
        [],
        "cheap",
        costs(DEAR, machine=("another processor", "64 cores", "onnxruntime")),
        costs(DEAR, tails={"resnet34": 1.0}),
        {**costs(DEAR), "decode": "soon"},
        {**costs(DEAR), "store": {"fp16": {}}},
        {**costs(DEAR), "tails": 7},
    ],
)
def test_what_was_not_measured_here_is_used(bundle_with, photos, odd):
    bundle = bundle_with(odd)
    for hits in (0, 3):
        pipeline = run(bundle, photos)
        assert (pipeline.stats.hits, pipeline.cache_decision.why) == (hits, UNMEASURED)


def test_a_bundle_of_before_has_no_costs(bundle_with, photos):
    folder = bundle_with(None)
    value = json.loads((folder / MANIFEST).read_text())
    del value["costs"]
    write_json(folder / MANIFEST, value)
    pipeline = run(folder, photos)
    assert (pipeline.manifest.costs, pipeline.cache_decision.why) == (None, UNMEASURED)


def test_a_format_that_was_not_measured_is_used(bundle_with, photos):
    pipeline = run(bundle_with(costs(DEAR)), photos, codec="lz4")
    assert pipeline.stats.misses == 3
    assert (
        pipeline.cache_decision.why
        == "Cache used: what reading fp16 lz4 maps costs was not measured."
    )


def test_with_maps_on_the_card_the_disk_alone_is_left_out(
    make_workspace, monkeypatch, photos, own_cache
):
    simulation = install(monkeypatch)
    place = make_workspace("resnet18")
    folder = trtkit.build(
        ["resnet18"], cut=7, precision="fp16", verify_images=2, workspace=place.root
    ).folder
    value = json.loads((folder / MANIFEST).read_text())
    dear = value["costs"]["store"]["fp16"] | {"read": 1e6, "read_cold": 1e6}
    write_json(folder / MANIFEST, {**value, "costs": {**value["costs"], "store": {"fp16": dear}}})
    # What lies on the disk already is not read either.
    with load(folder, cache=CacheOptions(mode="always")) as filling:
        list(filling.infer([photos]))
    before = files(own_cache)
    with load(folder, cache=CacheOptions(), gpu_cache=1 << 20) as pipeline:
        for _ in range(2):
            assert all(result.error is None for result in pipeline.infer([photos]))
    said = pipeline.stats_json("auto")["cache"]
    assert (said["mode"], said["hits"], said["gpu_hits"], said["misses"]) == ("auto", 3, 3, 3)
    assert said["why"].startswith("Cache on disk not used: with a feature map from memory a photo")
    assert files(own_cache) == before
    with load(folder, cache=CacheOptions(mode="always"), gpu_cache=1 << 20) as pipeline:
        list(pipeline.infer([photos]))
    assert (pipeline.stats.hits, pipeline.stats.gpu_hits, pipeline.cache_decision) == (3, 0, None)
    del filling, pipeline
    simulation.cuda.assert_clean()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.seg")}


def test_what_fits_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "available_memory", lambda: 5)
    assert fits_memory(tmp_path / "none yet")
    for number in (1, 2):
        (tmp_path / f"segment-0000000{number}.seg").write_bytes(b"abc")
        (tmp_path / f"other-{number}").write_bytes(b"abcdef")
        assert fits_memory(tmp_path) is (number == 1)
    monkeypatch.setattr(cache_module, "available_memory", lambda: None)
    assert fits_memory(tmp_path)
    file = tmp_path / "file"
    file.write_bytes(b"in a folder's place")
    monkeypatch.setattr(cache_module, "available_memory", lambda: 5)
    assert fits_memory(file)
