"""Tracks of people or cars on a real clip, judged by its annotation in the form of MOTChallenge."""

import csv
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from case import Lab, case

from trtkit.video.detections import Detections
from trtkit.video.frames import MICROSECONDS
from trtkit.video.tracking.matching import assigned, overlaps
from trtkit.video.tracking.options import TrackingOptions
from trtkit.video.tracking.tracker import MotionTracker

# A track is on a person where they overlap so much.
LEAST_OVERLAP = 0.3
# A person has a track of its own that is on it in this share of its annotated frames.
LEAST_SHARE = 0.6
# Detections made from the annotation: so many are left out, and each side is off by so much of its length.
DROPPED, JITTER = 0.1, 0.05
SEEDS = range(5)
NEEDED = (
    "This measurement needs the judge motmetrics; install it with `pip install --group tracks`, or "
    "`pip install 'motmetrics>=1.4,<2'`."
)


@dataclass(frozen=True)
class Person:
    """A box on a frame, with its track's number; `counts`: whether the annotation wants it counted."""

    id: int
    box: tuple[float, float, float, float]
    counts: bool = True


Rows = Mapping[int, Sequence[Person]]


@case("--size 320x240 --seconds 12")
def tracks(
    lab: Lab, *, clip="", truth="", frame_rate=10.0, size="640x360", seconds=30.0, people=0, most_tracks=0,
    most_switches=0, mota=0.0, idf1=0.0, boxes_mota=0.9, boxes_idf1=0.85,
) -> None:  # fmt: skip
    """Tracks of a clip by motion alone against its annotation, and on the annotation's own boxes."""
    try:
        import motmetrics  # noqa: F401
    except ImportError:
        raise SystemExit(NEEDED) from None
    if bool(clip) != bool(truth):
        raise SystemExit("--clip and --truth go together: the footage and its annotation.")
    if clip:
        footage, wanted = Path(clip).resolve(), read_rows(Path(truth))
    else:
        footage, wanted = rendered(lab, size, seconds)
        frame_rate = 30.0
    report, made = ingested(lab, footage)
    score = judged(wanted, made)
    share = f"{score['people_with_track']} of {score['people']}"
    what = "people with one track over 60% of their annotated frames"
    lab.figure(what, share, *least(score["people_with_track"], people))
    lab.figure(
        "tracks on annotated frames", str(score["tracks"]), *most(score["tracks"], most_tracks)
    )
    lab.figure("identity switches", str(score["switches"]), *most(score["switches"], most_switches))
    lab.figure("MOTA", f"{score['mota']:.3f}", *least(score["mota"], mota))
    lab.figure("IDF1", f"{score['idf1']:.3f}", *least(score["idf1"], idf1))
    errors = f"{score['misses']} misses, {score['false_positives']} false positives"
    lab.figure("errors", errors, f"{score['boxes']} annotated boxes")
    lab.figure("objects in the whole clip", str(report["objects"]), f"{report['frames']} frames")
    on_boxes = [judged(wanted, boxes_tracked(wanted, frame_rate, seed)) for seed in SEEDS]
    for name, target in (("mota", boxes_mota), ("idf1", boxes_idf1)):
        values = [own[name] for own in on_boxes]
        span = f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        what = f"{name.upper()} on the annotation's boxes, {DROPPED:.0%} left out, jittered"
        lab.figure(what, span, *least(median(values), target))
    lab.data.update(score=score, ingest=report, on_boxes=on_boxes)


def least(value: float, target: float) -> tuple[Any, ...]:
    return ("", f"at least {target:g}", value >= target) if target else ()


def most(value: float, target: float) -> tuple[Any, ...]:
    return ("", f"at most {target:g}", value <= target) if target else ()


