"""Comparing logits with a reference, and what difference each precision is allowed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.tensors import Array


@dataclass(frozen=True)
class Limits:
    """What a comparison must reach: at most this relative error, at least this top-1 agreement."""

    relative_error: float
    agreement: float


# fp32 differs from its reference only in the order of sums; fp16 rounds each weight and feature map
# by up to 2^-11 = 4.9e-4 of its value, which the layers behind it add up.
LIMITS = {
    "fp32": Limits(relative_error=1e-4, agreement=1.0),
    "fp16": Limits(relative_error=2e-2, agreement=0.99),
}


@dataclass(frozen=True)
class Comparison:
    """How logits compare with their reference.

    `relative_error`: the largest absolute difference of an image's logits divided by the largest
    absolute reference logit of that image, the worst image. `agreement`: the share of images, 0 to
    1, with the same top-1 class; `ties` of them have another class that the reference itself puts
    within the allowed error of its best.
    """

    images: int
    relative_error: float
    agreement: float
    ties: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(logits: Array, reference: Array, limits: Limits) -> Comparison:
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
    rows = np.arange(len(reference))
    best, reference_best = logits.argmax(axis=1), reference.argmax(axis=1)
    same = best == reference_best
    margin = reference[rows, reference_best] - reference[rows, best]
    tied = ~same & np.isfinite(errors) & (margin <= limits.relative_error * scale)
    return Comparison(
        images=len(reference),
        relative_error=float(errors.max()),
        agreement=float((same | tied).mean()),
        ties=int(tied.sum()),
    )


def check(comparison: Comparison, limits: Limits, what: str, where: str) -> None:
    """Raise TrtkitError unless the comparison is within the limits.

    `what` is what was compared, `where` the images, for the message.
    """
    if comparison.relative_error <= limits.relative_error and (
        comparison.agreement >= limits.agreement
    ):
        return
    raise TrtkitError(
        f"{what} disagrees with its reference on {where}: relative error "
        f"{comparison.relative_error:.2g} (at most {limits.relative_error:.2g}), top-1 agreement "
        f"{comparison.agreement:.1%} (at least {limits.agreement:.0%}); nothing was kept."
    )
