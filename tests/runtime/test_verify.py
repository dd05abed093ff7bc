"""Comparing logits."""

from __future__ import annotations

import numpy as np
import pytest

from trtkit.errors import TrtkitError
from trtkit.runtime.verify import LIMITS, Limits, check, compare

LIMIT = Limits(relative_error=0.01, agreement=0.9)
REFERENCE = np.array([[10.0, 1.0, 0.0], [0.0, 2.0, 1.0]], dtype=np.float32)


def test_the_relative_error_is_that_of_the_worst_image():
    logits = REFERENCE + np.array([[0.05, 0, 0], [0, 0, -0.3]], dtype=np.float32)
    found = compare(logits, REFERENCE, LIMIT)
    assert found.relative_error == pytest.approx(0.3 / 2.0)
    assert (found.agreement, found.ties, found.images) == (1.0, 0, 2)


def test_another_top_class_disagrees():
    logits = REFERENCE.copy()
    logits[1] = [0.0, 1.0, 2.0]
    assert compare(logits, REFERENCE, LIMIT).agreement == 0.5


def test_classes_that_the_reference_cannot_tell_apart_are_a_tie():
    reference = np.array([[100.0, 99.5, 0.0]], dtype=np.float32)
    logits = np.array([[99.5, 100.0, 0.0]], dtype=np.float32)
    found = compare(logits, reference, LIMIT)
    assert (found.agreement, found.ties) == (1.0, 1)
    # Within the error allowed, that is: past it, it is a disagreement.
    found = compare(logits, reference, Limits(relative_error=0.004, agreement=1.0))
    assert (found.agreement, found.ties) == (0.0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_never_pass(bad):
    logits = REFERENCE.copy()
    logits[0, 2] = bad
    found = compare(logits, REFERENCE, LIMIT)
    assert found.relative_error == np.inf
    with pytest.raises(TrtkitError, match=r"disagrees .* nothing was kept"):
        check(found, LIMIT, "m at fp16", "2 photos")


def test_check_compares_with_both_limits():
    near = compare(REFERENCE + np.float32(0.01), REFERENCE, LIMIT)
    check(near, LIMIT, "m", "photos")
    with pytest.raises(TrtkitError, match=r"m at fp32 disagrees with its reference on 2 photos"):
        check(near, Limits(0.001, 0.0), "m at fp32", "2 photos")
    with pytest.raises(TrtkitError, match=r"top-1 agreement 100\.0% \(at least 101%\)"):
        check(near, Limits(1.0, 1.01), "m", "photos")


def test_fp32_is_held_to_a_tighter_limit_than_fp16():
    assert LIMITS["fp32"].relative_error < LIMITS["fp16"].relative_error


def test_different_shapes_are_refused():
    with pytest.raises(TrtkitError, match=r"\(2, 3\) .* \(1, 3\)"):
        compare(REFERENCE, REFERENCE[:1], LIMIT)
