"""Indexing one source: frames to objects, objects through the cheap tail, chunk by chunk to the store.

A chunk is committed as a whole and depends only on commits: its background is learned from the footage
just before it, objects are not followed into it, and only clusters of the store can be joined. So an
ingest that was interrupted at any moment and run again leaves the same store as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from trtkit.reporting import advance
from trtkit.sizes import human_bytes
from trtkit.video.clusters import Cluster, Clusters
from trtkit.video.footage import writing
from trtkit.video.footage.database import Database
from trtkit.video.footage.maps import MapWriter
from trtkit.video.footage.writing import ChunkRecord, IndexedObject, SourceRow
from trtkit.video.frames import MICROSECONDS, Footage, Frame, Gap, read_ahead
from trtkit.video.motion import MotionDetector
from trtkit.video.objects import MovingObject, ObjectFinder
from trtkit.video.options import IngestOptions
from trtkit.video.tails import IndexEntry, VideoTail
from trtkit.video.times import clock

# Decoded frames that wait: each is some megabytes.
FRAMES_AHEAD = 16


@dataclass
class IngestProgress:
    """How far the ingest of one source is.

    `seconds`: since it started; `footage_us`: of the source that it went through in them; `at_us`: the
    time of the last frame, of `duration_us` (None for a stream). `objects`, `sightings`, `gaps`: their
    numbers; `map_bytes`: of the objects' feature maps.
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

    def report(self) -> None:
        """Report the position, the speed, the counts and the time left; a stream's share stays 0."""
        advance(str(self), min(1.0, self.at_us / self.duration_us) if self.duration_us else 0.0)

    def __str__(self) -> str:
        parts = [f"{self.camera} {clock(self.at_us)[:-4]}"]
        if self.duration_us:
            parts[0] += f" of {clock(self.duration_us)[:-4]}"
        if self.seconds:
            parts.append(f"{self.frames / self.seconds:.0f} frames/s")
            parts.append(f"{self.times_real_time:.1f} times real time")
        parts += [f"{self.objects} objects", f"{human_bytes(self.map_bytes)} of feature maps"]
        if self.duration_us and self.times_real_time:
            left = (self.duration_us - self.at_us) / MICROSECONDS / self.times_real_time
            parts.append(f"{left:.0f} s left")
        return ", ".join(parts)


