"""Ingest and query through the API: real clips, a bundle of two real architectures with random weights.

Weights are random, so labels mean nothing; but what the expensive tail says of an object is the same
whichever way it is asked, so that questions can be checked against asking about everything.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trtkit
from scripts.footage import render_clip
from trtkit.api.ingest import ingest, ingest_options
from trtkit.api.query import query
from trtkit.api.store import store_compact, store_export, store_info, store_verify
from trtkit.api.tune import tune
from trtkit.bundle import read_manifest
from trtkit.errors import TrtkitError
from trtkit.graph.card import ModelCard
from trtkit.graph.files import read_model, write_model
from trtkit.runtime.pipeline import load
from trtkit.video.detections import Box
from trtkit.video.footage.database import Database
from trtkit.video.footage.reading import jpeg_of
from trtkit.video.footage.settings import QuerySettings
from trtkit.video.options import IngestOptions

CLASSES = 1000
# Short segments, so that a short clip has several of them; one picture, so that it alone decides.
OPTIONS = IngestOptions(
    segment_seconds=2, top=CLASSES, cluster=None, min_size=12, pictures=1, least_seconds=0.2,
    lost_seconds=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("footage") / "gate.mp4"
    render_clip(path, seconds=30.0, size=(640, 480), fps=8.0, density=0.6, seed=3)
    return path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, exports) -> Path:
    root = tmp_path_factory.mktemp("video")
    (root / "export").symlink_to(exports)
    trtkit.build(
        ["resnet18", "resnet34"], cut=2, precision="fp32", bundle_name="pair", embeddings=True,
        workspace=root,
    )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def filled(tmp_path_factory, clip, workspace) -> Path:
    """A store with every object of the clip, all classes and no clusters. Do not change it."""
    store = tmp_path_factory.mktemp("store") / "store"
    report = ingest([str(clip)], store=store, workspace=workspace, options=OPTIONS)
    assert report.sources[0].objects > 10
    assert not report.failed
    return store


@pytest.fixture(scope="module")
def labelling(tmp_path_factory, exports) -> Path:
    """A workspace whose bundle `pair` has an expensive tail of independent labels."""
    root = tmp_path_factory.mktemp("labelling")
    (root / "export").mkdir()
    for name in ("resnet18", "resnet34"):
        model = read_model(exports / f"{name}.onnx")
        card = ModelCard.read_from(model, name)
        replace(card, scores="sigmoid" if name == "resnet34" else "softmax").write_to(model)
        write_model(model, root / "export" / f"{name}.onnx")
    trtkit.build(
        ["resnet18", "resnet34"], cut=2, precision="fp32", bundle_name="pair", embeddings=True,
        workspace=root,
    )  # fmt: skip
    return root


def truth_of(clip: Path) -> list[dict]:
    lines = clip.with_suffix(".truth.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def verdicts(store: Path, workspace: Path) -> dict[int, int]:
    """The expensive model's best class of every object, from its picture through the whole model."""
    with Database.open(store) as database:
        numbers = [row[0] for row in database.rows("SELECT id FROM objects")]
        crops = [jpeg_of(database, number) for number in numbers]
    folder = store.parent / "crops"
    folder.mkdir(exist_ok=True)
    for number, crop in zip(numbers, crops, strict=True):
        (folder / f"{number:06}.jpg").write_bytes(crop)
    with load(workspace / "engines" / "pair", tail="resnet34") as pipeline:
        results = list(pipeline.infer([folder], top=1))
    return {
        int(Path(result.path).stem): result.predictions[0].index for result in results
    }  # fmt: skip


