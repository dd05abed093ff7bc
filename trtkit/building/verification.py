"""Comparing logits with a reference, and what difference each precision is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.scores import Scoring, agreement
from trtkit.tensors import Array


@dataclass(frozen=True)
class Limits:
    """What a comparison must reach: at most this relative error, at least this top-1 agreement."""

    relative_error: float
    agreement: float


# fp32 differs from its reference in the order of sums, and on a GPU by convolutions of fewer products;
# fp16 rounds each weight and value by up to 2^-11 = 4.9e-4 of it, which the layers behind it add up;
# int8 is held to what it decides, not to its logits.
LIMITS = {
    "fp32": Limits(relative_error=1e-3, agreement=1.0),
    "fp16": Limits(relative_error=1e-2, agreement=0.99),
    "int8": Limits(relative_error=math.inf, agreement=0.99),
}
# Of the largest logit. Kernels of int8 round where the graph does not, by up to a step, 1/255 of a range.
# The engine is compared with the int8 graph; what int8 itself costs was judged before.
ROUNDED = 2e-2
# Of two runs of one quantized graph: sums in another order round to another step now and then.
STEPS = Limits(relative_error=0.1, agreement=1.0)
# What the reference itself computes on: fp32 there has the same kernels and is split only.
REFERENCE = "onnxruntime"
SPLIT_ONLY = Limits(relative_error=1e-4, agreement=1.0)


def limits_for(precision: str, backend: str, min_agreement: float | None = None) -> Limits:
    """The limits of a build; `min_agreement`, 0 to 1, takes the place of the table's."""
    limits = LIMITS[precision]
    if precision == "fp32" and backend == REFERENCE:
        limits = SPLIT_ONLY
    return limits if min_agreement is None else replace(limits, agreement=min_agreement)


@dataclass(frozen=True)
class Comparison:
    """How logits compare with their reference.

    `relative_error`: the largest absolute difference of an image's logits divided by the largest
    absolute reference logit of that image, the worst image. `agreement`: the share of images, 0 to
    1, with the same top-1 class, or the same labels of independent ones; `ties` of them have another
    class, but one to which the reference gives a nearly equal score, or a logit within the allowed error.
    """

    images: int
    relative_error: float
    agreement: float
    ties: int


def compare(
    logits: Array, reference: Array, limits: Limits, scoring: Scoring = "softmax"
) -> Comparison:
    """Compare two float arrays N x classes, N at least 1. Non-finite logits have an infinite error."""
    if logits.shape != reference.shape:
        raise TrtkitError(
            f"Logits of shape {logits.shape} cannot be compared with a reference of shape "
            f"{reference.shape}; both must be of the same images and classes."
        )
    scale = np.abs(reference).max(axis=1)
    scale = np.where(scale > 0, scale, 1.0)
    errors = np.abs(logits - reference).max(axis=1) / scale
    errors = np.where(np.isfinite(errors), errors, np.inf)
    allowed = limits.relative_error if math.isfinite(limits.relative_error) else ROUNDED
    agreeing = agreement(logits, reference, scoring, allowed=allowed * scale)
    return Comparison(
        images=len(reference),
        relative_error=float(errors.max()),
        agreement=agreeing.share,
        ties=int(agreeing.tied.sum()),
    )


def check(comparison: Comparison, limits: Limits, what: str, where: str, remedy: str) -> None:
    """Raise TrtkitError unless the comparison is within the limits.

    `what` is what was compared, `where` the images, `remedy` what to do, for the message.
    """
    within = (
        math.isfinite(comparison.relative_error)
        and comparison.relative_error <= limits.relative_error
        and comparison.agreement >= limits.agreement
    )
    if within:
        return
    changed = comparison.images - round(comparison.agreement * comparison.images)
    raise TrtkitError(
        f"{what} disagrees with its reference on {where}: relative error "
        f"{comparison.relative_error:.2g}{_at_most(limits.relative_error)}, top-1 agreement "
        f"{comparison.agreement:.1%} (at least {limits.agreement:.4g}): {changed} "
        f"get another class, and {comparison.ties} more one of nearly equal score, which counts as "
        f"agreement; nothing was kept; {remedy}."
    )


def _at_most(limit: float) -> str:
    return f" (at most {limit:.2g})" if math.isfinite(limit) else ""


def remedy_of(precision: str, comparison: Comparison, limits: Limits) -> str:
    """What to do about a build that is not within the limits."""
    if not comparison.relative_error <= limits.relative_error:
        other = {"fp16": "--fp32", "int8": "--fp16"}.get(precision, "another --backend")
        return f"build with {other}"
    return (
        "--verify-images N compares on more photos, of which a single one is a smaller part, and a lower "
        "--min-agreement accepts it"
    )
