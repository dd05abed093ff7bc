"""Choosing the cut: the least expected time among those that models share and the storage allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trtkit.costs.profile import USUAL, Profile
from trtkit.errors import TrtkitError
from trtkit.sizes import human_bytes

NO_CUT = 0
DEFAULT_HIT_RATE = 0.8


@dataclass(frozen=True)
class CutGoal:
    """What a cut is chosen for.

    `hit_rate`: the share of photos, 0 to 1, whose feature maps are cached; `storage`: bytes that a
    feature map may take on the disk, None for any. Raises TrtkitError for another hit rate.
    """

    hit_rate: float = DEFAULT_HIT_RATE
    storage: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.hit_rate <= 1:
            raise TrtkitError(
                f"A hit rate of {self.hit_rate:g} is not a share; give the share of photos that are seen "
                "again, from 0 to 1."
            )

    @classmethod
    def of(cls, hit_rate: float | None, storage: int | None) -> CutGoal:
        """The goal of options; without a hit rate the default one."""
        return cls(DEFAULT_HIT_RATE if hit_rate is None else hit_rate, storage)


@dataclass(frozen=True)
class CutOption:
    """A cut of all models together.

    `expected`: seconds per photo, on average over the hit rate, summed over the models; `computed`:
    the same without a cache; `bytes`: of a feature map on the disk.
    """

    cut: int
    expected: float
    computed: float
    bytes: int


@dataclass(frozen=True)
class CutChoice:
    """The cut to build, 0 for none, and why, in sentences. `neighbours`: the allowed cuts beside it."""

    cut: int
    why: tuple[str, ...]
    neighbours: tuple[int, ...] = ()


def cut_options(profiles: Sequence[Profile], shared: int, hit_rate: float) -> list[CutOption]:
    """Every cut up to `shared`, the last one up to which the models compute the same.

    A photo that is no hit for the first model is one for the others, since they share the prefix.
    """
    options = []
    first, *others = profiles
    computed = sum(profile.computed for profile in profiles)
    for cut in first.cuts[:shared]:
        expected = first.expected(cut, hit_rate) + sum(
            profile.warm(profile.cuts[cut.cut - 1]) for profile in others
        )
        options.append(CutOption(cut.cut, expected, computed, cut.stored[USUAL].bytes))
    return options


def choose(profiles: Sequence[Profile], goal: CutGoal, *, shared: int) -> CutChoice:
    """The cut with the least expected time whose feature maps take at most the goal's storage each.

    No cut when none is faster than computing every photo. `shared`: the last cut up to which the models
    compute the same. Raises TrtkitError when every cut's maps are larger.
    """
    options = cut_options(profiles, shared, goal.hit_rate)
    limit = goal.storage
    allowed = [option for option in options if limit is None or option.bytes <= limit]
    names = " and ".join(profile.model for profile in profiles)
    if not options:
        return CutChoice(NO_CUT, (f"{names} share no block, so there is nothing to cut.",))
    if not allowed:
        least = min(options, key=lambda option: option.bytes)
        raise TrtkitError(
            f"No feature map of {names} fits into {human_bytes(limit)} per image; the smallest, at cut "
            f"{least.cut}, takes {human_bytes(least.bytes)}; allow that much, or build with --cut 0."
        )
    best = min(allowed, key=lambda option: option.expected)
    limited = "" if len(allowed) == len(options) else f" that take at most {human_bytes(limit)}"
    among = f"{len(allowed)} cut{'s' if len(allowed) > 1 else ''}{limited}"
    if best.expected >= best.computed:
        return CutChoice(
            NO_CUT,
            (
                f"Computing is faster: {_ms(best.computed)} a photo without a cache.",
                f"The best of {among}, cut {best.cut}, takes {_ms(best.expected)} at a hit rate of "
                f"{goal.hit_rate:.0%}: hits save too little, or are too few.",
                "So the models are built whole, without a cache.",
            ),
        )
    cuts = [option.cut for option in allowed]
    return CutChoice(
        best.cut,
        (
            f"Cut {best.cut} takes the least time of {among}: {_ms(best.expected)} a photo at a hit rate "
            f"of {goal.hit_rate:.0%}, without a cache {_ms(best.computed)}.",
            f"Its feature maps take {human_bytes(best.bytes)} per image on the disk.",
        ),
        tuple(cut for cut in (best.cut - 1, best.cut + 1) if cut in cuts),
    )


def settle(choice: CutChoice, measured: dict[int, float]) -> CutChoice:
    """The fastest of the chosen cut and its neighbours, by measuring them, and a third sentence.

    `measured`: expected seconds per photo, by cut, from engines that were built for it.
    """
    if not measured:
        return choice
    best = min(measured, key=lambda cut: measured[cut])
    figures = ", ".join(f"cut {cut} {_ms(measured[cut])}" for cut in sorted(measured))
    if best == choice.cut:
        return CutChoice(choice.cut, (*choice.why, f"Checked by measuring: {figures}."))
    last = f"Checked by measuring: {figures}, so cut {best} is built instead."
    return CutChoice(best, (*choice.why, last), tuple(cut for cut in measured if cut != best))


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
