"""Asking the expensive tail about objects: from memory, from their feature maps, from their crops."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trtkit.errors import TrtkitError
from trtkit.tensors import Array
from trtkit.video.store.database import Database
from trtkit.video.store.maps import MapReader
from trtkit.video.store.reading import crop_of, keys_of
from trtkit.video.store.verdicts import Verdict, Verdicts
from trtkit.video.tails import VideoTail


@dataclass
class Judged:
    """Counts of what was asked, and the seconds of each step.

    `remembered`: answered before; `hits`: by a stored feature map; `recomputed`: from the crop;
    `forgotten`: why verdicts could not be kept, None where they were.
    """

    remembered: int = 0
    hits: int = 0
    recomputed: int = 0
    loading_seconds: float = 0.0
    reading_seconds: float = 0.0
    computing_seconds: float = 0.0
    remembering_seconds: float = 0.0
    forgotten: str | None = None


class Judge:
    """Verdicts of one tail on objects of a store. The tail is loaded when one is not remembered."""

    def __init__(
        self,
        database: Database,
        stage: str,
        load: Callable[[], VideoTail],
        *,
        remember: bool = True,
    ) -> None:
        self._database = database
        self._verdicts = Verdicts(database, stage) if remember else None
        self._load = load
        self._tail: VideoTail | None = None
        self._maps: MapReader | None = None
        self.judged = Judged()

    def close(self) -> None:
        if self._maps is not None:
            self._maps.close()
        if self._tail is not None:
            self._tail.close()

    def known(self, objects: Sequence[int]) -> dict[int, Verdict]:
        """What is remembered about these objects."""
        return {} if self._verdicts is None else self._verdicts.known(objects)

    def ask(self, objects: Sequence[int]) -> dict[int, Verdict]:
        """The verdicts on these objects, remembered or computed. Raises TrtkitError."""
        found = self.known(objects)
        self.judged.remembered += len(found)
        rest = [number for number in dict.fromkeys(objects) if number not in found]
        return {**found, **self.compute(rest)}

    def compute(self, objects: Sequence[int]) -> dict[int, Verdict]:
        """The verdicts on objects that none is remembered of. Raises TrtkitError."""
        if not objects:
            return {}
        tail = self._loaded()
        found: dict[int, Verdict] = {}
        for start in range(0, len(objects), tail.batch):
            found.update(self._compute(tail, objects[start : start + tail.batch]))
        return found

    @property
    def batch(self) -> int:
        """How many objects it is best to ask about at once."""
        return self._loaded().batch

    def _loaded(self) -> VideoTail:
        if self._tail is None:
            begun = time.perf_counter()
            self._tail = self._load()
            self._maps = MapReader(self._database)
            self.judged.loading_seconds += time.perf_counter() - begun
        return self._tail

    def _compute(self, tail: VideoTail, objects: Sequence[int]) -> dict[int, Verdict]:
        begun = time.perf_counter()
        hits, images = self._inputs(tail, objects)
        read = time.perf_counter()
        scores = tail.scores(list(images.values()), list(hits.values()))
        computed = time.perf_counter()
        best = scores.argmax(axis=1)
        # The prefix's come first.
        order = [*images, *hits]
        verdicts = {
            number: Verdict(int(label), float(row[label]))
            for number, label, row in zip(order, best, scores, strict=True)
        }
        self._remember(verdicts)
        self.judged.hits += len(hits)
        self.judged.recomputed += len(images)
        self.judged.reading_seconds += read - begun
        self.judged.computing_seconds += computed - read
        self.judged.remembering_seconds += time.perf_counter() - computed
        return verdicts

    def _remember(self, verdicts: dict[int, Verdict]) -> None:
        if self._verdicts is None or self.judged.forgotten is not None:
            return
        try:
            self._verdicts.remember(verdicts)
        except TrtkitError as error:
            # An answer is as good when it has to be computed again the next time.
            self.judged.forgotten = str(error)

    def _inputs(
        self, tail: VideoTail, objects: Sequence[int]
    ) -> tuple[dict[int, Array], dict[int, Array]]:
        """Feature maps of those that have one, prepared images of the others."""
        hits: dict[int, Array] = {}
        images: dict[int, Array] = {}
        places = keys_of(self._database, objects)
        for number in objects:
            source, key = places[number]
            feature = self._maps.get(source, key) if self._maps is not None else None
            if feature is not None:
                hits[number] = feature
                continue
            crop = crop_of(self._database, number)
            if crop is None:
                raise TrtkitError(
                    f"The store in {self._database.folder} has neither feature map nor picture of its "
                    f"object {number}; `trtkit store verify` lists what is missing."
                )
            images[number] = tail.prepared(crop)
        return hits, images
