"""The picture of a profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.profiles import make_profile
from trtkit.costs.plot import draw_profile
from trtkit.errors import TrtkitError


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L")).astype(int)


def test_the_chosen_cut_is_marked(tmp_path: Path) -> None:
    profile = make_profile(sizes=[9000, 3000, 1000])
    drawn = {}
    for chosen in (0, 1, 3):
        draw_profile(profile, chosen, tmp_path / f"{chosen}.png")
        drawn[chosen] = pixels(tmp_path / f"{chosen}.png")
    assert drawn[0].shape == drawn[1].shape == drawn[3].shape
    assert (drawn[0] != drawn[1]).any() and (drawn[1] != drawn[3]).any()
    # The rings are in the upper picture.
    rows, _ = np.nonzero(np.abs(drawn[1] - drawn[3]) > 100)
    assert rows.max() < 0.7 * drawn[1].shape[0]


def test_it_needs_no_colour(tmp_path: Path) -> None:
    draw_profile(make_profile(), 3, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        rgb = np.asarray(image.convert("RGB")).astype(int)
    assert rgb.max() - rgb.min() > 200
    assert (rgb.max(axis=2) - rgb.min(axis=2)).max() == 0


def test_a_deep_model_and_a_name_with_a_dollar_sign(tmp_path: Path) -> None:
    profile = make_profile([0.01] * 50, model="$a_b", sizes=[5000] * 25 + [2000] * 25)
    draw_profile(profile, 7, tmp_path / "deep.svg")
    text = (tmp_path / "deep.svg").read_text()
    assert text.startswith("<?xml")


def test_an_ending_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TrtkitError, match=r"p\.txt"):
        draw_profile(make_profile(), 1, tmp_path / "p.txt")
