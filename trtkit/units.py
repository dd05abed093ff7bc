"""The units of --mean and --std: parts of the brightest value, 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

from trtkit.errors import TrtkitError

# The largest divisor that makes sense of values between 0 and 1, and the smallest: of networks that take
# values of 0 to 255 it is 1/255.
MOST_STD = 2.0
LEAST_STD = 1e-3
BRIGHTEST = 255


def check_units(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raise TrtkitError for a mean outside 0 to 1 or a divisor that is out of proportion.

    Numbers of 0 to 255 are named with what they are in 0 to 1.
    """
    if mean is not None and not all(0 <= value <= 1 for value in mean):
        raise TrtkitError(_sentence("--mean", mean, "from 0 to 1", all_in_bytes(mean, 0, 1)))
    if std is not None and not all(LEAST_STD <= value <= MOST_STD for value in std):
        advice = all_in_bytes(std, LEAST_STD, MOST_STD)
        raise TrtkitError(_sentence("--std", std, f"from {LEAST_STD} to {MOST_STD:g}", advice))


def all_in_bytes(values: Sequence[float], low: float, high: float) -> list[float] | None:
    """The values divided by 255, if they then lie between `low` and `high`; else None."""
    divided = [value / BRIGHTEST for value in values]
    return divided if all(low <= value <= high for value in divided) else None


def _sentence(option: str, values: Sequence[float], span: str, divided: list[float] | None) -> str:
    text = ",".join(f"{value:g}" for value in values)
    problem = f"{option} {text} is not in units of 0 to 1, in which it lies {span}"
    if divided is None:
        return f"{problem}; give what the network was trained with in those units."
    remedy = ",".join(f"{value:.4g}" for value in divided)
    return f"{problem}; divide it by 255: {option} {remedy}."
