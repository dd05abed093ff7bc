"""One competitor in one measurement, as it is handed to the process that runs it."""

from __future__ import annotations

from dataclasses import dataclass

COMPUTE, END_TO_END = MEASURES = ("compute", "end to end")
CACHES = ("off", "cold", "warm")
# In the place of a tail's name: every photo goes through all tails, or each tail has its own photos.
ALL, APART = SEVERAL = ("all", "all, each with its own photos")


@dataclass(frozen=True)
class Spec:
    """One competitor in one measurement.

    `kind`: one of KINDS. `measure`: `compute` is from prepared images in memory to logits, `end to
    end` from files to the five best classes. `bundle`: the bundle's folder, `tail`: the name of one
    of its models, or one of SEVERAL. `photos`: files that can be read. `batch`: images a run of the
    engine, the last one having the rest. `threads`: those of the engine. `cache`: `off`, `cold` (empty
    before every run) or `warm` (every photo in it), the latter two for trtkit end to end alone.
    `cache_dir`: an existing folder of this competitor's own, needed for them. `built_dir`: an existing
    folder that all of a run share, where kinds that build an engine keep it. `one_by_one`: several tails
    of trtkit run as if they shared nothing, as those of other kinds always do.
    """

    kind: str
    measure: str
    bundle: str
    tail: str
    photos: tuple[str, ...]
    batch: int
    threads: int
    cache: str = "off"
    cache_dir: str = ""
    built_dir: str = ""
    one_by_one: bool = False
