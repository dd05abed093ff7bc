"""Indexing one source, chunk by chunk: frames to tracks, and their pictures through the cheap tail.

A chunk is committed as a whole and depends only on commits: running tracks, their pictures and the
background are handed over by the chunk before it, and only clusters of the store can be joined. So an
ingest that was interrupted at any moment and run again leaves the same store as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.reporting import message
from trtkit.tensors import Array
from trtkit.video.clusters import Cluster, Clusters, normalised
from trtkit.video.evidence import Evidence, Likeness, TrackPicture
from trtkit.video.footage import writing
from trtkit.video.footage.database import Database
from trtkit.video.footage.maps import MapWriter
from trtkit.video.footage.writing import ChunkRecord, IndexedObject, IndexedPicture, SourceRow
from trtkit.video.frames import MICROSECONDS, Footage, Frame, Gap, read_ahead
from trtkit.video.handover import pack, unpack
from trtkit.video.motion import MotionDetector, small_picture, typical
from trtkit.video.options import IngestOptions
from trtkit.video.progress import IngestProgress
from trtkit.video.protocols import Detector, Track, Tracker, TrackUpdate
from trtkit.video.tails import IndexEntry, VideoTail
from trtkit.video.times import clock
from trtkit.video.tracking.tracker import MotionTracker

# Decoded frames that wait: each is some megabytes.
FRAMES_AHEAD = 16
# More detections on one frame are not followed.
MOST_DETECTIONS = 300
# The background of a file is what its first minute shows most of the time, by a frame every half second.
_PRIMED_US = 60 * MICROSECONDS
_PRIMED_STEP_US = 500_000
# The reason of a stretch in which nothing can be detected.
BLIND = "everything moved: the camera, or the light changed"


class SourceIngest:
    """Indexes what is left of `footage`, whose lock is held, into the store.

    `run` goes through it; `progress` is kept up to date and reported. `detector`: the one that the options
    name; None for a background model. Raises TrtkitError for a source that another version of trtkit began
    and this one cannot continue.
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
        detector: Detector | None = None,
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
        self._evidence = Evidence(options.pictures, options.picture_side, options.margin)
        self._likeness = Likeness(self._evidence, tail) if tail.gives_vectors else None
        self._tracker: Tracker = MotionTracker(options.tracking, self._likeness)
        self._learns = detector is None
        background = self._restore(writing.handover_of(database, row.id))
        self._detector: Detector = detector or MotionDetector(options, background)
        self._crowded = False
        # Since when nothing can be detected, and until when.
        self._blind: tuple[int, int] | None = None
        self._offset: int | None = 0 if footage.seekable else None
        # Where this run began to look at frames.
        self._begun: int | None = self._since if footage.seekable else None
        self._started = time.perf_counter()

    def _restore(self, handover: bytes) -> list[Array]:
        """Continue from what the chunk before handed over; the pictures of the empty scene in it."""
        import msgspec

        try:
            background, tracker, evidence = unpack(handover)
            if tracker:
                self._tracker.restore(tracker)
                self._evidence.restore(evidence)
            return MotionDetector.empty_in(background)
        except (msgspec.MsgspecError, KeyError, ValueError) as error:
            raise TrtkitError(
                f"{self._row.camera} was ingested up to {clock(self._row.end_us)} by a version of trtkit "
                "that this one cannot continue; continue with that version, or ingest the source into a "
                "new store."
            ) from error

    def run(self, seconds: float | None) -> None:
        """Ingest to the end, or for so many seconds of footage. Raises TrtkitError."""
        if self._row.frames:
            self.progress.resumed_us = self._row.end_us
        if self._footage.seekable and self._since == 0 and self._learns:
            self._prime()
        try:
            footage = self._footage.read(self._since)
            with closing(read_ahead(footage, FRAMES_AHEAD, self._shrunk)) as items:
                ended = self._go_through(items, seconds)
        except BaseException:
            # A file can be read again; what a stream showed would be lost.
            if not self._footage.seekable:
                self._keep()
            raise
        if ended or not self._footage.seekable:
            self._commit(last=self._footage.seekable, ends=True)

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
            self._commit(ends=True)

    def _shrunk(self, item: Frame | Gap) -> Frame | Gap:
        """The item with what the background model looks at, which takes as long as decoding."""
        if isinstance(item, Gap) or not self._learns:
            return item
        return replace(item, small=small_picture(item, self._options.motion_width))

    def _prime(self) -> None:
        """Learn the background from the beginning of a file: no footage comes before it."""
        pictures: list[Array] = []
        with closing(read_ahead(self._footage.read(0), FRAMES_AHEAD)) as items:
            for item in items:
                if isinstance(item, Gap):
                    continue
                if item.time_us >= _PRIMED_US:
                    break
                if item.time_us >= len(pictures) * _PRIMED_STEP_US:
                    pictures.append(small_picture(item, self._options.motion_width))
        self._detector = MotionDetector(self._options, typical(pictures))

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
        """Take in a frame, in a new chunk where one begins; False when the time is up."""
        moment = self._time(frame)
        number = self._chunk_of(moment)
        if number > self._number:
            self._commit()
            # A file ends with a whole chunk: the rest of a committed one is never read again.
            if self._footage.seekable and self._time_is_up(moment, seconds):
                return False
            if self._learns:
                # A new one, as after an interruption.
                empty = MotionDetector.empty_in(self._detector.state())
                self._detector = MotionDetector(self._options, empty)
            self._number = number
            self._chunk = self._new_chunk(number)
        chunk = self._chunk
        if chunk.start_us is None:
            chunk.start_us = moment
            chunk.size = (frame.picture.width, frame.picture.height)
        chunk.end_us = moment
        self._track(frame if moment == frame.time_us else replace(frame, time_us=moment))
        chunk.frames += 1
        while chunk.waiting >= self._tail.batch:
            self._index(self._tail.batch)
        self._update(moment)
        return self._footage.seekable or not self._time_is_up(moment, seconds)

    def _track(self, frame: Frame) -> None:
        """Find things on a frame, link them to tracks, and take pictures of those."""
        detections = self._detector.detect(frame)
        self._note_blind(frame.time_us, blind=detections.blind)
        if len(detections) > MOST_DETECTIONS and not self._crowded:
            self._crowded = True
            message(
                f"{self.progress.camera} has {len(detections)} things on one frame at "
                f"{clock(frame.time_us)}; only the {MOST_DETECTIONS} largest are tracked."
            )
        number = self._frames + self._chunk.frames
        update = self._tracker.update(number, frame.time_us, detections.largest(MOST_DETECTIONS))
        self._take(update)
        self._evidence.look(frame, number, update.current)

    def _take(self, update: TrackUpdate) -> None:
        """Take what a frame did to the tracks into the evidence and the chunk."""
        for later, earlier in update.joined:
            self._evidence.join(later, earlier)
            self._forget(later)
        for dropped in update.dropped:
            self._pictures_of(dropped)
        for track in update.ended:
            pictures = self._pictures_of(track.id)
            # One that was never in the picture for long enough shows nothing.
            if pictures:
                self._chunk.tracks.append((track, pictures))

    def _pictures_of(self, track: int) -> list[TrackPicture]:
        """The pictures of a track that has ended, which nothing else keeps."""
        self._forget(track)
        return self._evidence.take(track)

    def _forget(self, track: int) -> None:
        if self._likeness is not None:
            self._likeness.forget(track)

    def _note_blind(self, moment: int, *, blind: bool) -> None:
        """Report a stretch of more than one frame in which nothing can be detected."""
        if blind:
            self._blind = (self._blind[0] if self._blind else moment, moment)
        elif self._blind:
            (since, until), self._blind = self._blind, None
            if until > since:
                self._note(Gap(since, moment, BLIND))

    def _gap(self, gap: Gap) -> None:
        offset = self._offset or 0
        if not self._footage.seekable or gap.start_us >= self._since:
            self._note(Gap(gap.start_us + offset, gap.end_us + offset, gap.reason))

    def _note(self, gap: Gap) -> None:
        self._gaps.append(gap)
        self.progress.gaps += 1
        self.progress.report()

    def _new_chunk(self, number: int) -> _Chunk:
        return _Chunk(number, [], [])

    def _index(self, count: int) -> None:
        """Run the first waiting tracks, with at least `count` pictures, through the cheap tail."""
        chunk, batch = self._chunk, self._tail.batch
        tracks: list[tuple[Track, list[TrackPicture]]] = []
        for track, pictures in chunk.tracks[len(chunk.indexed) :]:
            if sum(len(before) for _, before in tracks) >= count:
                break
            tracks.append((track, pictures))
        crops = [picture.jpeg for _, pictures in tracks for picture in pictures]
        entries: list[IndexEntry] = []
        for start in range(0, len(crops), batch):
            entries += self._tail.index(crops[start : start + batch], self._options.top)
        # One by one, so that after an interruption the rest still waits.
        for track, pictures in tracks:
            own, entries = entries[: len(pictures)], entries[len(pictures) :]
            chunk.indexed.append(self._indexed(track, pictures, own))

    def _indexed(
        self, track: Track, pictures: Sequence[TrackPicture], entries: Sequence[IndexEntry]
    ) -> IndexedObject:
        labels, scores = _together(entries, self._options.top)
        vectors = [entry.vector for entry in entries if entry.vector is not None]
        vector = normalised(np.mean(vectors, axis=0)[None])[0] if vectors else None
        if self._clusters is None or vector is None:
            cluster, is_new = Cluster(np.empty(0, np.float32), int(labels[0])), True
        else:
            cluster, is_new = self._clusters.assign(vector, int(labels[0]))
        kept = self._options.maps == "all" or (is_new and self._options.maps == "representatives")
        indexed = []
        for picture, entry in zip(pictures, entries, strict=True):
            key = self._tail.key(picture.jpeg)
            if kept:
                self._maps.put(key, entry.feature)
            own = (entry.labels, entry.scores, entry.vector)
            indexed.append(IndexedPicture(key, picture.jpeg, picture.sighting, *own))
        return IndexedObject(track.sightings, indexed, labels, scores, vector, cluster)

    def _commit(self, *, last: bool = False, ends: bool = False) -> None:
        """Commit the chunk; `last`: the source ends with it; `ends`: its tracks do, too."""
        chunk = self._chunk
        self._note_blind(chunk.end_us, blind=False)
        if ends:
            self._take(self._tracker.finish())
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
        handover = b"" if ends else self._handover()
        record = ChunkRecord(
            chunk.number, chunk.frames, chunk.start_us, chunk.end_us, chunk.indexed, gaps, handover
        )
        first_run = self._footage.seekable or not self._row.frames
        start_us = self._footage.start_us if first_run else None
        writing.commit_chunk(
            self._database, self._row.id, record, start_us=start_us, size=chunk.size, last=last
        )
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

    def _handover(self) -> bytes:
        return pack(self._detector.state(), self._tracker.state(), self._evidence.state())

    def _update(self, moment: int) -> None:
        progress = self.progress
        progress.frames += 1
        if self._begun is None:
            self._begun = moment
        progress.at_us, progress.footage_us = moment, moment - self._begun
        progress.objects = self._objects + len(self._chunk.tracks)
        progress.map_bytes = self._maps.bytes
        progress.seconds = time.perf_counter() - self._started
        progress.report()


@dataclass
class _Chunk:
    """The running chunk: tracks that ended in it, and those of them that the cheap tail classified."""

    number: int
    tracks: list[tuple[Track, list[TrackPicture]]]
    indexed: list[IndexedObject]
    frames: int = 0
    start_us: int | None = None
    end_us: int = 0
    size: tuple[int, int] | None = None

    @property
    def waiting(self) -> int:
        """The pictures that were not classified yet."""
        return sum(len(pictures) for _, pictures in self.tracks[len(self.indexed) :])


def _together(entries: Sequence[IndexEntry], top: int) -> tuple[Array, Array]:
    """The best classes of several pictures by their mean score, best first: int64 and float32.

    A class that is not among the best of a picture counts as 0 there.
    """
    sums: dict[int, float] = {}
    for entry in entries:
        for label, score in zip(entry.labels.tolist(), entry.scores.tolist(), strict=True):
            sums[label] = sums.get(label, 0.0) + score
    best = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
    labels, scores = zip(*best, strict=True)
    return np.array(labels, np.int64), (np.array(scores) / len(entries)).astype(np.float32)
