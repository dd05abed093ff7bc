"""The picture of a training: a whole PNG with both curves, however many epochs there were."""

from __future__ import annotations

import errno
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from trtkit.errors import TrtkitError
from trtkit.training.results import draw_curves
from trtkit.training.state import Epoch, best_of


def epochs(*figures: tuple[float, float, float, float]) -> list[Epoch]:
    """Of training loss and top-1 and validation loss and top-1."""
    return [
        Epoch(number, 0.01, loss, top1, val_loss, val_top1, 1.0, 10.0, 100.0, 0.1)
        for number, (loss, top1, val_loss, val_top1) in enumerate(figures, start=1)
    ]


FIVE = epochs(
    (2.0, 0.2, 1.8, 0.3), (1.5, 0.4, 1.4, 0.5), (1.0, 0.6, 1.2, 0.7), (0.7, 0.8, 1.1, 0.6),
    (0.4, 0.9, 1.3, 0.6),
)  # fmt: skip


def drawn(path, values, title="a training") -> np.ndarray:
    """The picture's pixels, uint8 H x W x 3."""
    draw_curves(values, best_of(values), path, title)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("count", [1, 2, 5, 300])
def test_a_whole_png_of_one_size(tmp_path, count):
    pixels = drawn(tmp_path / "curves.png", (FIVE * 60)[:count])
    assert pixels.shape == (456, 1080, 3)
    # In tones of grey, on white.
    assert (pixels == pixels[..., :1]).all()
    assert 0.01 < (pixels < 250).mean() < 0.3
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def test_the_left_half_shows_the_loss_and_the_right_one_top1(tmp_path):
    plain = drawn(tmp_path / "a.png", FIVE)
    worse = [*FIVE[:-1], epochs((0.4, 0.9, 1.7, 0.6))[0]]
    worse[-1] = Epoch(**{**worse[-1].__dict__, "epoch": 5})
    other = drawn(tmp_path / "b.png", worse)
    changed = (plain != other).any(2).any(0)
    assert changed[:530].any()
    assert not changed[550:].any()
    top1 = Epoch(**{**FIVE[-1].__dict__, "train_top1": 0.5})
    changed = (plain != drawn(tmp_path / "c.png", [*FIVE[:-1], top1])).any(2).any(0)
    assert not changed[:530].any()
    assert changed[550:].any()


def test_a_picture_depends_on_its_content_alone(tmp_path):
    one = drawn(tmp_path / "a.png", FIVE)
    assert np.array_equal(one, drawn(tmp_path / "b.png", FIVE))
    assert not np.array_equal(one, drawn(tmp_path / "c.png", FIVE, title="another"))


@pytest.mark.parametrize("title", ["Äpfel, Birnen", "a_b=c@d+1", "x" * 200])
def test_any_name_can_be_the_title(tmp_path, title):
    assert drawn(tmp_path / "curves.png", FIVE, title).shape == (456, 1080, 3)


def test_a_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = tmp_path / "curves.png"
    drawn(path, FIVE)
    before = path.read_bytes()

    def full(self, file, **options):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(TrtkitError, match=r"curves\.png cannot be written \(No space left on dev"):
        draw_curves(FIVE[:2], FIVE[0], path, "a training")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def test_neither_pyplot_nor_a_display_is_needed(tmp_path):
    program = (
        "import sys; from pathlib import Path;"
        "from trtkit.training.results import draw_curves; from trtkit.training.state import Epoch;"
        f"one = Epoch(1, *[0.5] * 9); draw_curves([one], one, Path({str(tmp_path / 'x.png')!r}), 'x');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
