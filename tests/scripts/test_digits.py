"""scripts/digits.py: which photos it writes where, always the same, and that they can be learnt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("skimage", reason="scikit-image is not installed")

from sklearn.linear_model import LogisticRegression

from scripts import digits
from scripts.digits import digit, scans, write_digits

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "digits.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=os.sep)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")
    }


def counts(folder: Path) -> dict[str, int]:
    return {path.name: len(files(path)) for path in sorted(folder.iterdir())}


def test_help() -> None:
    assert "Usage:" in run("--help").stdout


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path) -> None:
    done = run(tmp_path / "once", "--size", 64, "--classes", "0-2,9", "--count", 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"12 photos in {tmp_path / 'once'}\n"
    paths = write_digits(tmp_path / "again", size=64, classes=[0, 1, 2, 9], count=3)
    once, again = files(tmp_path / "once"), files(tmp_path / "again")
    assert once == again
    assert [path.relative_to(tmp_path / "again").as_posix() for path in paths] == sorted(once)

    write_digits(tmp_path / "other", size=64, classes=[0, 1, 2, 9], count=3, seed=1)
    other = files(tmp_path / "other")
    assert once.keys() == other.keys()
    assert all(once[name] != other[name] for name in once)


def test_every_scan_is_written_once(tmp_path: Path) -> None:
    labels = scans()[1]
    paths = write_digits(tmp_path, size=64)
    assert len(paths) == len(labels) == 1797
    assert counts(tmp_path) == {str(label): n for label, n in enumerate(np.bincount(labels))}
    assert all(labels[int(path.stem)] == int(path.parent.name) for path in paths)
    assert paths[0] == tmp_path / "0" / "0000.jpg"
    with Image.open(paths[0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def test_the_default_is_96_pixels(tmp_path: Path) -> None:
    assert run(tmp_path, "--classes", 7, "--count", 1).returncode == 0
    with Image.open(tmp_path / "7" / "0007.jpg") as image:
        assert image.size == (96, 96)


def test_a_digit_does_not_depend_on_what_else_is_written(tmp_path: Path) -> None:
    write_digits(tmp_path / "few", size=64, classes=[7, 4], count=2)
    write_digits(tmp_path / "more", size=64, classes=range(3, 8), count=5)
    few, more = files(tmp_path / "few"), files(tmp_path / "more")
    assert len(few) == 4 and len(more) == 25
    assert few.items() <= more.items()


def test_split_puts_every_fifth_of_a_class_aside(tmp_path: Path) -> None:
    assert run(tmp_path / "split", "--count", 12, "--size", 64, "--split").returncode == 0
    classes = [str(label) for label in range(10)]
    assert counts(tmp_path / "split" / "train") == dict.fromkeys(classes, 10)
    assert counts(tmp_path / "split" / "val") == dict.fromkeys(classes, 2)
    write_digits(tmp_path / "whole", size=64, count=12)
    train, val = files(tmp_path / "split" / "train"), files(tmp_path / "split" / "val")
    assert train | val == files(tmp_path / "whole")
    assert not train.keys() & val.keys()


@pytest.mark.parametrize(
    ("text", "classes"), [("0-4", "01234"), ("0,3,7", "037"), ("8-9,2,8", "289"), ("5", "5")]
)
def test_classes(text: str, classes: str, tmp_path: Path) -> None:
    assert run(tmp_path, "--count", 1, "--classes", text).returncode == 0
    assert counts(tmp_path) == dict.fromkeys(classes, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "63"], "Invalid value for '--size': "),
        (["--size", "96x96"], "Invalid value for '--size': "),
        (["--count", "0"], "Invalid value for '--count': "),
        (["--count", "all"], "Invalid value for '--count': "),
        (["--seed=-1"], "Invalid value for '--seed': "),
        *(
            (
                [f"--classes={text}"],
                f"Invalid value for --classes: {text} is not a list of digits such as 0-4 or",
            )
            for text in ("4-0", "0-10", "10", "-1", "0,,3", "three", "1-2-3", "3-", "")
        ),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run(tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_all_but_the_shape_is_the_same_whatever_the_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, labels = scans()
    one, zero = np.flatnonzero(labels == 1)[0], np.flatnonzero(labels == 0)[0]
    pictures = [digit(5)]
    for other in (one, zero):
        swapped = shapes.copy()
        swapped[5] = shapes[other]
        monkeypatch.setattr(digits, "scans", lambda swapped=swapped: (swapped, labels))
        pictures.append(digit(5))
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture[:4], pictures[0][:4])
        np.testing.assert_array_equal(picture[:, -4:], pictures[0][:, -4:])
        assert (picture != pictures[0]).any()


def test_ink_and_paper_differ_clearly_in_brightness() -> None:
    shapes, _ = scans()
    for index in range(0, 1797, 9):
        grey = digit(index).mean(axis=2)
        # The edge shows paper; the ink is what differs most from it.
        paper = np.median(np.concatenate([grey[:6].ravel(), grey[-6:].ravel()]))
        ink = np.sort(np.abs(grey - paper).ravel())[-int(grey.size * shapes[index].mean() / 6) :]
        assert ink.mean() > 80, index


def test_the_shape_tells_the_digit_and_the_colour_does_not() -> None:
    pictures = np.stack([digit(index, 64) for index in range(1000)]).astype(np.float64)
    labels = scans()[1][:1000]
    grey = pictures.mean(axis=3)
    # Distance from the paper's brightness, on 8 x 8 fields.
    paper = np.median(grey[:, [0, 1, -2, -1]], axis=(1, 2))[:, None, None]
    fields = np.abs(grey - paper).reshape(-1, 8, 8, 8, 8).mean(axis=(2, 4)).reshape(-1, 64)
    fields /= np.linalg.norm(fields, axis=1, keepdims=True)
    mean = (pictures.mean(axis=(1, 2)) - 128) / 64

    def accuracy(features: np.ndarray) -> float:
        learner = LogisticRegression(C=100, max_iter=2000).fit(features[:700], labels[:700])
        return float(learner.score(features[700:], labels[700:]))

    assert accuracy(fields) > 0.6
    assert accuracy(mean) < 0.2
    assert accuracy(np.concatenate([mean, mean**2], axis=1)) < 0.2
