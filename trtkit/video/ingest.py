"""Indexing footage: frames to objects, objects through the cheap tail, segment by segment to the store.

A segment is committed as a whole and depends on nothing that a commit does not hold: its background is
learned from the footage just before it, objects are not followed into it, and the clusters that may be
joined are those of the store. So an ingest that was broken off at any moment leaves the same store, once
it was run again, as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.video.ahead import ahead
from trtkit.video.clusters import Cluster, Clusters
from trtkit.video.frames import MICROSECONDS, Footage, Frame, Gap
from trtkit.video.locks import source_lock
from trtkit.video.motion import MotionDetector
from trtkit.video.objects import Found, ObjectFinder
from trtkit.video.options import IngestOptions
from trtkit.video.store import writing
from trtkit.video.store.database import Database
from trtkit.video.store.maps import DEFAULT_BYTES, MapWriter
from trtkit.video.store.writing import IndexedObject, SegmentRecord, SourceRow
from trtkit.video.tails import Seen, VideoTail

# Decoded frames that wait: each is some megabytes.
FRAMES_AHEAD = 16


@dataclass
class IngestProgress:
    """How far an ingest of one source is.

    `seconds` it ran; `footage_us`: of the source that it went through in them, `at_us`: where it is,
    of `duration_us` (None for a stream). `objects` found and `map_bytes` of their feature maps.
    """

    camera: str
    frames: int = 0
    footage_us: int = 0
    at_us: int = 0
    duration_us: int | None = None
    objects: int = 0
    sightings: int = 0
    map_bytes: int = 0
    seconds: float = 0.0
    gaps: int = 0
    resumed_us: int | None = None
    up_to_date: bool = False

    @property
    def times_real_time(self) -> float:
        return self.footage_us / MICROSECONDS / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "camera": self.camera,
            "frames": self.frames,
            "objects": self.objects,
            "sightings": self.sightings,
            "gaps": self.gaps,
            "map_bytes": self.map_bytes,
            "seconds": round(self.seconds, 6),
            "times_real_time": round(self.times_real_time, 3),
            "up_to_date": self.up_to_date,
        }


Advance = Callable[[IngestProgress], None]


def ingest(
    store: Path,
    tail: VideoTail,
    camera: str,
    footage: Footage,
    options: IngestOptions,
    *,
    map_bytes: int = DEFAULT_BYTES,
    seconds: float | None = None,
    advance: Advance = lambda progress: None,
) -> IngestProgress:
    """Index what is left of `footage`, the source called `camera`, into the store in that folder.

    `map_bytes`: of feature maps that are kept on disk. `seconds`: of footage after which it ends, of a
    file with the segment that it is in. Raises TrtkitError; what was committed until then is kept and
    not done again.
    """
    with Database.create(store) as database:
        told = (camera, footage.location, footage.fingerprint, options.to_json())
        row = writing.register(database, *told)
        progress = IngestProgress(camera, duration_us=footage.duration_us, up_to_date=row.complete)
        if row.complete:
            return progress
        with source_lock(store, row.id, footage.location):
            # Another process may have gone on with it meanwhile, or come to its end.
            row = writing.begin(database, *told)
            progress.up_to_date = row.complete
            if row.complete:
                return progress
            with closing(MapWriter(store, row.id, options, map_bytes)) as maps:
                _Ingest(database, row, tail, footage, options, maps, progress, advance).run(seconds)
    return progress


class _Ingest:
    def __init__(
        self,
        database: Database,
        row: SourceRow,
        tail: VideoTail,
        footage: Footage,
        options: IngestOptions,
        maps: MapWriter,
        progress: IngestProgress,
        advance: Advance,
    ) -> None:
        self._database = database
        self._row = row
        self._tail = tail
        self._footage = footage
        self._options = options
        self._maps = maps
        self.progress = progress
        self._advance = advance
        self._clusters: Clusters | None = None
        if options.cluster is not None:
            known = writing.known_clusters(database, row.id, options.active_clusters)
            self._clusters = Clusters(options.cluster, options.active_clusters, known)
        self._frames = row.frames
        # Committed in this run.
        self._objects = 0
        self._number = row.next_segment
        self._segment = self._begin(self._number)
        # Those of a file that began before this were committed with what is before it.
        self._since = self._number * options.segment_us if footage.seekable else 0
        self._gaps: list[Gap] = []
        # The background of the segment, and of the next one once its footage has begun.
        self._detector = MotionDetector(options)
        self._coming: MotionDetector | None = None
        self._offset: int | None = 0 if footage.seekable else None
        # Where this run began to look at frames.
        self._begun: int | None = self._since if footage.seekable else None
        self._started = time.perf_counter()

    def run(self, seconds: float | None) -> None:
        if self._row.frames:
            self.progress.resumed_us = self._row.end_us
        if self._footage.seekable and self._since == 0:
            self._prime()
        try:
            with closing(self._read(max(0, self._since - self._options.warmup_us))) as items:
                ended = self._go_through(items, seconds)
        except BaseException:
            # Of a stream what is not kept now is lost, of a file it is found again.
            if not self._footage.seekable:
                self._keep()
            raise
        if ended or not self._footage.seekable:
            self._commit(last=self._footage.seekable)

    def _go_through(self, items: Iterable[Frame | Gap], seconds: float | None) -> bool:
        """Whether it came to the end before the time was up."""
        for item in items:
            if isinstance(item, Gap):
                self._gap(item)
            elif not self._frame(item, seconds):
                return False
        return True

    def _keep(self) -> None:
        """Commit what there is, unless it was a commit, just done, that was interrupted."""
        if writing.source_row(self._database, self._row.id).next_segment <= self._segment.number:
            self._commit()

    def _read(self, since: int) -> Generator[Frame | Gap]:
        return ahead(self._footage.read(since), FRAMES_AHEAD)

    def _prime(self) -> None:
        """Before the first segment there is nothing to learn from but its own beginning."""
        with closing(self._read(0)) as items:
            for item in items:
                if isinstance(item, Frame):
                    if item.time_us >= self._options.warmup_us:
                        break
                    self._detector.learn(item)

    def _ends(self, moment: int, seconds: float | None) -> bool:
        begun = moment if self._begun is None else self._begun
        return seconds is not None and moment - begun >= seconds * MICROSECONDS

    def _time(self, frame: Frame) -> int:
        """Its time since the source's first frame, which of a stream was in an earlier run, maybe."""
        if self._offset is None:
            first, start = self._row.start_us, self._footage.start_us
            self._offset = 0 if first is None or start is None else max(0, start - first)
            if self._row.frames:
                # Whatever the clock says, footage does not lie before what was there.
                self._offset = max(self._offset, self._row.end_us + 1 - frame.time_us)
                self._note(
                    Gap(self._row.end_us, frame.time_us + self._offset, "nothing was ingested")
                )
        return frame.time_us + self._offset

    def _segment_of(self, time_us: int) -> int:
        length = self._options.segment_us
        if self._footage.seekable:
            return time_us // length
        start = self._segment.start_us
        return self._number + (start is not None and time_us - start >= length)

    def _frame(self, frame: Frame, seconds: float | None) -> bool:
        """Look at a frame, or learn the background from it; False when the time is up."""
        moment = self._time(frame)
        number = self._segment_of(moment)
        if number < self._number:
            self._detector.learn(frame)
            return True
        if number > self._number:
            self._commit()
            # A segment of a file is committed as a whole, or its rest would be left out for good.
            if self._footage.seekable and self._ends(moment, seconds):
                return False
            fitting = number == self._number + 1 and self._coming is not None
            self._detector = (
                self._coming if fitting and self._coming else MotionDetector(self._options)
            )
            self._coming = None
            self._number = number
            self._segment = self._begin(number)
        self._teach_next(frame, moment)
        segment = self._segment
        if segment.start_us is None:
            segment.start_us = moment
        segment.end_us = moment
        shifted = frame if moment == frame.time_us else Frame(moment, frame.picture)
        boxes = self._detector.boxes(frame)
        segment.found += segment.finder.find(shifted, self._frames + segment.frames, boxes)
        segment.frames += 1
        while segment.waiting >= self._tail.batch:
            self._index(self._tail.batch)
        self._tell(moment)
        return self._footage.seekable or not self._ends(moment, seconds)

    def _teach_next(self, frame: Frame, moment: int) -> None:
        length, start = self._options.segment_us, self._segment.start_us
        if self._footage.seekable:
            end = (self._number + 1) * length
        else:
            end = (moment if start is None else start) + length
        if moment >= end - self._options.warmup_us:
            if self._coming is None:
                self._coming = MotionDetector(self._options)
            self._coming.learn(frame)

    def _gap(self, gap: Gap) -> None:
        offset = self._offset or 0
        if not self._footage.seekable or gap.start_us >= self._since:
            self._note(Gap(gap.start_us + offset, gap.end_us + offset, gap.reason))

    def _note(self, gap: Gap) -> None:
        self._gaps.append(gap)
        self.progress.gaps += 1
        self._advance(self.progress)

    def _begin(self, number: int) -> _Segment:
        finder = ObjectFinder(self._options, self._tail.manifest.preprocessing.resize)
        return _Segment(number, finder, [], [])

    def _index(self, count: int) -> None:
        """Bring the first `count` of the waiting objects through the cheap tail."""
        segment = self._segment
        found = segment.found[len(segment.objects) :][:count]
        seen = self._tail.index([each.crop for each in found], self._options.top)
        # One after the other, so that wherever it is interrupted the rest still waits.
        for each, said in zip(found, seen, strict=True):
            segment.objects.append(self._indexed(each, said))

    def _indexed(self, found: Found, seen: Seen) -> IndexedObject:
        label = int(seen.labels[0])
        if self._clusters is None or seen.vector is None:
            cluster, begins = Cluster(np.empty(0, np.float32), label), True
        else:
            cluster, begins = self._clusters.assign(seen.vector, label)
        key = self._tail.key(found.crop)
        if self._options.maps == "all" or (begins and self._options.maps == "representatives"):
            self._maps.put(key, seen.feature)
        return IndexedObject(
            key, found.crop, found.sightings, seen.labels, seen.scores, seen.vector, cluster
        )

    def _commit(self, *, last: bool = False) -> None:
        """Bring the segment to the store; `last`: and that the source is at its end."""
        segment = self._segment
        # Once only, also when this was interrupted and is done again.
        segment.found += [each for each in segment.finder.rest() if each not in segment.found]
        if segment.waiting:
            self._index(segment.waiting)
        # A gap belongs to the segment that it begins in, or is found again when that one is resumed.
        end = (segment.number + 1) * self._options.segment_us
        every = last or not self._footage.seekable
        gaps = [gap for gap in self._gaps if every or gap.start_us < end]
        later = [gap for gap in self._gaps if not (every or gap.start_us < end)]
        if segment.start_us is None:
            if last:
                writing.complete(self._database, self._row.id, gaps)
            return
        # Feature maps without rows do no harm, rows without feature maps cost computing them again.
        self._maps.flush()
        record = SegmentRecord(
            segment.number, segment.frames, segment.start_us, segment.end_us, segment.objects, gaps
        )
        first_run = self._footage.seekable or not self._row.frames
        start_us = self._footage.start_us if first_run else None
        writing.commit_segment(self._database, self._row.id, record, start_us=start_us, last=last)
        self._gaps = later
        self._frames += segment.frames
        self._objects += len(segment.objects)
        self.progress.objects = self._objects
        self.progress.sightings += sum(len(each.sightings) for each in segment.objects)
        self.progress.map_bytes = self._maps.bytes
        self.progress.seconds = time.perf_counter() - self._started
        if self._clusters is not None:
            self._clusters = self._clusters.settled()
        self._advance(self.progress)

    def _tell(self, moment: int) -> None:
        progress = self.progress
        progress.frames += 1
        if self._begun is None:
            self._begun = moment
        progress.at_us, progress.footage_us = moment, moment - self._begun
        progress.objects = self._objects + len(self._segment.found)
        progress.map_bytes = self._maps.bytes
        progress.seconds = time.perf_counter() - self._started
        self._advance(progress)


@dataclass
class _Segment:
    """What was found in the running segment; `objects` are those of `found` behind the cheap tail."""

    number: int
    finder: ObjectFinder
    found: list[Found]
    objects: list[IndexedObject]
    frames: int = 0
    start_us: int | None = None
    end_us: int = 0

    @property
    def waiting(self) -> int:
        return len(self.found) - len(self.objects)
