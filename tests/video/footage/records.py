"""Segments drawn by Hypothesis, and a store that has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trtkit.identity import bytes_digest, feature_key
from trtkit.video.clusters import Cluster
from trtkit.video.detections import Box, Sighting
from trtkit.video.footage.database import Database
from trtkit.video.footage.writing import (
    ChunkRecord,
    IndexedObject,
    IndexedPicture,
    commit_chunk,
    register,
)
from trtkit.video.frames import Gap
from trtkit.video.options import IngestOptions

LENGTH = 1000
CLASSES = 5
TOP = 3


@dataclass(frozen=True)
class Drawn:
    """An object: its times within a segment, its cluster's number in the source, what it looks like."""

    start: int
    length: int
    cluster: int
    labels: tuple[int, ...]
    scores: tuple[float, ...]


_SCORES = st.floats(0, 1, width=32)
OBJECTS = st.builds(
    Drawn,
    start=st.integers(0, LENGTH - 1),
    length=st.integers(0, 300),
    cluster=st.integers(0, 3),
    labels=st.permutations(range(CLASSES)).map(lambda all: tuple(all[:TOP])),
    scores=st.tuples(*[_SCORES] * TOP).map(lambda all: tuple(sorted(all, reverse=True))),
)
# Of each source: which segments it has, and the objects of each.
SOURCES = st.lists(
    st.dictionaries(st.integers(0, 4), st.lists(OBJECTS, max_size=6), max_size=4),
    min_size=1,
    max_size=2,
)


@dataclass
class Filled:
    """What was written: of each source the objects, with what began their cluster."""

    objects: list[dict[str, Any]] = field(default_factory=list)


def row(database: Database, location: str, options: IngestOptions | None = None) -> int:
    told = (location, location, "f", (options or IngestOptions()).to_json())
    return register(database, *told, locked=True).id


def fill(database: Database, sources: list[dict[int, list[Drawn]]]) -> Filled:
    filled = Filled()
    for place, segments in enumerate(sources):
        source = row(database, f"source {place}")
        clusters: dict[int, tuple[Cluster, int]] = {}
        for number in sorted(segments):
            record = segment(number, segments[number], clusters, filled, source)
            commit_chunk(database, source, record)
    return filled


def with_one_picture(
    key: bytes, jpeg: bytes, sightings: list[Sighting], labels: Any, scores: Any, vector: Any,
    cluster: Cluster,
) -> IndexedObject:  # fmt: skip
    """An object with a picture of its first sighting."""
    picture = IndexedPicture(key, jpeg, sightings[0], labels, scores, vector)
    return IndexedObject(sightings, [picture], labels, scores, vector, cluster)


def segment(
    number: int,
    objects: list[Drawn],
    clusters: dict[int, tuple[Cluster, int]],
    filled: Filled,
    source: int,
) -> ChunkRecord:
    found = []
    for drawn in objects:
        if drawn.cluster not in clusters:
            cluster = Cluster(np.ones(2, np.float32), drawn.labels[0], 0)
            clusters[drawn.cluster] = (cluster, len(filled.objects))
        cluster, begun_by = clusters[drawn.cluster]
        cluster.used += 1
        times = (number * LENGTH + drawn.start, number * LENGTH + drawn.start + drawn.length)
        crop = f"{source} {len(filled.objects)}".encode()
        found.append(
            with_one_picture(
                key=feature_key(bytes_digest(crop), "00" * 32, "ab" * 32),
                jpeg=crop,
                sightings=[Sighting(time, time, Box(1, 2, 3, time)) for time in times],
                labels=np.array(drawn.labels),
                scores=np.float32(drawn.scores),
                vector=np.float32([0.5, len(filled.objects)]),
                cluster=cluster,
            )
        )
        filled.objects.append(
            {
                "source": source, "segment": number, "times": times, "begun_by": begun_by,
                "drawn": drawn, "crop": crop, "used": cluster.used,
            }
        )  # fmt: skip
    last = (number + 1) * LENGTH - 1
    ends = [last, *(each.sightings[-1].time_us for each in found)]
    return ChunkRecord(
        number, LENGTH, number * LENGTH, max(ends), found, [Gap(last, last + 1, "damaged")]
    )


def made(folder: Path, sources: list[dict[int, list[Drawn]]]) -> tuple[Database, Filled]:
    database = Database.create(folder)
    return database, fill(database, sources)
