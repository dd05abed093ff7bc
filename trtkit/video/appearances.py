"""Appearances: the stretches of time in which a camera shows what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from trtkit.video.objects import Sighting
from trtkit.video.store.reading import Candidate


@dataclass(frozen=True)
class Appearance:
    """A stretch of one camera in which objects of a class were confirmed, with no longer gap than asked.

    `start_us` and `end_us`: microseconds since the source's first frame; `sightings`: every object on
    every frame, by time; `confidence`: the expensive tail's highest score, 0 to 1; `objects`: their
    numbers in the store.
    """

    source: int
    start_us: int
    end_us: int
    confidence: float
    objects: tuple[int, ...]
    sightings: tuple[Sighting, ...]


def grouped(candidates: Sequence[Candidate], gap_us: int) -> list[list[Candidate]]:
    """Candidates of one source in the order of their times, apart where none is for longer than the gap.

    Whatever becomes of them, objects of two groups are never in one appearance.
    """
    groups: list[list[Candidate]] = []
    end = 0
    for each in candidates:
        if groups and each.start_us - end <= gap_us:
            groups[-1].append(each)
            end = max(end, each.end_us)
        else:
            groups.append([each])
            end = each.end_us
    return groups


def merged(
    confirmed: Iterable[tuple[Candidate, float]], gap_us: int
) -> Iterator[list[tuple[Candidate, float]]]:
    """Confirmed objects with their scores, in the order of their times, one list an appearance."""
    running: list[tuple[Candidate, float]] = []
    end = 0
    for each, score in confirmed:
        if running and each.start_us - end > gap_us:
            yield running
            running = []
        end = max(end, each.end_us) if running else each.end_us
        running.append((each, score))
    if running:
        yield running
