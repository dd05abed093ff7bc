"""Trainings from class folders to checkpoints, bundles and predictions."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import trtkit
from tests.reports import recorded
from trtkit.errors import TrtkitError
from trtkit.models.blocks import prefix_digest
from trtkit.models.checkpoint import load, read_checkpoint
from trtkit.preprocessing import Preprocessing
from trtkit.serialization import to_plain
from trtkit.training.interrupt import TrainingInterrupted

SMALL = {
    "arch": "resnet18", "weights": "random", "image_size": 32, "optimizer": "adamw", "lr": 1e-2,
    "augmentation": "none", "epochs": 2,
}  # fmt: skip


@pytest.fixture
def place(cheap, thin, tmp_path) -> Path:
    """A workspace of the test's own with the training `cheap`, whose network is thin, as all then are."""
    shutil.copytree(cheap / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(checkpoint).state


def same(a: Path, b: Path) -> bool:
    """Whether two checkpoints have the same weights, bit for bit."""
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(
        left[name].numpy().tobytes() == right[name].numpy().tobytes() for name in left
    )


@contextmanager
def stops_after(steps: int):
    """In place of `interruptible`: as if Ctrl-C had come during that step."""
    done = 0

    def stopping() -> bool:
        nonlocal done
        done += 1
        return done >= steps

    yield stopping


def interrupted(monkeypatch, steps: int, *arguments, **options) -> str:
    with monkeypatch.context() as patch:
        patch.setattr("trtkit.training.session.interruptible", lambda: stops_after(steps))
        with pytest.raises(TrainingInterrupted) as caught:
            trtkit.train(*arguments, **options)
    return str(caught.value)


def test_what_a_training_leaves(cheap, digits):
    folder = cheap / "checkpoints" / "cheap"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2]
    assert metrics["dataset"]["train"] == 64 and metrics["dataset"]["val"] == 16
    assert np.array(metrics["confusion"]).sum() == 16
    assert metrics["top1"] == np.trace(metrics["confusion"]) / 16
    assert metrics["top1"] == max(epoch["val_top1"] for epoch in metrics["epochs"])
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [
        "best.safetensors", "confusion.png", "curves.png", "last.safetensors", "metrics.json",
        "run.json",
    ]  # fmt: skip
    for picture in ("curves.png", "confusion.png"):
        assert cv2.imread(str(folder / picture)).std() > 5


def test_a_checkpoint_says_where_it_comes_from(cheap):
    said = read_checkpoint(cheap / "checkpoints" / "cheap" / "best.safetensors").metadata
    metrics = json.loads((cheap / "checkpoints" / "cheap" / "metrics.json").read_text())
    assert said["architecture"] == "resnet18" and said["classes"] == ["0", "1", "2", "3"]
    assert said["preprocessing"] == to_plain(Preprocessing(32, 32, 37))
    assert said["source"] == "random seed 0" and said["mode"] == "finetune"
    assert len(said["dataset"]["fingerprint"]) == 64
    assert said["metrics"]["top1"] == metrics["top1"]


@pytest.mark.usefixtures("thin")
def test_gradient_descent_learns(digits, tmp_path):
    report = trtkit.train(digits, **{**SMALL, "epochs": 8}, workspace=tmp_path)
    first, last = report.metrics["epochs"][0], report.metrics["epochs"][-1]
    assert last["train_loss"] < first["train_loss"] / 4
    assert report.metrics["top1"] >= 0.6


def test_the_features_of_random_blocks_separate_digits(digits, tmp_path):
    report = trtkit.train(
        digits, arch="resnet18", mode="bottleneck", weights="random", image_size=64,
        workspace=tmp_path,
    )  # fmt: skip
    assert report.metrics["top1"] >= 0.6
    exported = trtkit.export(report.folder, workspace=tmp_path)
    assert exported.name == "resnet18" and exported.classes == 4
    bundle = trtkit.build(["resnet18"], cut=4, precision="fp16", workspace=tmp_path)
    (scores,) = trtkit.evaluate(
        digits, bundles=[bundle.folder], part="val", workspace=tmp_path
    ).subjects
    assert scores.top1 == report.metrics["top1"]


