"""Specs of tensors."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from trtkit import tensors
from trtkit.tensors import TensorSpec


def test_the_examples_of_the_docstrings() -> None:
    assert doctest.testmod(tensors).failed == 0


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (np.zeros((3, 5), np.int8), True),
        (np.zeros((3, 9), np.int8), True),
        (np.zeros((2, 5), np.int8), False),
        (np.zeros((3, 5, 1), np.int8), False),
        (np.zeros((3, 5), np.uint8), False),
        (np.zeros((3, 5), np.float32), False),
    ],
)
def test_a_row_has_the_sizes_that_are_known(value: np.ndarray, fits: bool) -> None:
    assert TensorSpec("codes", "int8", (None, 3, None)).has_row(value) is fits
