"""What a cut is chosen for."""

from __future__ import annotations

from dataclasses import dataclass

from trtkit.errors import TrtkitError

DEFAULT_HIT_RATE = 0.8


@dataclass(frozen=True)
class Wish:
    """`hit_rate`: the share of photos, 0 to 1, that are seen again; `storage`: bytes that a feature
    map may take on the disk, None for any. Raises TrtkitError for a hit rate that is none.
    """

    hit_rate: float = DEFAULT_HIT_RATE
    storage: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.hit_rate <= 1:
            raise TrtkitError(
                f"A hit rate of {self.hit_rate:g} was asked for; give the share of photos that are "
                "seen again, from 0 to 1."
            )

    @classmethod
    def of(cls, hit_rate: float | None, storage: int | None) -> Wish:
        """The wish of options, None being the default."""
        return cls(DEFAULT_HIT_RATE if hit_rate is None else hit_rate, storage)