def test_a_tail_on_another_models_prefix(place, digits):
    report = trtkit.train(
        digits, **{**SMALL, "arch": "resnet34", "image_size": None}, name="expensive",
        prefix_from="cheap", cut=2, seed=1, workspace=place,
    )  # fmt: skip
    cheap = load(read_checkpoint(place / "checkpoints" / "cheap" / "best.safetensors"))
    expensive = load(read_checkpoint(report.checkpoint))
    assert prefix_digest(cheap.model, 2) == prefix_digest(expensive.model, 2)
    features = report.metrics["features"]
    assert features["maps"] == features["computed"] == 80
    assert report.metrics["start"]["prefix"]["cut"] == 2

    for name in ("cheap", "expensive"):
        trtkit.export(place / "checkpoints" / name, workspace=place)
    built = trtkit.build(["cheap", "expensive"], cut=2, precision="fp16", workspace=place)
    assert [stage.name for stage in built.manifest.stages] == ["prefix", "cheap", "expensive"]
    for tail in ("cheap", "expensive"):
        with trtkit.open_bundle(built.folder, tail=tail, workspace=place) as pipeline:
            results = list(pipeline.infer([digits]))
            assert [pipeline.stats.hits, pipeline.stats.misses] == (
                [0, 80] if tail == "cheap" else [80, 0]
            )
        assert {result.predictions[0].label for result in results} <= {"0", "1", "2", "3"}
    scores = trtkit.evaluate(
        digits, checkpoints=["cheap", "expensive"], bundles=[built.folder], part="val",
        workspace=place,
    ).subjects  # fmt: skip
    assert [each.top1 for each in scores[:2]] == [each.top1 for each in scores[2:]]
    assert scores[1].top1 == report.metrics["top1"]
    # Each tail with the checkpoint of its own name, the rest with the first.
    assert [each.agrees_with for each in scores] == [None, "cheap", "cheap", "expensive"]
    assert scores[2].agreement == scores[3].agreement == 1
    # The bundle knows what its models were trained on.
    (of_all,) = trtkit.evaluate(
        digits, bundles=[built.folder], tails=["expensive"], workspace=place
    ).subjects
    (told,) = of_all.notes
    assert told.startswith("64 of these 80 photos were trained on by ")
    rebuilt = trtkit.build(bundle_name=built.folder.name, precision="fp32", workspace=place)
    assert rebuilt.manifest.trained_on == built.manifest.trained_on


def test_stored_features_train_as_the_frozen_blocks_themselves(place, digits):
    # One epoch: from then on the weights go their own ways, as they do after any rounding.
    given = {
        **SMALL, "arch": "resnet34", "image_size": None, "prefix_from": "cheap", "cut": 2,
        "epochs": 1, "workspace": place,
    }  # fmt: skip
    stored = trtkit.train(digits, **given, name="stored")
    through = trtkit.train(digits, **given, name="through", feature_store=False)
    assert through.metrics["features"] is None
    (a,), (b,) = stored.metrics["epochs"], through.metrics["epochs"]
    # The maps are stored as fp16.
    assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.01)
    assert a["images_per_second"] > 0 and b["images_per_second"] > 0


