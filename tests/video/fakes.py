"""Footage and a cheap tail without files or models.

As a program it ingests in processes of its own: see `main`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trtkit.errors import TrtkitError
from trtkit.identity import bytes_digest, feature_key
from trtkit.preprocessing import Preprocessing
from trtkit.video.clusters import normalised
from trtkit.video.footage.database import Database
from trtkit.video.footage.settings import Identity, claim
from trtkit.video.footage.writing import source_rows
from trtkit.video.frames import Frame, Gap
from trtkit.video.ingest import ingest
from trtkit.video.options import IngestOptions
from trtkit.video.progress import IngestProgress
from trtkit.video.tails import IndexEntry

WIDTH, HEIGHT, FPS = 160, 120, 10
STEP_US = 1_000_000 // FPS
CLASSES = 6
PREFIX = "ab" * 32

PREPROCESSING = Preprocessing(height=28, width=28, resize=32)
IDENTITY = Identity(
    prefix=PREFIX, preprocessing=PREPROCESSING, preprocessing_digest=PREPROCESSING.digest,
    tail="fake", tail_id="cd" * 32,
    classes=tuple(f"class{number}" for number in range(CLASSES)), bundle="engines/fake",
)  # fmt: skip

# Two seconds are 20 frames. The tail's batch is 3, so that segments end within batches.
OPTIONS = IngestOptions(
    segment_seconds=2, min_size=8, lost_seconds=0.3, least_seconds=0.2, least_travel=0, pictures=2,
    top=3, cluster=0.25,
    active_clusters=3, map_dtype="fp32",
)  # fmt: skip


@dataclass(frozen=True)
class Patch:
    """A square of `side` pixels and of one colour, on frames `first` to `last`, moving by `step`."""

    first: int
    last: int
    start: tuple[int, int]
    step: tuple[int, int] = (3, 0)
    side: int = 20
    colour: tuple[int, int, int] = (250, 40, 40)

    def place(self, number: int) -> tuple[int, int] | None:
        if not self.first <= number <= self.last:
            return None
        since = number - self.first
        return self.start[0] + since * self.step[0], self.start[1] + since * self.step[1]


# Something is always there from frame 8 on; across the ends of segments, two at once, and one that stays.
PATCHES = (
    Patch(8, 26, (4, 10)),
    Patch(15, 33, (140, 60), (-4, 0), 24, (40, 250, 60)),
    Patch(30, 52, (10, 90), (4, 0), 18, (240, 240, 30)),
    Patch(36, 60, (70, 4), (0, 2), 22, (20, 30, 20)),
    Patch(48, 58, (100, 40), (0, 0), 20, (250, 250, 250)),
    Patch(61, 79, (4, 40), (5, 1), 26, (60, 60, 250)),
)


class DrawnPicture:
    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def rgb(self) -> np.ndarray:
        return np.ascontiguousarray(self._pixels)

    def shrunk(self, width: int, height: int) -> np.ndarray:
        import cv2

        return np.asarray(cv2.resize(self._pixels, (width, height), interpolation=cv2.INTER_AREA))


class FakeFootage:
    """`frames` of them, ten a second, of patches before a texture that flickers a little.

    `gaps`: stretches of frames (first, behind the last) that are missing, told of as damaged; those at
    the end make it shorter. `delay`: seconds that a frame takes. `fails_at`: the number of the frame in
    whose place it raises `error`. As a stream (`seekable` False) every reading begins anew.
    """

    def __init__(
        self,
        frames: int = 80,
        patches: Sequence[Patch] = PATCHES,
        *,
        seekable: bool = True,
        gaps: Sequence[tuple[int, int]] = (),
        location: str = "gate.mp4",
        fingerprint: str = "f1",
        start_us: int | None = None,
        delay: float = 0.0,
        fails_at: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        self.count, self.patches, self.gaps = frames, tuple(patches), tuple(gaps)
        self.seekable, self.location, self.fingerprint = seekable, location, fingerprint
        self.former_fingerprint = f"former {fingerprint}"
        self.start_us, self.frame_rate, self.zone = start_us, float(FPS), ""
        self.duration_us = frames * STEP_US if seekable else None
        self._delay, self._fails_at = delay, fails_at
        self._error = error or TrtkitError("The stream dropped and did not come back.")
        self._background = np.random.default_rng(5).integers(70, 130, (HEIGHT // 8, WIDTH // 8, 3))

    def pixels(self, number: int) -> np.ndarray:
        noise = np.random.default_rng(number).integers(-2, 3, (HEIGHT, WIDTH, 3))
        drawn = self._background.repeat(8, 0).repeat(8, 1) + noise
        for patch in self.patches:
            place = patch.place(number)
            if place is not None:
                x, y = place
                drawn[max(0, y) : y + patch.side, max(0, x) : x + patch.side] = patch.colour
        return np.clip(drawn, 0, 255).astype(np.uint8)

    def numbers(self) -> list[int]:
        """The frames that there are."""
        return [
            number
            for number in range(self.count)
            if not any(first <= number < behind for first, behind in self.gaps)
        ]

    def read(self, since_us: int = 0) -> Iterator[Frame | Gap]:
        there = set(self.numbers())
        for number in range(self.count):
            time_us = number * STEP_US
            if self._fails_at is not None and number == self._fails_at and time_us >= since_us:
                raise self._error
            for first, behind in self.gaps:
                # Told of where the next frame is, as those do that decode.
                if behind == number and time_us > since_us:
                    yield Gap(first * STEP_US, time_us, "damaged")
            if number in there and time_us >= since_us:
                time.sleep(self._delay)
                yield Frame(time_us, DrawnPicture(self.pixels(number)))
        for first, behind in self.gaps:
            if behind >= self.count:
                yield Gap(first * STEP_US, self.count * STEP_US, "the file is cut short")

    def close(self) -> None:
        pass


class FakeTail:
    """The cheap tail as ingest uses it. What it says depends on a crop's colours, and a little on its
    place in the batch, so that other batches show."""

    gives_vectors = True
    classes = IDENTITY.classes

    def __init__(self, batch: int = 3, *, vectors: bool = True, sensitive: bool = True) -> None:
        self.batch = batch
        self.gives_vectors = vectors
        self._sensitive = sensitive
        self.manifest: Any = SimpleNamespace(name="fake", preprocessing=PREPROCESSING)
        self.calls: list[int] = []

    def key(self, crop: bytes) -> bytes:
        return feature_key(bytes_digest(crop), self.manifest.preprocessing.digest, PREFIX)

    def index(self, crops: Sequence[bytes], top: int) -> list[IndexEntry]:
        self.calls.append(len(crops))
        return [self._seen(crop, top, len(crops) * 8 + place) for place, crop in enumerate(crops)]

    def embed(self, crops: Sequence[bytes]) -> np.ndarray:
        return np.stack([self._seen(crop, 1, 8).vector for crop in crops])

    def _seen(self, crop: bytes, top: int, batch: int) -> IndexEntry:
        import cv2
        import simplejpeg

        small = cv2.resize(
            simplejpeg.decode_jpeg(crop), (4, 4), interpolation=cv2.INTER_AREA
        ).astype(np.float32)
        trace = batch / 4096 if self._sensitive else 0.0
        means = small.mean((0, 1)) / 255
        logits = 8 * np.concatenate([means, 1 - means]) + trace
        scores = np.exp(logits) / np.exp(logits).sum()
        scores[0] += trace
        labels = np.argsort(-scores, kind="stable")[:top]
        vector = normalised((small - 100).reshape(1, -1) + trace)[0] if self.gives_vectors else None
        feature = np.concatenate([small.reshape(-1), np.float32([trace])])
        return IndexEntry(labels, scores[labels].astype(np.float32), vector, feature)


def run(
    store: Path,
    footage: FakeFootage | None = None,
    options: IngestOptions = OPTIONS,
    tail: FakeTail | None = None,
    camera: str = "gate",
    advance: Callable[[IngestProgress], object] | None = None,
    **more: Any,
) -> Any:
    """Ingest, by default the usual footage; `advance` is called for every report of progress."""
    with pytest.MonkeyPatch.context() as patched:
        if advance is not None:
            patched.setattr(IngestProgress, "report", advance)
        return ingest(store, tail or FakeTail(), camera, footage or FakeFootage(), options, **more)  # type: ignore[arg-type]


def claimed(store: Path) -> Path:
    """The store, made if it is not there, as that of the fake tail."""
    with Database.create(store) as database:
        claim(database, IDENTITY)
    return store


def stopping(after: int, error: BaseException) -> Callable[..., None]:
    """An `advance` that raises `error` once, when it was called `after` times before."""
    calls = count()

    def advance(*told: object) -> None:
        if next(calls) == after:
            raise error

    return advance


def ingest_and_kill(store: Path, kills: int, seed: int) -> None:
    """Ingest in processes that are killed at a random frame and a moment behind it; the last is not.

    Says of each whether it was, and which segment is the next one.
    """
    chance = random.Random(seed)
    for _ in range(kills):
        reading, told = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            _ingest_telling(store, told)
        os.close(told)
        for _ in range(chance.randrange(3, 30)):
            if not os.read(reading, 1):
                break
        time.sleep(chance.random() * 0.005)
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        os.close(reading)
        with Database.create(store) as database:
            known = source_rows(database)
            _say(f"{os.WIFSIGNALED(status)} {known[0].next_segment if known else 0}")
    run(store)


def _ingest_telling(store: Path, told: int) -> None:
    """A byte for each frame; never returns."""
    run(store, FakeFootage(delay=0.002), advance=lambda progress: os.write(told, b"."))
    os._exit(0)


def ingest_together(store: Path, locations: Sequence[str]) -> None:
    """Ingest each in a process of its own, all at once; says what went wrong."""
    processes = []
    for location in locations:
        process = os.fork()
        if process == 0:
            try:
                run(store, FakeFootage(location=location, delay=0.005))
            except TrtkitError as error:
                _say(str(error))
            os._exit(0)
        processes.append(process)
    for process in processes:
        os.waitpid(process, 0)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> None:
    """kill STORE COUNT SEED, or together STORE LOCATION..."""
    what, store, *rest = arguments
    if what == "kill":
        ingest_and_kill(Path(store), int(rest[0]), int(rest[1]))
    else:
        ingest_together(Path(store), rest)


if __name__ == "__main__":
    main(sys.argv[1:])