class SourceIngest:
    """Indexes what is left of `footage`, whose lock is held, into the store.

    `run` goes through it; `progress` is kept up to date and reported.
    """

    def __init__(
        self,
        database: Database,
        row: SourceRow,
        tail: VideoTail,
        footage: Footage,
        options: IngestOptions,
        maps: MapWriter,
        progress: IngestProgress,
    ) -> None:
        self._database = database
        self._row = row
        self._tail = tail
        self._footage = footage
        self._options = options
        self._maps = maps
        self.progress = progress
        self._clusters: Clusters | None = None
        if options.cluster is not None:
            stored = writing.known_clusters(database, row.id, options.active_clusters)
            self._clusters = Clusters(options.cluster, options.active_clusters, stored)
        self._frames = row.frames
        # Committed in this run.
        self._objects = 0
        self._number = row.next_segment
        self._chunk = self._new_chunk(self._number)
        # Gaps of a file that begin before this were committed with earlier chunks.
        self._since = self._number * options.segment_us if footage.seekable else 0
        self._gaps: list[Gap] = []
        # The background of the chunk, and of the next one once its warm-up has begun.
        self._detector = MotionDetector(options)
        self._coming: MotionDetector | None = None
        self._offset: int | None = 0 if footage.seekable else None
        # Where this run began to look at frames.
        self._begun: int | None = self._since if footage.seekable else None
        self._started = time.perf_counter()

    def run(self, seconds: float | None) -> None:
        """Ingest to the end, or for so many seconds of footage. Raises TrtkitError."""
        if self._row.frames:
            self.progress.resumed_us = self._row.end_us
        if self._footage.seekable and self._since == 0:
            self._prime()
        try:
            with closing(self._read(max(0, self._since - self._options.warmup_us))) as items:
                ended = self._go_through(items, seconds)
        except BaseException:
            # A file can be read again; what a stream showed would be lost.
            if not self._footage.seekable:
                self._keep()
            raise
        if ended or not self._footage.seekable:
            self._commit(last=self._footage.seekable)

    def _go_through(self, items: Iterable[Frame | Gap], seconds: float | None) -> bool:
        """Whether the footage ended before the time was up."""
        for item in items:
            if isinstance(item, Gap):
                self._gap(item)
            elif not self._frame(item, seconds):
                return False
        return True

    def _keep(self) -> None:
        """Commit the running chunk unless the interruption came after its commit."""
        if writing.source_row(self._database, self._row.id).next_segment <= self._chunk.number:
            self._commit()

    def _read(self, since: int) -> Generator[Frame | Gap]:
        return read_ahead(self._footage.read(since), FRAMES_AHEAD)

    def _prime(self) -> None:
        """Learn the first chunk's background from its own beginning: nothing comes before it."""
        with closing(self._read(0)) as items:
            for item in items:
                if isinstance(item, Frame):
                    if item.time_us >= self._options.warmup_us:
                        break
                    self._detector.learn(item)

    def _time_is_up(self, moment: int, seconds: float | None) -> bool:
        begun = moment if self._begun is None else self._begun
        return seconds is not None and moment - begun >= seconds * MICROSECONDS

    def _time(self, frame: Frame) -> int:
        """Its time since the source's first frame, which an earlier run of a stream may have seen."""
        if self._offset is None:
            first, start = self._row.start_us, self._footage.start_us
            self._offset = 0 if first is None or start is None else max(0, start - first)
            if self._row.frames:
                # Even if the clock went back, later footage comes after earlier footage.
                self._offset = max(self._offset, self._row.end_us + 1 - frame.time_us)
                self._note(
                    Gap(self._row.end_us, frame.time_us + self._offset, "nothing was ingested")
                )
        return frame.time_us + self._offset

    def _chunk_of(self, time_us: int) -> int:
        length = self._options.segment_us
        if self._footage.seekable:
            return time_us // length
        start = self._chunk.start_us
        return self._number + (start is not None and time_us - start >= length)

    def _frame(self, frame: Frame, seconds: float | None) -> bool:
        """Find objects on a frame, or learn the background from it; False when the time is up."""
        moment = self._time(frame)
        number = self._chunk_of(moment)
        if number < self._number:
            self._detector.learn(frame)
            return True
        if number > self._number:
            self._commit()
            # A file ends with a whole chunk: the rest of a committed one is never read again.
            if self._footage.seekable and self._time_is_up(moment, seconds):
                return False
            follows = number == self._number + 1
            self._detector = (self._coming if follows else None) or MotionDetector(self._options)
            self._coming = None
            self._number = number
            self._chunk = self._new_chunk(number)
        self._teach_next(frame, moment)
        chunk = self._chunk
        if chunk.start_us is None:
            chunk.start_us = moment
        chunk.end_us = moment
        shifted = frame if moment == frame.time_us else Frame(moment, frame.picture)
        boxes = self._detector.boxes(frame)
        chunk.objects += chunk.finder.find(shifted, self._frames + chunk.frames, boxes)
        chunk.frames += 1
        while chunk.waiting >= self._tail.batch:
            self._index(self._tail.batch)
        self._update(moment)
        return self._footage.seekable or not self._time_is_up(moment, seconds)

    def _teach_next(self, frame: Frame, moment: int) -> None:
        length, start = self._options.segment_us, self._chunk.start_us
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
        self.progress.report()

    def _new_chunk(self, number: int) -> _Chunk:
        finder = ObjectFinder(self._options, self._tail.manifest.preprocessing.side)
        return _Chunk(number, finder, [], [])

    def _index(self, count: int) -> None:
        """Run the first `count` of the waiting objects through the cheap tail."""
        chunk = self._chunk
        objects = chunk.objects[len(chunk.indexed) :][:count]
        entries = self._tail.index([item.crop for item in objects], self._options.top)
        # One by one, so that after an interruption the rest still waits.
        for item, entry in zip(objects, entries, strict=True):
            chunk.indexed.append(self._indexed(item, entry))

    def _indexed(self, item: MovingObject, entry: IndexEntry) -> IndexedObject:
        label = int(entry.labels[0])
        if self._clusters is None or entry.vector is None:
            cluster, is_new = Cluster(np.empty(0, np.float32), label), True
        else:
            cluster, is_new = self._clusters.assign(entry.vector, label)
        key = self._tail.key(item.crop)
        if self._options.maps == "all" or (is_new and self._options.maps == "representatives"):
            self._maps.put(key, entry.feature)
        return IndexedObject(
            key, item.crop, item.sightings, entry.labels, entry.scores, entry.vector, cluster
        )

    def _commit(self, *, last: bool = False) -> None:
        """Commit the chunk; `last`: the source ends with it."""
        chunk = self._chunk
        # Each once, also when this was interrupted and is done again.
        chunk.objects += [item for item in chunk.finder.rest() if item not in chunk.objects]
        if chunk.waiting:
            self._index(chunk.waiting)
        # A gap belongs to the chunk that it begins in, which reads it again when it is resumed.
        end = (chunk.number + 1) * self._options.segment_us
        every = last or not self._footage.seekable
        gaps = [gap for gap in self._gaps if every or gap.start_us < end]
        later = [gap for gap in self._gaps if not (every or gap.start_us < end)]
        if chunk.start_us is None:
            if last:
                writing.complete(self._database, self._row.id, gaps)
            return
        # Feature maps first: rows without them would have them computed again.
        self._maps.flush()
        record = ChunkRecord(
            chunk.number, chunk.frames, chunk.start_us, chunk.end_us, chunk.indexed, gaps
        )
        first_run = self._footage.seekable or not self._row.frames
        start_us = self._footage.start_us if first_run else None
        writing.commit_chunk(self._database, self._row.id, record, start_us=start_us, last=last)
        self._gaps = later
        self._frames += chunk.frames
        self._objects += len(chunk.indexed)
        self.progress.objects = self._objects
        self.progress.sightings += sum(len(item.sightings) for item in chunk.indexed)
        self.progress.map_bytes = self._maps.bytes
        self.progress.seconds = time.perf_counter() - self._started
        if self._clusters is not None:
            self._clusters = self._clusters.settled()
        self.progress.report()

    def _update(self, moment: int) -> None:
        progress = self.progress
        progress.frames += 1
        if self._begun is None:
            self._begun = moment
        progress.at_us, progress.footage_us = moment, moment - self._begun
        progress.objects = self._objects + len(self._chunk.objects)
        progress.map_bytes = self._maps.bytes
        progress.seconds = time.perf_counter() - self._started
        progress.report()


@dataclass
class _Chunk:
    """The running chunk; `indexed`: those of its objects that went through the cheap tail."""

    number: int
    finder: ObjectFinder
    objects: list[MovingObject]
    indexed: list[IndexedObject]
    frames: int = 0
    start_us: int | None = None
    end_us: int = 0

    @property
    def waiting(self) -> int:
        return len(self.objects) - len(self.indexed)
