"""The picture of a confusion matrix: what was drawn, at what size, in what tones."""

from __future__ import annotations

import errno
import itertools
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trtkit import TrtkitError
from trtkit.evaluation import plots
from trtkit.evaluation.plots import draw_confusion


def drawn(path: Path, matrix, classes=None, title: str = "A title") -> np.ndarray:
    """The picture's pixels, uint8 H x W, in grey."""
    matrix = np.asarray(matrix, np.int64)
    draw_confusion(matrix, classes or [f"class {n}" for n in range(len(matrix))], path, title)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("L"))


def area(pixels: np.ndarray, colour: range) -> int:
    return int(np.isin(pixels, list(colour)).sum())


def test_the_diagonal_of_a_perfect_model_is_black(tmp_path):
    perfect = drawn(tmp_path / "perfect.png", np.diag([10, 20, 30, 40]))
    # A quarter of the matrix, which is about half of the picture.
    assert 0.08 < area(perfect, range(3)) / perfect.size < 0.25
    even = drawn(tmp_path / "even.png", np.full((4, 4), 10))
    assert area(even, range(3)) < area(perfect, range(3)) / 3
    assert not np.array_equal(perfect, even)


def test_a_cell_is_as_dark_as_its_share_of_the_row(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_NUMBERED", 0)
    tones = []
    for classes in (1, 2, 4, 8):
        pixels = drawn(tmp_path / "picture.png", np.full((classes, classes), 3))
        # All cells have one tone, which no other part of the picture has so much of.
        counts = np.bincount(pixels.ravel(), minlength=256)[:255]
        assert counts.max() > 0.15 * pixels.size
        tones.append(int(counts.argmax()))
    assert tones[0] == 0
    assert tones == sorted(tones)
    assert min(b - a for a, b in itertools.pairwise(tones)) > 20


def test_the_same_shares_differ_in_their_numbers_alone(tmp_path):
    few = drawn(tmp_path / "few.png", [[1, 3], [0, 4]])
    many = drawn(tmp_path / "many.png", [[1000, 3000], [0, 4000]])
    differing = (few != many).mean()
    assert 0 < differing < 0.02


def test_a_class_without_images_stays_white(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = drawn(tmp_path / "empty.png", np.zeros((3, 3)))
    full = drawn(tmp_path / "full.png", np.diag([1, 1, 1]))
    assert area(empty, range(3)) < area(full, range(3)) / 2


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 300, 1000])
def test_sensible_from_one_class_to_a_thousand(tmp_path, classes):
    pixels = drawn(tmp_path / "picture.png", np.eye(classes))
    height, width = pixels.shape
    assert 600 <= width <= 3000 and 600 <= height <= 3000
    assert 0.8 < width / height < 1.25
    # The diagonal is there, in black, from end to end.
    rows, columns = np.nonzero(pixels < 100)
    assert np.ptp(rows) > 0.5 * height and np.ptp(columns) > 0.5 * width


def test_every_class_of_a_few_is_labelled(tmp_path):
    named = drawn(tmp_path / "named.png", np.eye(12))
    other = drawn(tmp_path / "other.png", np.eye(12), [*(f"class {n}" for n in range(11)), "zebra"])
    assert not np.array_equal(named, other)


def test_names_that_are_no_plain_text(tmp_path):
    names = ["$x_$", "a\nb\t c", "\udcff", "猫", "x" * 300]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = drawn(tmp_path / "picture.png", np.eye(5), names, title="$x^$")
    plain = drawn(tmp_path / "plain.png", np.eye(5))
    # A long name is cut: the matrix keeps most of its place.
    assert area(pixels, range(3)) > 0.4 * area(plain, range(3))


def test_nothing_of_pyplot_is_kept_or_needed(tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    drawn(tmp_path / "picture.png", np.eye(2))
    assert ("matplotlib.pyplot" in sys.modules) == loaded


@pytest.mark.parametrize(
    ("ending", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("PNG", b"\x89")]
)
def test_the_ending_says_the_format(tmp_path, ending, start):
    path = tmp_path / "new folder" / f"picture.{ending}"
    draw_confusion(np.eye(2), ["a", "b"], path, "t")
    assert path.read_bytes().startswith(start)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(
        TrtkitError, match=r"picture\.bmp; give a name that ends in \.png, \.pdf, \.svg\."
    ):
        draw_confusion(np.eye(2), ["a", "b"], tmp_path / "picture.bmp", "t")


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (3,), (0, 0)])
def test_a_matrix_of_other_classes_is_refused(tmp_path, shape):
    with pytest.raises(TrtkitError, match=r"shape .* does not fit 3 classes"):
        draw_confusion(np.zeros(shape, np.int64), ["a", "b", "c"], tmp_path / "x.png", "t")


def test_a_disk_that_is_full_leaves_the_old_picture(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = tmp_path / "picture.png"
    path.write_bytes(b"the old one")

    def full(self, target, **options):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(TrtkitError, match=r"picture\.png cannot be written \(No space left"):
        draw_confusion(np.eye(2), ["a", "b"], path, "t")
    assert path.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        TrtkitError, match=r"A picture needs matplotlib, .* `pip install matplotlib`"
    ):
        draw_confusion(np.eye(2), ["a", "b"], tmp_path / "x.png", "t")
