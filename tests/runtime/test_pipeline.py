"""From files to predictions, with and without the cache."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

import trtkit
from tests.pictures import write_photos
from tests.stage_runs import rows_by_stage
from trtkit import CacheOptions, TrtkitError
from trtkit.photos.images import load_image
from trtkit.runtime import classifier
from trtkit.runtime import pipeline as module
from trtkit.runtime.pipeline import Pipeline, load
from trtkit.scores import softmax
from trtkit.sizes import parse_size
from trtkit.store.cache import cache_folder

BUNDLE = "resnet18+resnet34-cut2-fp16"
NO_CACHE = CacheOptions(mode="off")
# What `auto` comes to is measured when the bundle is built; test_cache_decision is about that.
CACHE = CacheOptions(mode="always")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, count=11, size=(96, 80))
    return folder


@pytest.fixture
def bundle(built) -> Path:
    return built / "engines" / BUNDLE


def run(bundle: Path, paths, cache: CacheOptions | None = None, **options):
    tail = options.pop("tail", None)
    with load(bundle, tail=tail, cache=cache) as pipeline:
        results = list(pipeline.infer(paths, **options))
    return results, pipeline


def stages_run(monkeypatch) -> dict[str, list[int]]:
    return rows_by_stage(monkeypatch)


def best(results) -> list[float]:
    """The top class and its score of each result, in one list that can be compared approximately."""
    return [n for r in results for n in (r.predictions[0].index, r.predictions[0].score)]


def test_predictions_are_the_softmax_of_the_logits(bundle, photos):
    results, pipeline = run(bundle, [photos], top=3)
    assert [Path(r.path).name for r in results] == sorted(p.name for p in photos.iterdir())
    image = load_image(Path(results[4].path).read_bytes(), pipeline.manifest.preprocessing)
    scores = softmax(pipeline.logits(image[None]))[0]
    order = np.argsort(-scores)[:3]
    assert [p.index for p in results[4].predictions] == order.tolist()
    assert [p.score for p in results[4].predictions] == pytest.approx(scores[order], rel=1e-4)
    assert results[4].predictions[0].label == f"class {order[0]}"


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (3, 2), (11, 4), (64, 1)])
def test_batches_and_threads_change_nothing(bundle, photos, batch, workers):
    expected, _ = run(bundle, [photos])
    results, _ = run(bundle, [photos], batch=batch, workers=workers)
    assert [r.path for r in results] == [r.path for r in expected]
    assert best(results) == pytest.approx(best(expected), rel=1e-5)


def test_a_warm_run_neither_decodes_nor_runs_the_prefix(bundle, photos, monkeypatch):
    cold, first = run(bundle, [photos], CACHE)
    assert (first.stats.hits, first.stats.misses) == (0, 11)

    def refuse(*args):
        raise AssertionError("a warm run came here")

    monkeypatch.setattr(classifier, "load_image", refuse)
    stages = stages_run(monkeypatch)
    warm, second = run(bundle, [photos], CACHE)
    assert set(stages) == {"resnet18"}
    assert (second.stats.hits, second.stats.misses) == (11, 0)
    assert all(r.cached for r in warm)
    # fp16 feature maps are kept bit for bit, so the tail gives the same.
    assert best(warm) == pytest.approx(best(cold), rel=1e-6)


def test_the_other_tail_finds_the_same_feature_maps(bundle, photos):
    run(bundle, [photos], CACHE, tail="resnet18")
    results, pipeline = run(bundle, [photos], CACHE, tail="resnet34")
    assert pipeline.stats.hits == 11
    expected, _ = run(bundle, [photos], NO_CACHE, tail="resnet34")
    assert best(results) == pytest.approx(best(expected), rel=1e-5)


def test_hits_and_misses_in_one_batch_keep_their_order(bundle, photos):
    paths = sorted(photos.iterdir())
    expected, _ = run(bundle, paths, NO_CACHE)
    run(bundle, paths[1::3], CACHE)
    results, pipeline = run(bundle, paths, CACHE, batch=5)
    assert (pipeline.stats.hits, pipeline.stats.misses) == (4, 7)
    assert [r.cached for r in results] == [i % 3 == 1 for i in range(11)]
    assert best(results) == pytest.approx(best(expected), rel=1e-5)


def test_a_photo_twice_in_a_batch_runs_the_prefix_once(bundle, photos, monkeypatch):
    path = min(photos.iterdir())
    stages = stages_run(monkeypatch)
    results, _ = run(bundle, [path, path, path], CACHE, batch=3)
    assert stages == {"prefix": [1], "resnet18": [1]}
    assert len({r.predictions for r in results}) == 1


def test_a_changed_file_is_not_found_in_the_cache(bundle, photos, tmp_path):
    path = tmp_path / "photo.jpg"
    first, second = sorted(photos.iterdir())[:2]
    shutil.copy(first, path)
    run(bundle, [path], CACHE)
    shutil.copy(second, path)
    results, pipeline = run(bundle, [path], CACHE)
    assert pipeline.stats.misses == 1
    assert best(results) == best(run(bundle, [second], NO_CACHE)[0])


def test_another_model_never_finds_these_feature_maps(bundle, photos, make_workspace):
    place = make_workspace("other")
    report = trtkit.build(["other"], cut=2, precision="fp16", workspace=place.root)
    run(bundle, [photos], CACHE)
    results, pipeline = run(report.folder, [photos], CACHE)
    assert pipeline.stats.hits == 0
    assert best(results) == best(run(report.folder, [photos], NO_CACHE)[0])


def test_a_damaged_entry_is_computed_again(bundle, photos):
    expected, _ = run(bundle, [photos], CACHE)
    segment = max(cache_folder().rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    results, pipeline = run(bundle, [photos], CACHE)
    assert (pipeline.stats.hits, pipeline.stats.misses) == (10, 1)
    assert best(results) == pytest.approx(best(expected), rel=1e-6)
    assert run(bundle, [photos], CACHE)[1].stats.hits == 11


def test_bad_files_do_not_stop_the_others(bundle, photos, tmp_path):
    good = sorted(photos.iterdir())[:2]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo at all")
    empty = tmp_path / "empty.png"
    empty.touch()
    paths = [bad, good[0], tmp_path / "missing.jpg", empty, good[1]]
    for cache in (NO_CACHE, CACHE):
        results, pipeline = run(bundle, paths, cache, batch=2)
        assert [r.path for r in results] == [str(path) for path in paths]
        assert [r.error is None for r in results] == [False, True, False, False, True]
        assert (pipeline.stats.images, pipeline.stats.failed) == (5, 3)
        assert best([results[1], results[4]]) == pytest.approx(
            best(run(bundle, good, NO_CACHE)[0]), rel=1e-5
        )


def test_results_are_streamed(bundle, photos, monkeypatch):
    path = min(photos.iterdir())
    asked = itertools.count()

    def endless(paths):
        while True:
            next(asked)
            yield module.FoundImage(path)

    monkeypatch.setattr(module, "find_images", endless)
    with load(bundle) as pipeline:
        results = pipeline.infer([photos], batch=4, workers=2)
        assert len(list(itertools.islice(results, 10))) == 10
        results.close()
    # Three batches came out; at most two more and a photo for each thread are on their way.
    assert next(asked) <= 12 + 2 * 4 + 2 + 1


def test_two_processes_one_writes(bundle, photos):
    with load(bundle, cache=CACHE) as first, load(bundle, cache=CACHE) as second:
        assert first.cache is not None
        assert second.cache is not None
        assert first.cache.store.writable
        assert not second.cache.store.writable
        list(first.infer([photos]))
        first.cache.store.flush()
        assert all(result.cached for result in second.infer([photos]))


def test_an_unsplit_bundle_uses_no_cache(photos, make_workspace):
    place = make_workspace("resnet18")
    report = trtkit.build(["resnet18"], cut=0, workspace=place.root)
    _, pipeline = run(report.folder, [photos], CACHE)
    assert pipeline.cache is None
    assert pipeline.stats_json("auto")["cache"]["mode"] == "off"


@pytest.mark.parametrize("batch", [0, 65])
def test_a_batch_outside_the_bundles_range(bundle, photos, batch):
    with (
        load(bundle) as pipeline,
        pytest.raises(TrtkitError, match=f"takes batches of 1 to 64, not {batch}; "),
    ):
        list(pipeline.infer([photos], batch=batch))


def test_top_is_at_least_one_and_at_most_all(bundle, photos):
    with load(bundle) as pipeline:
        with pytest.raises(TrtkitError, match="must be 1 or more, not 0"):
            list(pipeline.infer([photos], top=0))
        assert len(next(pipeline.infer([photos], top=5000)).predictions) == 1000


def test_pipelines_classify_arrays_too(bundle):
    images = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    with load(bundle) as pipeline:
        assert isinstance(pipeline, Pipeline)
        logits = pipeline.logits(images)
        assert (logits.shape, logits.dtype) == ((2, 1000), np.float32)


@pytest.mark.parametrize(
    ("text", "size"),
    [("500", 500), ("10G", 10 * 2**30), ("1.5MiB", 3 * 2**19), ("2kb", 2048), (" 1 T ", 2**40)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "ten", "1X", "nan", "inf"])
def test_sizes_that_are_none(text):
    with pytest.raises(TrtkitError, match="such as 10G"):
        parse_size(text)


def test_feature_maps_and_logits_of_one_run(bundle, photos):
    with load(bundle) as pipeline:
        images = prepared(pipeline, photos)
        logits, features = pipeline.logits_and_features(images)
        prefix, _ = pipeline.manifest.path_to(pipeline.tail)
        assert features.dtype.name == prefix.outputs[0].dtype == "float16"
        assert features.shape == (len(images), *prefix.outputs[0].shape[1:])
        np.testing.assert_array_equal(logits, pipeline.logits(images))
        # What a cache would hold: the tail goes on from there to the same logits.
        ref = pipeline.tail.ref("logits")
        onwards = pipeline.runner.submit([ref], [], {pipeline.cut: list(features)}).result()[ref]
        np.testing.assert_allclose(onwards, logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(pipeline.features(images), features)


def test_no_feature_maps_without_a_cut(make_workspace, photos):
    workspace = make_workspace("resnet18")
    trtkit.build(["resnet18"], cut=0, bundle_name="whole", workspace=workspace.root)
    with load(workspace.root / "engines/whole") as pipeline:
        images = prepared(pipeline, photos)
        logits, features = pipeline.logits_and_features(images)
        np.testing.assert_array_equal(logits, pipeline.logits(images))
        assert features is None
        assert pipeline.features(images) is None


def prepared(pipeline: Pipeline, photos: Path) -> np.ndarray:
    preprocessing = pipeline.manifest.preprocessing
    return np.stack([load_image(p.read_bytes(), preprocessing) for p in sorted(photos.iterdir())])


def test_a_cache_too_small_says_what_it_did_not_keep(bundle, photos):
    _, pipeline = run(bundle, [photos], CacheOptions("always", size=1000))
    assert (pipeline.stats.misses, pipeline.stats.dropped) == (11, 11)


def test_an_unknown_cache_mode():
    with pytest.raises(TrtkitError, match="available: auto, always, off"):
        CacheOptions(mode="sometimes")  # type: ignore[arg-type]


def test_softmax_of_large_logits():
    scores = softmax(np.array([[1e4, 1e4, -1e4]], dtype=np.float32))
    assert scores.tolist() == [[0.5, 0.5, 0.0]]