def test_only_the_head_changes_when_the_rest_is_frozen(place, digits):
    start = place / "checkpoints" / "cheap" / "best.safetensors"
    report = trtkit.train(
        digits, arch="resnet18", mode="freeze", weights="cheap", name="frozen", epochs=2,
        augment=2, flip=False, workspace=place,
    )  # fmt: skip
    before, after = weights(start), weights(report.folder / "last.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert report.metrics["features"]["maps"] == 2 * 64 + 16
    # What `--json` prints is metrics.json with four fields more.
    plain = json.loads(json.dumps(report.to_json()))
    written = json.loads((report.folder / "metrics.json").read_text())
    assert [*plain, "seal"] == ["name", "folder", "checkpoint", "up_to_date", *written]
    assert written == {name: plain[name] for name in [*written][:-1]} | {"seal": written["seal"]}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd", "lr": 0.02, "augmentation": "strong", "class_weights": "balanced"},
        {"arch": "resnet34", "image_size": None, "prefix_from": "cheap", "cut": 2, "augment": 2,
         "augmentation": "light", "label_smoothing": 0.1},
    ],
    ids=["adamw", "sgd", "prefix"],
)  # fmt: skip
@pytest.mark.parametrize("steps", [1, 3])
def test_resumed_is_as_if_unbroken(place, digits, monkeypatch, options, steps):
    given = {**SMALL, **options, "workspace": place}
    unbroken = trtkit.train(digits, **given, name="unbroken")
    told = interrupted(monkeypatch, steps, digits, **given, name="broken")
    assert told.endswith(f"`trtkit train {digits} --name broken --resume` goes on with it.")
    # Twice, and into another cache of feature maps.
    interrupted(
        monkeypatch, 1, digits, name="broken", resume=True, workspace=place,
        cache_dir=place / "another",
    )  # fmt: skip
    resumed = trtkit.train(digits, name="broken", resume=True, workspace=place)
    for file in ("best.safetensors", "last.safetensors"):
        assert same(unbroken.folder / file, resumed.folder / file)
    for a, b in zip(unbroken.metrics["epochs"], resumed.metrics["epochs"], strict=True):
        for measured in ("train_loss", "train_top1", "val_loss", "val_top1", "rate"):
            assert a[measured] == b[measured]
    assert not (resumed.folder / "resume.safetensors").exists()


def test_a_training_that_has_ended_is_not_done_again(place, digits):
    report = trtkit.train(digits, name="cheap", resume=True, workspace=place)
    assert report.up_to_date and report.metrics["top1"] >= 0


@pytest.mark.usefixtures("thin")
def test_early_stopping(digits, tmp_path):
    report = trtkit.train(
        digits, **{**SMALL, "lr": 1e-9, "epochs": 9}, patience=2, workspace=tmp_path
    )
    epochs = report.metrics["epochs"]
    assert report.metrics["stopped_early"] and len(epochs) < 9
    best = report.metrics["best_epoch"]
    assert len(epochs) == best + 2
    assert all(epoch["val_top1"] <= epochs[best - 1]["val_top1"] for epoch in epochs)