def read_rows(path: Path) -> Rows:
    """Rows of MOTChallenge by frame: frame, id, left, top, width, height, and 0 for "does not count"."""
    frames: dict[int, list[Person]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.reader(file):
            if row and row[0].strip().isdigit():
                number, person = (int(value) for value in row[:2])
                x, y, width, height = (float(value) for value in row[2:6])
                counts = len(row) < 7 or float(row[6]) != 0
                frames[number].append(Person(person, (x, y, width, height), counts))
    return frames


def rendered(lab: Lab, size: str, seconds: float) -> tuple[Path, Rows]:
    """A clip of moving digits with its truth, for a trial without footage."""
    options = ("--size", size, "--seconds", seconds, "--density", 1)
    clip = lab.stock.rendered(f"tracks-{size}-{seconds:g}", "footage.py", *options) / "camera-0.mp4"
    frames: dict[int, list[Person]] = defaultdict(list)
    for row in map(json.loads, clip.with_suffix(".truth.jsonl").read_text().splitlines()):
        person = Person(row["object"], tuple(row["box"]), row["visible"] > 0.5)
        frames[row["frame"] + 1].append(person)
    return clip, frames


def ingested(lab: Lab, clip: Path) -> tuple[dict[str, Any], Rows]:
    """The report of `trtkit ingest` with its default options, and the tracks that the store exports.

    The bundle has random weights and no embeddings: nothing but motion links detections.
    """
    bundle = lab.stock.bundle("resnet18", 2, "fp32", 64).name
    store, exported = lab.stock.root / "store-tracks", lab.stock.root / "tracks.txt"
    shutil.rmtree(store, ignore_errors=True)
    where = ("--store", store, "--bundle", bundle, "--clusters", "off")
    report = json.loads(lab.stock.trtkit("ingest", clip, *where, "--json"))
    lab.stock.trtkit("store", "export", exported, "--store", store, "--format", "mot")
    return report["sources"][0], read_rows(exported)


def boxes_tracked(truth: Rows, frame_rate: float, seed: int) -> Rows:
    """The tracks of a detector that sees what is annotated, without some, and not exactly."""
    rng, tracker = np.random.default_rng(seed), MotionTracker(TrackingOptions())
    updates = []
    for frame in sorted(truth):
        boxes = np.array([person.box for person in truth[frame]]).reshape(-1, 4)
        noise = rng.normal(0, JITTER, boxes.shape) * boxes[:, [2, 3, 2, 3]]
        kept = rng.random(len(boxes)) >= DROPPED
        time_us = round((frame - 1) / frame_rate * MICROSECONDS)
        updates.append(tracker.update(frame, time_us, Detections.of((boxes + noise)[kept])))
    updates.append(tracker.finish())
    made: dict[int, list[Person]] = defaultdict(list)
    for track in (track for update in updates for track in update.ended):
        for sighting in track.sightings:
            made[sighting.frame].append(Person(track.id, sighting.box))
    return made


def judged(truth: Rows, made: Rows) -> dict[str, Any]:
    """What motmetrics says of tracks, on annotated frames. Who does not count is left out of both sides."""
    import motmetrics

    accumulator = motmetrics.MOTAccumulator()
    own: dict[int, Counter[int]] = defaultdict(Counter)
    tracks: set[int] = set()
    for frame in sorted(truth):
        people, boxes = truth[frame], list(made.get(frame, ()))
        pairs = assigned(distances(people, boxes))
        passed = {place for row, place in pairs if not people[row].counts}
        boxes = [box for place, box in enumerate(boxes) if place not in passed]
        people = [person for person in people if person.counts]
        tracks |= {box.id for box in boxes}
        costs = distances(people, boxes)
        accumulator.update(
            [person.id for person in people],
            [box.id for box in boxes],
            np.where(np.isfinite(costs), costs, np.nan),
            frameid=frame,
        )
        for person in people:
            own[person.id][-1] += 1
    events = accumulator.mot_events
    for person, track in events.loc[events.Type.isin(["MATCH", "SWITCH"]), ["OId", "HId"]].values:
        own[int(person)][int(track)] += 1
    names = ("mota", "idf1", "num_switches", "num_misses", "num_false_positives", "num_objects")
    row = motmetrics.metrics.create().compute(accumulator, metrics=list(names), name="all").iloc[0]
    shares = {
        person: max((count for track, count in counts.items() if track != -1), default=0)
        / counts[-1]
        for person, counts in own.items()
    }
    return {
        "people": len(own),
        "people_with_track": sum(share >= LEAST_SHARE for share in shares.values()),
        "shares": {str(person): round(share, 3) for person, share in sorted(shares.items())},
        "tracks": len(tracks),
        "mota": float(row["mota"]),
        "idf1": float(row["idf1"]),
        "switches": int(row["num_switches"]),
        "misses": int(row["num_misses"]),
        "false_positives": int(row["num_false_positives"]),
        "boxes": int(row["num_objects"]),
    }


def distances(people: Sequence[Person], boxes: Sequence[Person]) -> Any:
    """1 less the overlap of each person with each box, infinite where it is too small."""
    first, second = (np.array([own.box for own in rows]).reshape(-1, 4) for rows in (people, boxes))
    apart = 1 - overlaps(first, second)
    return np.where(apart <= 1 - LEAST_OVERLAP, apart, np.inf)
