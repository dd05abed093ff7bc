"""Comparing logits."""

from __future__ import annotations

import numpy as np
import pytest

from trtkit.building.verification import LIMITS, Limits, check, compare, limits_for, remedy_of
from trtkit.errors import TrtkitError

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
    for limits in (LIMIT, LIMITS["int8"]):
        with pytest.raises(TrtkitError, match=r"disagrees .* nothing was kept"):
            check(found, limits, "m at fp16", "2 photos", "retrain")


def test_check_compares_with_both_limits():
    near = compare(REFERENCE + np.float32(0.01), REFERENCE, LIMIT)
    check(near, LIMIT, "m", "photos", "retrain")
    with pytest.raises(TrtkitError, match=r"m at fp32 disagrees with its reference on 2 photos"):
        check(near, Limits(0.001, 0.0), "m at fp32", "2 photos", "retrain")
    with pytest.raises(TrtkitError, match=r"top-1 agreement 100\.0% \(at least 1\.01\)"):
        check(near, Limits(1.0, 1.01), "m", "photos", "retrain")


def test_without_a_limit_on_the_error_classes_of_nearly_equal_score_are_tied():
    reference = np.array([[10.0, 9.95, 0.0], [10.0, 2.0, 0.0]], dtype=np.float32)
    logits = np.array([[9.9, 10.0, 0.0], [10.0, 2.0, 0.0]], dtype=np.float32)
    comparison = compare(logits, reference, LIMITS["int8"])
    assert (comparison.agreement, comparison.ties) == (1.0, 1)
    check(comparison, LIMITS["int8"], "m at int8", "2 photos", "retrain")


def test_classes_that_int8_cannot_tell_apart_by_a_step_are_tied():
    reference = np.array([[20.0, 19.7, 0.0], [20.0, 19.5, 0.0]], dtype=np.float32)
    logits = reference[:, [1, 0, 2]]
    comparison = compare(logits, reference, LIMITS["int8"])
    assert (comparison.agreement, comparison.ties) == (0.5, 1)


def test_the_message_counts_errors_and_ties_and_names_the_remedy():
    reference = np.array([[10.0, 9.95, 0.0], [10.0, 2.0, 0.0]], dtype=np.float32)
    logits = np.array([[9.9, 10.0, 0.0], [2.0, 10.0, 0.0]], dtype=np.float32)
    comparison, limits = compare(logits, reference, LIMITS["int8"]), LIMITS["int8"]
    assert (comparison.agreement, comparison.ties) == (0.5, 1)
    with pytest.raises(
        TrtkitError,
        match=r"1 get another class, and 1 more one of nearly equal score.*--verify-images",
    ):
        check(comparison, limits, "m", "2 photos", remedy_of("int8", comparison, limits))


def test_without_a_limit_on_the_error_other_classes_disagree():
    logits = REFERENCE.copy()
    logits[1] = [0.0, 1.9, 2.0]
    found = compare(logits, REFERENCE, LIMITS["int8"])
    assert (found.agreement, found.ties) == (0.5, 0)
    with pytest.raises(
        TrtkitError,
        match=r"relative error 0\.5, top-1 agreement 50\.0% \(at least 0\.99\): 1 get another class",
    ):
        check(found, LIMITS["int8"], "m at int8", "2 photos", "retrain")


def test_the_limits_of_a_build():
    assert LIMITS["fp32"].relative_error < LIMITS["fp16"].relative_error
    # Split on the reference's own kernels, fp32 has no reason to differ as it may on a GPU.
    on_cpu, on_gpu = limits_for("fp32", "onnxruntime"), limits_for("fp32", "tensorrt")
    assert on_cpu.relative_error < on_gpu.relative_error
    assert on_cpu.agreement == on_gpu.agreement == 1.0
    asked = limits_for("fp16", "tensorrt", min_agreement=0.95)
    assert asked == Limits(LIMITS["fp16"].relative_error, 0.95)


def test_different_shapes_are_refused():
    with pytest.raises(TrtkitError, match=r"\(2, 3\) .* \(1, 3\)"):
        compare(REFERENCE, REFERENCE[:1], LIMIT)
