"""Choosing the cut: the least expected time among those that models share and the storage allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trtkit.costs.profile import USUAL, Profile
from trtkit.errors import TrtkitError
from trtkit.sizes import human_bytes

NO_CUT = 0


@dataclass(frozen=True)
class Candidate:
    """A cut of all models together.

    `expected`: seconds per photo, on average over the hit rate, summed over the models; `computed`:
    the same without a cache; `bytes`: of a feature map on the disk.
    """

    cut: int
    expected: float
    computed: float
    bytes: int


@dataclass(frozen=True)
class Choice:
    """The cut to build, 0 for none, and why, in sentences. `neighbours`: the allowed cuts beside it."""

    cut: int
    why: tuple[str, ...]
    neighbours: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"cut": self.cut, "why": list(self.why)}


def candidates(
    profiles: Sequence[Profile], shared: int, hit_rate: float, form: str = USUAL
) -> list[Candidate]:
    """Every cut up to `shared`, the last one up to which the models compute the same.

    A photo that is no hit for the first model is one for the others, since they share the prefix.
    """
    found = []
    computed = sum(profile.computed for profile in profiles)
    for number in range(1, shared + 1):
        first = profiles[0].cuts[number - 1]
        expected = profiles[0].expected(first, hit_rate, form) + sum(
            profile.warm(profile.cuts[number - 1], form) for profile in profiles[1:]
        )
        found.append(Candidate(number, expected, computed, first.stored[form].bytes))
    return found


def choose(
    profiles: Sequence[Profile],
    *,
    shared: int,
    hit_rate: float,
    storage: int | None = None,
    form: str = USUAL,
) -> Choice:
    """The cut with the least expected time whose feature maps take at most `storage` bytes each.

    No cut when none is faster than computing every photo. `hit_rate`: the share of photos, 0 to 1,
    whose feature maps are cached. Raises TrtkitError when no cut's maps are so small.
    """
    every = candidates(profiles, shared, hit_rate, form)
    allowed = [each for each in every if storage is None or each.bytes <= storage]
    names = " and ".join(profile.model for profile in profiles)
    if not every:
        return Choice(NO_CUT, (f"{names} share no block, so there is nothing to cut.",))
    if not allowed:
        least = min(every, key=lambda each: each.bytes)
        raise TrtkitError(
            f"At most {human_bytes(storage)} per image was asked for, but the smallest feature map of "
            f"{names}, at cut {least.cut}, takes {human_bytes(least.bytes)}; allow that much, or "
            "build with --cut 0."
        )
    best = min(allowed, key=lambda each: each.expected)
    left_out = "" if len(allowed) == len(every) else f" that take at most {human_bytes(storage)}"
    among = f"{len(allowed)} cut{'s' if len(allowed) > 1 else ''}{left_out}"
    if best.expected >= best.computed:
        return Choice(
            NO_CUT,
            (
                f"Computing is faster: {_ms(best.computed)} a photo without a cache.",
                f"The best of {among}, cut {best.cut}, takes {_ms(best.expected)} at a hit rate of "
                f"{hit_rate:.0%}: a photo that is cached is not so much faster, or too few are.",
                "So the models are built whole, without a cache.",
            ),
        )
    places = [each.cut for each in allowed]
    return Choice(
        best.cut,
        (
            f"Cut {best.cut} takes the least time of {among}: {_ms(best.expected)} a photo at a hit rate "
            f"of {hit_rate:.0%}, without a cache {_ms(best.computed)}.",
            f"Its feature maps take {human_bytes(best.bytes)} per image on the disk.",
        ),
        tuple(cut for cut in (best.cut - 1, best.cut + 1) if cut in places),
    )


def settle(choice: Choice, measured: dict[int, float]) -> Choice:
    """The fastest of the chosen cut and its neighbours, by measuring them, and a third sentence.

    `measured`: expected seconds per photo, by cut, from engines that were built for it.
    """
    if not measured:
        return choice
    best = min(measured, key=lambda cut: measured[cut])
    figures = ", ".join(f"cut {cut} {_ms(measured[cut])}" for cut in sorted(measured))
    if best == choice.cut:
        return Choice(choice.cut, (*choice.why, f"Checked by measuring: {figures}."))
    last = f"Checked by measuring: {figures}, so cut {best} is built instead."
    return Choice(best, (*choice.why, last), tuple(cut for cut in measured if cut != best))


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