def test_a_question_finds_what_the_expensive_model_sees_in_everything(filled, workspace):
    said = verdicts(filled, workspace)
    labels = np.array(list(said.values()))
    best = int(np.bincount(labels).argmax())
    classes = store_info(filled).identity.classes
    with query(classes[best], store=filled, workspace=workspace) as answers:
        found = [number for answer in answers for number in answer.objects]
        explanation = answers.explanation
    assert sorted(found) == sorted(number for number, label in said.items() if label == best)
    assert explanation.candidates == len(said)
    assert explanation.judged.hits == len(said)
    assert explanation.judged.recomputed == 0
    # What was said is remembered, for other classes as well.
    other = classes[next(label for label in labels if label != best)]
    with query(other, store=filled, workspace=workspace) as answers:
        assert list(answers)
        assert answers.explanation.judged.remembered == len(said)
        assert answers.explanation.judged.hits == 0


def test_a_label_is_confirmed_for_every_object_that_it_holds_for(filled, labelling):
    with load(labelling / "engines" / "pair", tail="resnet34") as pipeline:
        verdicts(filled, labelling)
        results = list(pipeline.infer([filled.parent / "crops"]))
    scores = np.stack([result.scores for result in results])
    assert scores.sum(axis=1).min() > 2, "these are no shares of one"
    numbers = np.array([int(Path(result.path).stem) for result in results])
    holding = scores >= 0.5
    # Labels that hold for some objects without being the best one of all of them.
    mixed = [n for n in range(CLASSES) if 2 < holding[:, n].sum() < len(numbers) - 2]
    classes = store_info(filled).identity.classes
    for label in (mixed[0], mixed[-1]):
        expected = sorted(numbers[holding[:, label]].tolist())
        for computed in (True, False):
            with query(classes[label], store=filled, bundle="pair", workspace=labelling) as answers:
                found = sorted(number for answer in answers for number in answer.objects)
            assert found == expected
            assert (answers.explanation.judged.remembered == 0) == computed
        high = float(np.sort(scores[:, label])[-2])
        with query(
            classes[label], store=filled, bundle="pair", min_confidence=high, workspace=labelling
        ) as answers:
            assert len([number for answer in answers for number in answer.objects]) <= 2
    stage = read_manifest(labelling / "engines" / "pair").tail("resnet34").id
    assert store_info(filled).verdicts[stage] == 2 * len(numbers)
    with pytest.raises(TrtkitError, match="resnet34 gives independent labels"):
        tune(store=filled, bundle="pair", workspace=labelling)


def test_without_the_feature_maps_the_pictures_give_the_same(tmp_path, clip, workspace, filled):
    options = IngestOptions(**{**vars(OPTIONS), "maps": "none"})
    ingest([str(clip)], store=tmp_path / "s", workspace=workspace, options=options)
    said = verdicts(filled, workspace)
    classes = store_info(filled).identity.classes
    label = classes[next(iter(said.values()))]

    def found(store: Path) -> list[tuple[float, float, tuple[int, ...]]]:
        with query(label, store=store, workspace=workspace, remember=False) as answers:
            return [(each.start, each.end, each.objects) for each in answers]

    assert sorted(found(tmp_path / "s")) == sorted(found(filled))


def test_boxes_and_times_are_those_of_the_truth(clip, filled, workspace):
    truth = {}
    for row in truth_of(clip):
        truth.setdefault(row["frame"], []).append(row)
    times = {row["frame"]: row["time"] for row in truth_of(clip)}
    classes = store_info(filled).identity.classes
    good = seen = 0
    for label in {classes[index] for index in verdicts(filled, workspace).values()}:
        with query(label, store=filled, workspace=workspace) as answers:
            for answer in answers:
                assert answer.start <= answer.end
                for frame, box in zip(answer.frames, answer.boxes, strict=True):
                    seen += 1
                    if frame in times:
                        assert answer.start - 1e-6 <= times[frame] <= answer.end + 1e-6
                    # Two that touch are one object to a background model, so that it need not fit.
                    good += any(Box(*row["box"]).overlap(box) > 0 for row in truth.get(frame, ()))
    assert seen > 50
    assert good / seen > 0.9


