"""`trtkit evaluate` as people type it: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from scripts.photos import crops
from trtkit.cli.evaluate import _speed
from trtkit.models import checkpoint, weights
from trtkit.preprocessing import Preprocessing

CLASSES = ["astronaut", "chelsea", "coffee"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with `data` of six photos, and checkpoints `one` and `two`, which always say chelsea."""
    root = tmp_path_factory.mktemp("evaluate")
    for number, (name, image) in enumerate(crops(20, 40, 40)):
        if name in CLASSES:
            (root / "data" / name).mkdir(parents=True, exist_ok=True)
            image.save(root / "data" / name / f"{number:02}.png")
    model = weights.random("resnet18", classes=3)
    model.model.network.fc.weight.data.zero_()
    model.model.network.fc.bias.data[1] = 1.0
    for name in ("one", "two"):
        checkpoint.save_checkpoint(
            root / f"{name}.safetensors", model.model, CLASSES, Preprocessing.for_image_size(32)
        )
    return root


@pytest.fixture
def own_data(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "data", tmp_path / "data"))


def test_one_subject_class_by_class(trtkit, made):
    ended = trtkit("evaluate", made / "data", "--checkpoint", made / "one.safetensors")
    assert (ended.code, ended.err) == (0, "")
    rows = [line.split("\t") for line in ended.out.splitlines()]
    megabytes = (made / "one.safetensors").stat().st_size / 1e6
    assert rows[1][10] == f"{megabytes:.1f}"
    assert float(rows[1][11]) > 0
    rows[1][10:] = ["size", "speed"]
    assert rows == [
        ["name", "kind", "precision", "images", "top-1", "top-5", "agreement", "with", "logits err",
         "cut err", "MB", "images/s"],
        ["one", "checkpoint", "fp32", "6", "33.3%", "100.0%", "-", "", "-", "-", "size", "speed"],
        ["class", "images", "precision", "recall"],
        ["astronaut", "2", "-", "0.0%"],
        ["chelsea", "2", "33.3%", "100.0%"],
        ["coffee", "2", "-", "0.0%"],
    ]  # fmt: skip


def test_a_speed_has_a_digit_after_the_point_below_100():
    speeds = [None, 9.06, 99.94, 100.0, 1234.4]
    assert [_speed(images) for images in speeds] == ["-", "9.1", "99.9", "100", "1234"]


def test_several_subjects_in_one_table(trtkit, made, tmp_path):
    picture = tmp_path / "confusion.png"
    ended = trtkit(
        "evaluate", made / "data", "--checkpoint", made / "one.safetensors",
        "--checkpoint", made / "two.safetensors", "--plot", picture,
    )  # fmt: skip
    assert ended.code == 0
    assert ended.err == f"{picture} shows one alone.\n"
    rows = [line.split("\t") for line in ended.out.splitlines()]
    assert [[row[0], *row[6:10]] for row in rows] == [
        ["name", "agreement", "with", "logits err", "cut err"],
        ["one", "-", "", "-", "-"],
        ["two", "100.0%", "one", "0.0e+00", "-"],
    ]
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_json_is_a_list_even_of_one(trtkit, made):
    ended = trtkit("evaluate", made / "data", "--checkpoint", made / "one.safetensors", "--json")
    (subject,) = json.loads(ended.out)
    assert (subject["top1"], subject["images"], subject["part"]) == (1 / 3, 6, "all")
    assert subject["confusion"] == [[0, 2, 0], [0, 2, 0], [0, 2, 0]]
    assert subject["classes"][0] == {
        "label": "astronaut", "images": 2, "precision": None, "recall": 0.0,
    }  # fmt: skip


def test_a_bundle_is_the_default(trtkit, built, own_data):
    for number, name in enumerate(CLASSES):
        (own_data / name).rename(own_data / f"class {number}")
    ended = trtkit("evaluate", own_data, "--tail", "resnet34", "--batch", "2", "--workspace", built)
    assert ended.code == 0
    assert ended.err == "The weights of resnet34 are random: its scores mean nothing.\n"
    assert ended.out.splitlines()[1].startswith(
        "resnet18+resnet34-cut2-fp16/resnet34\tbundle\tfp16"
    )


def test_skipped_photos_are_named_and_the_exit_code_is_1(trtkit, made, own_data):
    (own_data / "coffee" / "empty.jpg").write_bytes(b"")
    ended = trtkit("evaluate", own_data, "--checkpoint", made / "one.safetensors", "--json")
    assert ended.code == 1
    assert ended.err == f"{own_data}/coffee/empty.jpg: The file is empty.\n"
    (subject,) = json.loads(ended.out)
    assert (subject["images"], subject["skipped"]) == (6, 1)


def test_part_and_seed(trtkit, made):
    ended = trtkit(
        "evaluate", made / "data", "--checkpoint", made / "one.safetensors",
        "--part", "val", "--split-seed", "3", "--json",
    )  # fmt: skip
    (subject,) = json.loads(ended.out)
    assert (subject["part"], subject["images"]) == ("val", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "Error: There is no folder nowhere; give a folder with one folder of photos"),
        (["{data}", "--tail", "x"], "Error: --tail x has no effect on checkpoints"),
        (["{data}/coffee"], "has 2 photos lying directly in it but no class folders"),
        (
            ["{data}", "--plot", "x.txt"],
            "Error: A picture cannot be drawn to x.txt; give a name that ends in .png, .pdf, .svg.",
        ),
    ],
)
def test_errors_are_one_line_and_exit_with_2(trtkit, made, arguments, message):
    arguments = [argument.format(data=made / "data") for argument in arguments]
    ended = trtkit("evaluate", *arguments, "--checkpoint", made / "one.safetensors")
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert ended.err.count("\n") == 1
