"""Scores of checkpoints and bundles on real photos."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import trtkit
from scripts.photos import crops
from tests.reports import recorded
from trtkit import CacheOptions, TrtkitError
from trtkit.api import evaluate as api
from trtkit.api.evaluate import evaluate
from trtkit.evaluation import scoring
from trtkit.evaluation.dataset import read_dataset
from trtkit.evaluation.metrics import Scores, Tally
from trtkit.evaluation.scoring import EvaluateReport, SubjectReport
from trtkit.graph.export import reference_logits
from trtkit.models import checkpoint, weights
from trtkit.models.blocks import Normalise
from trtkit.photos.images import load_image
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.pipeline import load
from trtkit.runtime.runner import HostRunner
from trtkit.serialization import to_plain

CLASSES = ("astronaut", "chelsea", "coffee", "rocket")
SMALL = Preprocessing.for_image_size(32)


@dataclass(frozen=True)
class Made:
    """Photos of four classes, a checkpoint that knows most of them, and bundles of it."""

    data: Path
    checkpoint: Path
    workspace: Path
    model: weights.Weighted

    def paths(self, *parts: str) -> list[Path]:
        return sorted(self.data.joinpath(*parts).rglob("*.png"))


def knowing(data: Path) -> weights.Weighted:
    """A model whose head finds the class with the nearest mean of half of the photos."""
    model = weights.random("resnet18", seed=3, classes=len(CLASSES))
    network = model.model.network
    head, network.fc = network.fc, torch.nn.Identity()
    with torch.inference_mode():
        for row, name in enumerate(CLASSES):
            images = prepared(sorted((data / name).glob("*.png"))[::2])
            head.weight[row] = network(Normalise()(torch.from_numpy(images))).mean(0)
            head.bias[row] = -head.weight[row].square().sum() / 2
    network.fc = head
    return model


def prepared(paths: list[Path]) -> np.ndarray:
    return np.stack([load_image(path.read_bytes(), SMALL) for path in paths])


def with_outputs(model: weights.Weighted, *rows: int | float) -> weights.Weighted:
    """A copy with these outputs: those of the model by their number, or one that is constant."""
    network = model.model.network
    head = torch.nn.Linear(network.fc.in_features, len(rows))
    with torch.no_grad():
        for new, row in enumerate(rows):
            constant = isinstance(row, float)
            head.weight[new] = 0.0 if constant else network.fc.weight[row]
            head.bias[new] = row if constant else network.fc.bias[row]
    changed = copy.deepcopy(model)
    changed.model.network.fc = head
    return changed


def save(path: Path, model: weights.Weighted, names=CLASSES, **about) -> Path:
    checkpoint.save_checkpoint(path, model.model, list(names), SMALL, about or None)
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other take ten times as long where other tests run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    root = tmp_path_factory.mktemp("evaluate")
    data = root / "data"
    for number, (name, image) in enumerate(crops(50, 90, 70)):
        if name in CLASSES:
            (data / name).mkdir(parents=True, exist_ok=True)
            image.save(data / name / f"{number:03}.png")
    model = knowing(data)
    path = save(root / "small.safetensors", model)
    trtkit.export(path, name="small", workspace=root)
    trtkit.build(["small"], cut=0, bundle_name="whole", workspace=root)
    return Made(data, path, root, model)


@pytest.fixture
def own_data(made, tmp_path) -> Path:
    """A copy of the photos that a test may change."""
    return Path(shutil.copytree(made.data, tmp_path / "data"))


@pytest.fixture
def split_data(own_data, tmp_path) -> Path:
    """The photos in train/ and val/."""
    root = tmp_path / "split"
    for name in CLASSES:
        for number, path in enumerate(sorted((own_data / name).iterdir())):
            folder = root / ("val" if number % 2 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / path.name)
    return root


def by_hand(made: Made, paths: list[Path]) -> tuple[np.ndarray, list[int]]:
    images = prepared(paths)
    logits = reference_logits(made.model.model, images, SMALL)
    return logits, [CLASSES.index(path.parent.name) for path in paths]


def scores_of(logits: np.ndarray, labels: list[int]) -> Scores:
    tally = Tally(len(CLASSES))
    tally.add(logits, labels)
    return tally.scores()


def same(report: EvaluateReport) -> list[SubjectReport]:
    """What has to be the same again: no time, no rounding."""
    return [replace(each, images_per_second=None, logits_error=None) for each in report.subjects]


def test_checkpoint_and_bundle_agree_and_score_as_by_hand(made):
    report = evaluate(
        made.data, checkpoints=[made.checkpoint], bundles=["whole"], workspace=made.workspace
    )
    logits, labels = by_hand(made, made.paths())
    right = int((logits.argmax(1) == labels).sum())
    assert 10 < right < 20
    expected = scores_of(logits, labels)
    first, second = report.subjects
    for subject in report.subjects:
        assert subject.images == 20
        assert subject.top1 == right / 20
        assert subject.top5 == 1.0
        assert subject.confusion == tuple(tuple(row) for row in expected.confusion.tolist())
        assert [scores.label for scores in subject.classes] == [*CLASSES]
        for scores, precision, recall in zip(
            subject.classes, expected.precision, expected.recall, strict=True
        ):
            assert (scores.images, scores.recall) == (5, recall)
            assert scores.precision == (None if np.isnan(precision) else precision)
    assert (first.name, first.kind, first.precision, first.backend) == (
        "small", "checkpoint", "fp32", "torch",
    )  # fmt: skip
    assert (first.checkpoint, first.bundle, first.tail) == (str(made.checkpoint), None, None)
    assert (first.agreement, first.agrees_with) == (None, None)
    assert (second.name, second.kind, second.precision, second.backend) == (
        "whole/small", "bundle", "fp32", "onnxruntime",
    )  # fmt: skip
    assert (second.checkpoint, second.bundle, second.tail) == (None, "whole", "small")
    assert (second.agreement, second.agrees_with) == (1.0, "small")
    assert report.skipped == ()
    assert report.notes == ()


def test_the_engine_gets_the_images_that_infer_gives_it(made, monkeypatch):
    given: list[np.ndarray] = []

    def recording(name: str) -> None:
        whole = getattr(HostRunner, name)

        def record(self, wanted, images, *others, **options):
            given.append(np.array(images))
            return whole(self, wanted, images, *others, **options)

        monkeypatch.setattr(HostRunner, name, record)

    recording("submit")
    with load(made.workspace / "engines/whole", cache=CacheOptions(mode="off")) as pipeline:
        results = list(pipeline.infer([made.data / name for name in CLASSES]))
    by_infer = np.concatenate(given)
    given.clear()
    recording("run")
    report = evaluate(made.data, bundles=["whole"], workspace=made.workspace)
    by_evaluate = np.concatenate(given)
    assert by_evaluate.dtype == by_infer.dtype == np.uint8
    assert by_evaluate.shape == (20, 32, 32, 3)
    assert by_evaluate.tobytes() == by_infer.tobytes()
    right = [r.predictions[0].label == Path(r.path).parent.name for r in results]
    assert report.subjects[0].top1 == sum(right) / 20


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (7, 4)])
def test_batches_and_threads_change_nothing(made, monkeypatch, batch, workers):
    monkeypatch.setattr(scoring, "DECODED_TOGETHER", 6)
    sizes = []
    run = HostRunner.run

    def counting(self, wanted, images, *others):
        sizes.append(len(images))
        return run(self, wanted, images, *others)

    monkeypatch.setattr(HostRunner, "run", counting)
    asked = {"checkpoints": [made.checkpoint], "bundles": ["whole"], "workspace": made.workspace}
    report = evaluate(made.data, batch=batch, workers=workers, **asked)
    assert max(sizes) == min(batch, 6)
    assert sum(sizes) == 20
    assert same(report) == same(evaluate(made.data, **asked))


def test_classes_in_another_order_and_others_besides(made, tmp_path):
    order = ("rocket", "coffee", "astronaut", "chelsea")
    model = with_outputs(made.model, 3, 2, 0, 1, -1e6, -1e6)
    other = save(tmp_path / "other.safetensors", model, [*order, "unicorn", "phoenix"])
    report = evaluate(made.data, checkpoints=[made.checkpoint, other])
    first, second = report.subjects
    assert second.agreement == 1.0
    assert second.top1 == first.top1
    # In the order of the model, without what neither the data nor the predictions have.
    assert [scores.label for scores in second.classes] == [*order]
    there = [order.index(name) for name in CLASSES]
    assert np.array(second.confusion)[np.ix_(there, there)].tolist() == [
        list(row) for row in first.confusion
    ]


def test_a_class_that_is_only_predicted_is_shown(made, tmp_path):
    model = with_outputs(made.model, 0, 1, 2, 3, 1e6)
    path = save(tmp_path / "fond.safetensors", model, [*CLASSES, "unicorn"])
    (subject,) = evaluate(made.data, checkpoints=[path]).subjects
    assert subject.top1 == 0.0
    assert subject.top5 == 1.0
    assert [(s.label, s.images, s.recall) for s in subject.classes][4] == ("unicorn", 0, None)
    assert [row[4] for row in subject.confusion] == [5, 5, 5, 5, 0]


def test_agreement_is_of_labels_right_or_wrong(made, tmp_path):
    """Two models that are both wrong on a photo agree on it when they say the same."""
    swapped = list(CLASSES)
    swapped[0], swapped[1] = swapped[1], swapped[0]
    other = save(tmp_path / "swapped.safetensors", made.model, swapped)
    first, second = evaluate(made.data, checkpoints=[made.checkpoint, other]).subjects
    logits, labels = by_hand(made, made.paths())
    best = logits.argmax(1)
    assert second.agreement == np.mean(best >= 2)
    assert second.top1 == np.mean(np.array([1, 0, 2, 3])[best] == labels)
    assert first.top1 != second.top1


def test_a_photo_is_decoded_once_for_each_preprocessing(made, monkeypatch, tmp_path):
    decoded = []

    def counting(data, preprocessing):
        decoded.append(preprocessing)
        return load_image(data, preprocessing)

    monkeypatch.setattr(scoring, "load_image", counting)
    again = Path(shutil.copy(made.checkpoint, tmp_path / "again.safetensors"))
    asked = {"bundles": ["whole"], "workspace": made.workspace}
    evaluate(made.data, checkpoints=[made.checkpoint, again], **asked)
    assert decoded == [SMALL] * 20
    decoded.clear()
    larger = evaluate(made.data, checkpoints=[made.checkpoint], image_size=48, **asked)
    assert len(decoded) == 40
    assert set(decoded) == {SMALL, Preprocessing.for_image_size(48)}
    assert larger.subjects[0].images == larger.subjects[1].images == 20


def test_all_tails_of_a_bundle_or_those_named(made, own_data, built):
    two, whole = built / "engines" / "resnet18+resnet34-cut2-fp16", made.workspace / "engines/whole"
    for number, name in enumerate(CLASSES):
        (own_data / name).rename(own_data / f"class {number}")
    both = evaluate(own_data, workspace=built)
    assert [subject.tail for subject in both.subjects] == ["resnet18", "resnet34"]
    assert [subject.precision for subject in both.subjects] == ["fp16", "fp16"]
    assert both.notes == (
        "The weights of resnet18 are random: its scores mean nothing.",
        "The weights of resnet34 are random: its scores mean nothing.",
    )
    one = evaluate(own_data, bundles=[two], tails=["resnet34"])
    assert [subject.name for subject in one.subjects] == [f"{two.name}/resnet34"]
    assert one.subjects[0].confusion == both.subjects[1].confusion
    # Of a thousand classes only those that came up are in the matrix.
    assert 4 <= len(one.subjects[0].classes) <= 24
    assert sum(map(sum, one.subjects[0].confusion)) == 20
    with pytest.raises(
        TrtkitError, match=r"Tail `resnet35` not found in .*, whole; available: resnet34"
    ):
        evaluate(own_data, bundles=[two, whole], tails=["resnet35"])
    with pytest.raises(
        TrtkitError, match=r"whole has no tail resnet34; leave .* from its tails: small\."
    ):
        evaluate(own_data, bundles=[two, whole], tails=["resnet34"])


def test_photos_that_cannot_be_read_are_skipped_and_listed(made, own_data):
    before = evaluate(own_data, checkpoints=[made.checkpoint])
    torn = own_data / "coffee" / "torn.jpg"
    torn.write_bytes(b"\xff\xd8\xff")
    (own_data / "rocket" / "empty.png").write_bytes(b"")
    report = evaluate(own_data, checkpoints=[made.checkpoint])
    assert [item.path.name for item in report.skipped] == ["torn.jpg", "empty.png"]
    assert report.skipped[1].reason == "The file is empty."
    (subject,) = report.subjects
    assert (subject.images, subject.skipped) == (20, 2)
    assert (subject.top1, subject.confusion) == (
        before.subjects[0].top1,
        before.subjects[0].confusion,
    )


def test_no_readable_photo_at_all(made, own_data):
    for path in own_data.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(TrtkitError, match=r"None of the 20 photos of .*: The file is empty; give"):
        evaluate(own_data, checkpoints=[made.checkpoint])


def test_parts_of_train_and_val_folders(made, split_data):
    images = {}
    for part in ("auto", "all", "train", "val"):
        (subject,) = evaluate(split_data, checkpoints=[made.checkpoint], part=part).subjects
        images[part] = (subject.images, subject.part)
    assert images == {
        "auto": (8, "val"), "val": (8, "val"), "train": (12, "train"), "all": (20, "all"),
    }  # fmt: skip


@pytest.mark.parametrize("seed", [0, 5])
def test_val_of_class_folders_is_that_of_training(made, seed):
    (subject,) = evaluate(
        made.data, checkpoints=[made.checkpoint], part="val", split_seed=seed
    ).subjects
    val = read_dataset(made.data, seed=seed).val
    logits, labels = by_hand(made, [photo.path for photo in val])
    assert subject.images == len(val) == 4
    assert subject.confusion == tuple(map(tuple, scores_of(logits, labels).confusion.tolist()))


def described(data: Path, seed: int) -> dict:
    dataset = read_dataset(data, seed=seed)
    return {
        "fingerprint": dataset.fingerprint,
        "split": dataset.split,
        "seed": seed,
        "train": len(dataset.train),
        "val": len(dataset.val),
    }


@pytest.mark.parametrize("part", ["all", "train"])
def test_photos_trained_on_are_noted(made, own_data, tmp_path, part):
    path = save(
        tmp_path / "t.safetensors", made.model, dataset=described(made.data, 2), name="mine"
    )
    report = evaluate(own_data, checkpoints=[path], part=part, split_seed=2)
    images = {"all": 20, "train": 16}[part]
    assert report.notes == (
        f"16 of these {images} photos were trained on by mine; --part val --split-seed 2 evaluates on the "
        "others.",
    )
    assert report.subjects[0].name == "mine"
    assert evaluate(own_data, checkpoints=[path], part="val", split_seed=2).notes == ()
    # Another seed's val was mostly trained on.
    others = {p.digest for p in read_dataset(own_data, seed=2).train}
    both = sum(p.digest in others for p in read_dataset(own_data, seed=0).val)
    (note,) = evaluate(own_data, checkpoints=[path], part="val", split_seed=0).notes
    assert note.startswith(
        f"{both} of these 4 photos were trained on by mine; --part val --split-seed 2"
    )
    # One photo more, and it is no longer the data that the checkpoint knows.
    shutil.copy(tmp_path / "data/coffee" / made.paths("coffee")[0].name, own_data / "coffee/b.png")
    assert evaluate(own_data, checkpoints=[path], part=part, split_seed=2).notes == ()


def test_photos_trained_on_of_train_and_val_folders(made, split_data, tmp_path):
    about = described(split_data, 0)
    path = save(tmp_path / "t.safetensors", made.model, dataset=about)
    for part, images in (("all", 20), ("train", 12)):
        assert evaluate(split_data, checkpoints=[path], part=part).notes == (
            f"12 of these {images} photos were trained on by t; --part val evaluates on the others.",
        )
    assert evaluate(split_data, checkpoints=[path]).notes == ()
    # The same photos in other parts are other data.
    first = min((split_data / "val/coffee").iterdir())
    first.rename(split_data / "train/coffee" / first.name)
    assert evaluate(split_data, checkpoints=[path], part="all").notes == ()


def test_nothing_is_hashed_for_a_checkpoint_of_more_photos(made, tmp_path, monkeypatch):
    about = {**described(made.data, 0), "train": 17}
    path = save(tmp_path / "t.safetensors", made.model, dataset=about)

    def refuse(*args):
        raise AssertionError("a photo was hashed")

    monkeypatch.setattr(scoring, "blake3", refuse)
    assert evaluate(made.data, checkpoints=[path, made.checkpoint]).notes == ()


@pytest.mark.parametrize("about", [7, {}, {"fingerprint": 3}, {"fingerprint": "x", "train": "y"}])
def test_metadata_of_others_are_no_error(made, tmp_path, about):
    path = save(tmp_path / "t.safetensors", made.model, dataset=about)
    assert evaluate(made.data, checkpoints=[path]).notes == ()


def test_checkpoints_of_one_name_are_told_apart(made, tmp_path):
    paths = [tmp_path / folder / "best.safetensors" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        shutil.copy(made.checkpoint, path)
    report = evaluate(made.data, checkpoints=paths)
    assert [subject.name for subject in report.subjects] == [*map(str, paths)]


def test_the_json_is_a_list_of_plain_values(made):
    report = evaluate(
        made.data, checkpoints=[made.checkpoint], bundles=["whole"], workspace=made.workspace
    )
    first, second = json.loads(json.dumps(to_plain(report.subjects), allow_nan=False))
    assert [*second] == [
        "name", "kind", "checkpoint", "bundle", "tail", "precision", "backend", "data", "part",
        "images", "skipped", "top1", "top5", "agreement", "agrees_with", "logits_error",
        "boundary_error", "boundary_with", "bytes", "images_per_second", "classes", "confusion",
        "notes", "scores",
    ]  # fmt: skip
    assert (first["agreement"], second["agreement"]) == (None, 1.0)
    assert [*first["classes"][0]] == ["label", "images", "precision", "recall"]
    assert np.array(first["confusion"]).shape == (4, 4)


def test_progress_is_reported_up_to_the_end(made, monkeypatch):
    monkeypatch.setattr(scoring, "DECODED_TOGETHER", 8)
    with recorded() as reports:
        evaluate(made.data, checkpoints=[made.checkpoint])
    assert reports.events == [(f"Evaluating on {made.data}", share) for share in (0.4, 0.8, 1.0)]


def test_the_picture_is_of_the_first(made, tmp_path, monkeypatch):
    seen = []
    draw = api.draw_confusion
    monkeypatch.setattr(api, "draw_confusion", lambda *given: seen.append(given) or draw(*given))
    picture = tmp_path / "confusion.png"
    report = evaluate(made.data, checkpoints=[made.checkpoint], plot=picture)
    ((matrix, labels, path, title),) = seen
    assert matrix.tolist() == [list(row) for row in report.subjects[0].confusion]
    assert (labels, path) == ([*CLASSES], picture)
    assert title == f"small: {report.subjects[0].top1:.1%} of 20 photos"
    assert picture.stat().st_size > 5000


def test_folders_that_a_model_does_not_know(made, own_data, monkeypatch):
    (own_data / "rocket").rename(own_data / "rockets")
    monkeypatch.setattr(scoring, "read_file", lambda path: pytest.fail("a photo was read"))
    monkeypatch.setattr(
        "trtkit.evaluation.dataset.read_file", lambda path: pytest.fail("a photo was read")
    )
    for part in ("all", "val"):
        with pytest.raises(
            TrtkitError,
            match=r"^small does not know 1 of the 4 class folders: rockets; its classes are "
            r"astronaut, chelsea, coffee, rocket: rename the folders",
        ):
            evaluate(own_data, checkpoints=[made.checkpoint], part=part)


def test_a_name_that_two_classes_have(made, tmp_path):
    path = save(tmp_path / "twice.safetensors", made.model, ["coffee", *CLASSES[1:]])
    data = tmp_path / "data"
    shutil.copytree(made.data / "coffee", data / "coffee")
    with pytest.raises(TrtkitError, match=r"twice has more than one class called coffee, so"):
        evaluate(data, checkpoints=[path])
    # Data that do not use it are none the worse.
    shutil.copytree(made.data / "rocket", tmp_path / "others" / "rocket")
    assert evaluate(tmp_path / "others", checkpoints=[path]).subjects[0].images == 5


def test_logits_that_are_nan_are_no_scores(made, tmp_path):
    path = tmp_path / "huge.safetensors"
    save(path, with_outputs(made.model, 0, 1, 2, float("nan")))
    with pytest.raises(TrtkitError, match=r"weight fc\.bias of resnet18 holds NaN or infinite"):
        evaluate(made.data, checkpoints=[path])
    model = with_outputs(made.model, 0, 1, 2, 3)
    with torch.no_grad():
        # Finite weights whose products are not: infinity less infinity.
        model.model.network.fc.weight.fill_(3e38)
        model.model.network.fc.weight[:, ::2] = -3e38
    save(path, model)
    with pytest.raises(TrtkitError, match=r"^huge: The logits of 20 of 20 images are NaN"):
        evaluate(made.data, checkpoints=[path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "--batch 0 is too small; give 1 or more"),
        ({"part": "test"}, "Unknown part 'test' of .*; available: auto, all, train, val"),
        ({"bundles": ["who"]}, "Bundle `who` not found in .*; available: whole"),
        (
            {"bundles": ["whole"], "batch": 10_000},
            "Bundle whole takes batches of .*, not 10000; choose",
        ),
        (
            {"bundles": ["whole"], "image_size": 64},
            "--image-size 64 applies to checkpoints only: a",
        ),
        (
            {"checkpoints": [__file__]},
            r"test_evaluate\.py is no checkpoint of PyTorch",
        ),
        ({"checkpoints": ["x.pt"]}, r"Checkpoint `x\.pt` not found"),
        (
            {"checkpoints": ["x.pt"], "tails": ["t"]},
            "--tail t has no effect on checkpoints, which",
        ),
        (
            {"checkpoints": ["x.pt"], "image_size": 0},
            "--image-size 0 is too small; give 1 pixel or",
        ),
        ({"plot": "x.bmp"}, r"A picture cannot be drawn to x\.bmp; give a name"),
    ],
    ids=str,
)
def test_requests_that_cannot_be_carried_out(made, options, message):
    with pytest.raises(TrtkitError, match=message):
        evaluate(made.data, workspace=made.workspace, **options)


def test_a_device_that_is_full(made, monkeypatch):
    def full(self, features):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.\nAnd so on.")

    monkeypatch.setattr(torch.nn.Linear, "forward", full)
    with pytest.raises(
        TrtkitError,
        match=r"small\.safetensors cannot take 5 images of 32 x 32 at once \(CUDA out of memory\. "
        r"Tried to allocate 20\.00 MiB\); choose a smaller --batch",
    ):
        evaluate(made.data, checkpoints=[made.checkpoint], batch=5)


def test_no_bundle_and_no_checkpoint(made, tmp_path):
    with pytest.raises(TrtkitError, match="There is no bundle in"):
        evaluate(made.data, workspace=tmp_path)