def test_one_object_answers_for_its_cluster(tmp_path, clip, workspace, filled):
    options = IngestOptions(**{**vars(OPTIONS), "cluster": 0.5})
    ingest([str(clip)], store=tmp_path / "s", workspace=workspace, options=options)
    info = store_info(tmp_path / "s").sources[0]
    assert info.objects == store_info(filled).sources[0].objects
    assert 1 < info.clusters < info.objects
    said = verdicts(tmp_path / "s", workspace)
    classes = store_info(filled).identity.classes
    with Database.open(tmp_path / "s") as database:
        asked = dict(
            database.rows(
                "SELECT o.id, c.representative FROM objects o JOIN clusters c ON c.id = o.cluster"
            )
        )
    label = said[next(iter(asked.values()))]
    with query(classes[label], store=tmp_path / "s", workspace=workspace) as answers:
        found = {number for answer in answers for number in answer.objects}
        assert answers.explanation.judged.hits == info.clusters
    assert found == {number for number, began in asked.items() if said[began] == label}


def test_the_store_is_whole_and_is_exported(tmp_path, filled, workspace):
    report = store_verify(filled)
    assert report.problems == ()
    assert report.maps == store_info(filled).sources[0].objects
    count = store_export(tmp_path / "o.parquet", store=filled, workspace=workspace)
    assert count == report.objects
    assert store_compact(filled, workspace=workspace) >= 0


def test_the_same_again_does_nothing(clip, filled, workspace):
    before = store_info(filled)
    report = ingest([str(clip)], store=filled, workspace=workspace, options=OPTIONS)
    assert report.sources[0].up_to_date
    assert store_info(filled).sources == before.sources


def test_an_unknown_class_names_the_nearest(filled, workspace):
    with pytest.raises(TrtkitError, match="'clas 1' not found in resnet18; available: class 1"):
        query("clas 1", store=filled, workspace=workspace)


@pytest.mark.parametrize("camera", ["gates", ["gates"]])
def test_an_unknown_camera_names_the_nearest(filled, workspace, camera):
    with pytest.raises(TrtkitError, match="Camera 'gates' not found; available: gate"):
        query("class 1", store=filled, workspace=workspace, camera=camera)
    query("class 1", store=filled, workspace=workspace, camera="gate").close()


def test_clusters_are_those_of_the_store_unless_they_are_given(tmp_path):
    assert ingest_options(tmp_path / "none").cluster == 0.3
    for tuned in (0.15, None):
        with Database.create(tmp_path) as database, database.transaction() as sql:
            QuerySettings(top=2, least=0.01, cluster=tuned).write(sql)
        assert ingest_options(tmp_path, top=7) == IngestOptions(cluster=tuned, top=7)
        assert ingest_options(tmp_path, clusters="0.4").cluster == 0.4
        assert ingest_options(tmp_path, clusters="off").cluster is None


def test_a_store_that_was_tuned_with_a_flag_is_read(tmp_path):
    with Database.create(tmp_path) as database:
        with database.transaction() as sql:
            stored = '{"top": 2, "least": 0.01, "cluster": 0.15, "tuned": true}'
            sql.execute("INSERT INTO settings (name, value) VALUES ('tuned', ?)", (stored,))
        assert QuerySettings.of(database) == QuerySettings(top=2, least=0.01, cluster=0.15)


def test_a_bundle_without_embeddings_makes_no_clusters(tmp_path, clip, built):
    options = IngestOptions(cluster=0.3)
    with pytest.raises(TrtkitError, match="build it again with --embeddings"):
        ingest([str(clip)], store=tmp_path / "s", workspace=built, options=options)


def test_a_store_is_not_read_with_another_bundle(filled, built):
    with pytest.raises(TrtkitError, match="feature maps come from .*whose prefix differs from"):
        query("class 1", store=filled, workspace=built, bundle="resnet18+resnet34-cut2-fp16")


def test_one_bad_file_of_two_fails_alone(tmp_path, clip, workspace):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    report = ingest(
        [str(broken), str(clip)], store=tmp_path / "s", workspace=workspace, options=OPTIONS
    )
    assert [each.camera for each in report.sources] == ["gate"]
    assert list(report.failed) == [str(broken)]