@pytest.mark.usefixtures("thin")
def test_a_diverging_loss_ends_the_training_and_keeps_the_checkpoints(
    digits, tmp_path, monkeypatch
):
    from trtkit.training import loop

    rates = iter([1e-3] * 3 + [1e30] * 9)
    monkeypatch.setattr(loop.Trainer, "_rate", lambda self, progress: next(rates))
    with pytest.raises(TrtkitError) as caught:
        trtkit.train(digits, **{**SMALL, "epochs": 3}, workspace=tmp_path)
    said = str(caught.value)
    assert "became nan in epoch 2 at step 2" in said or "became inf in epoch 2 at step" in said
    assert "the checkpoints of epoch 1 are kept" in said and "lower --lr" in said
    kept = weights(tmp_path / "checkpoints" / "resnet18" / "last.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values() if value.is_floating_point())


@pytest.mark.usefixtures("thin")
def test_damaged_photos_are_skipped_listed_and_counted(digits, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(digits, data)
    whole = next((data / "2").iterdir()).read_bytes()
    (data / "2" / "broken.jpg").write_bytes(whole[:300])
    with recorded() as reports:
        report = trtkit.train(data, **{**SMALL, "epochs": 1}, workspace=tmp_path)
    (skipped,) = report.metrics["dataset"]["skipped"]
    assert skipped["path"] == str(data / "2" / "broken.jpg")
    assert any(
        line.startswith(f"Skipped {data / '2' / 'broken.jpg'}: The ") for line in reports.messages
    )
    assert "Photos skipped: 1." in reports.messages


def refused(*arguments, **options) -> str:
    with pytest.raises(TrtkitError) as caught:
        trtkit.train(*arguments, **options)
    return str(caught.value)


def test_resuming_what_is_not_there_or_not_the_same(place, digits, monkeypatch):
    assert "Training `nothing` not found in " in refused(
        digits, name="nothing", resume=True, workspace=place
    )
    interrupted(monkeypatch, 1, digits, **SMALL, name="broken", workspace=place)
    assert "--lr 0.5 cannot change a training that was begun with 0.01" in refused(
        digits, name="broken", resume=True, lr=0.5, workspace=place
    )
    fewer = place / "fewer"
    shutil.copytree(digits, fewer)
    next((fewer / "1").iterdir()).unlink()
    assert (
        "differ from those that training broken began with (64 and 16 then, 63 and 16 now); "
        in refused(fewer, name="broken", resume=True, workspace=place)
    )
    assert "continue it with --resume" in refused(digits, **SMALL, name="broken", workspace=place)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"arch": "resnet34", "cut": 3}, "only their first 2 blocks; choose a cut from 1 to 2"),
        ({"arch": "vgg11", "cut": 1}, "share no blocks"),
        ({"arch": "resnet34"}, "--prefix-from cheap needs --cut"),
        ({"arch": "resnet34", "cut": 2, "image_size": 64}, "takes photos of 32 x 32"),
        (
            {"arch": "resnet34", "cut": 2, "resampling": "fast"},
            "whose photos are resized by bilinear",
        ),
        ({"arch": "resnet34", "cut": 2, "prefix_from": "cheep"}, "`cheep` not found; give a file"),
        ({"arch": "resnet34", "cut": 2, "cache_size": 1000}, "give --cache-size"),
    ],
)
def test_a_prefix_that_does_not_fit(place, digits, options, sentence):
    given = {"weights": "random", "epochs": 1, "prefix_from": "cheap", **options}
    assert sentence in refused(digits, **given, name="expensive", workspace=place)


@pytest.mark.usefixtures("thin")
def test_a_checkpoint_has_the_resampling_of_its_training(digits, tmp_path):
    options = {**SMALL, "epochs": 1, "workspace": tmp_path}
    report = trtkit.train(digits, **options, resampling="bicubic", name="sharp")
    image = load(read_checkpoint(Path(report.checkpoint))).preprocessing
    assert image == Preprocessing(32, 32, 37, resampling="bicubic")
    # Other weights start with it.
    options["weights"] = report.checkpoint
    again = trtkit.train(digits, **options, name="again")
    assert load(read_checkpoint(Path(again.checkpoint))).preprocessing == image


def test_nothing_is_left_of_a_request_that_makes_no_sense(digits, tmp_path):
    assert "did you mean resnet50" in refused(digits, arch="resnet5", workspace=tmp_path)
    assert "Checkpoint `x.pth` not found" in refused(
        digits, arch="resnet50", weights="x.pth", workspace=tmp_path
    )
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.usefixtures("thin")
def test_a_full_disk_keeps_the_checkpoints_that_are_there(digits, tmp_path, monkeypatch):
    from trtkit.models import checkpoint

    real, calls = checkpoint.save_file, []

    def save(state, path, metadata):
        calls.append(path)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        real(state, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", save)
        said = refused(digits, **{**SMALL, "epochs": 3}, workspace=tmp_path)
    assert "cannot be written (No space left on device); free space there" in said
    folder = tmp_path / "checkpoints" / "resnet18"
    assert weights(folder / "best.safetensors")
    assert [path.name for path in folder.glob(".*.safetensors")] == []
    resumed = trtkit.train(digits, name="resnet18", resume=True, workspace=tmp_path)
    unbroken = trtkit.train(digits, **{**SMALL, "epochs": 3}, name="other", workspace=tmp_path)
    assert same(resumed.folder / "last.safetensors", unbroken.folder / "last.safetensors")
