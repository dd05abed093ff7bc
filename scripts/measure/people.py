"""A question to a real clip: what the expensive model sees for it, and when the first row comes."""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from case import Lab, case
from PIL import Image
from stock import LIGHT, RANDOM, adam
from tracks import Person, Rows, distances, read_rows
from video import BUNDLE, CHEAP, EXPENSIVE, footage, ingested

from trtkit import query
from trtkit.atomic import whole_file
from trtkit.tensors import Array
from trtkit.video.detections import Box
from trtkit.video.evidence import cut_out
from trtkit.video.frames import Frame
from trtkit.video.videofile import VideoFile

PERSON, BACKGROUND = "person", "background"
MARGIN = 0.2
# 15 of the clip's 19 people.
LEAST_PEOPLE = 15 / 19
# Tries to put a box of the background where nobody is.
TRIES = 50


@case("--crops 20 --epochs 1 --image-size 32 --rounds 2 --before 10000")
def people(
    lab: Lab, *, clip="", truth="", before=2747, image_size=64, crops=300, epochs=6, rounds=10,
) -> None:  # fmt: skip
    """A question to a clip: objects that the expensive model sees, and the time to the first row."""
    stock, store = lab.stock, lab.stock.root / "store-people"
    if bool(clip) != bool(truth):
        raise SystemExit("--clip and --truth go together: the footage and its annotation.")
    if clip:
        film, label = Path(clip).resolve(), PERSON
        data = cut_people(film, read_rows(Path(truth)), stock.root / f"people-{crops}", crops)
    else:
        film, label = footage(lab, "320x240", 30.0, 1.0), "1"
        data = stock.rendered(f"training-{crops}", "footage.py", "--crops", crops) / "crops"
    new = ("--image-size", image_size, *RANDOM, "--epochs", epochs, *adam(1e-3), *LIGHT)
    stock.trained(data, CHEAP, "--arch", "resnet18", *new)
    stock.trained(data, EXPENSIVE, "--arch", "resnet34", *new, "--prefix-from", CHEAP, "--cut", 2)
    names = [stock.exported(stock.checkpoint(name), name) for name in (CHEAP, EXPENSIVE)]
    stock.built(names, 2, "fp16", "--embeddings", "--bundle", BUNDLE)
    shutil.rmtree(store, ignore_errors=True)
    report = lab.data["ingest"] = ingested(lab, film, store)
    samples: list[float] = []
    for turn in range(rounds + 1):
        rows, first, explanation = question_once(label, store, stock.root)
        # The first question warms the process.
        samples += [first] if turn else []
    if clip and rows:
        report_rows(lab, read_rows(Path(truth)), rows)
    objects, judged = explanation.clusters, explanation.judged
    lab.figure(
        f"objects that the expensive model sees for {label}",
        f"{objects:,} of {report['objects']:,}, on {judged.hits + judged.recomputed:,} pictures",
        f"{before / objects:.0f} times fewer than {before:,}" if objects else "",
        f"at most {before // 10:,}",
        objects <= before / 10,
    )
    # Models of a trial may see nothing.
    if rows:
        lab.compare(
            f"first row of {len(rows)}, warm process", {"query": samples}, under={"query": 1.0}
        )
    lab.data["question"] = {
        "rows": len(rows),
        "objects": objects,
        "pictures": judged.hits + judged.recomputed,
    }


def question_once(label: str, store: Path, workspace: Path) -> tuple[list[Any], float, Any]:
    """Rows of a question with nothing remembered, seconds until the first one, and what it took."""
    begun, first, rows = time.perf_counter(), 0.0, []
    with query(label, store=store, workspace=workspace, remember=False) as answers:
        for row in answers:
            first = first or time.perf_counter() - begun
            rows.append(row)
        return rows, first, answers.explanation


def report_rows(lab: Lab, truth: Rows, rows: Sequence[Any]) -> None:
    """Report how many annotated people have a row of their own, and how long rows outlast their person.

    A row is of the person that it is on in most annotated frames. How long it outlasts one who leaves
    before the annotation ends is the time from that person's last annotated frame to the row's own end.
    """
    people = {person.id for boxes in truth.values() for person in boxes if person.counts}
    last = {person.id: frame for frame in sorted(truth) for person in truth[frame]}
    owners: set[int] = set()
    late = [0.0]
    for row in rows:
        matches: Counter[int] = Counter()
        for number, box in zip(row.frames, row.boxes, strict=True):
            there = truth.get(number + 1, ())
            shares = distances(there, [Person(0, tuple(box))]).ravel() if there else np.empty(0)
            if np.isfinite(shares).any():
                matches[there[int(shares.argmin())].id] += 1
        if matches:
            owner = matches.most_common(1)[0][0]
            owners.add(owner)
            if last[owner] < max(truth):
                rate = (row.frames[-1] - row.frames[0]) / max(row.end - row.start, 0.001)
                late.append((row.frames[-1] + 1 - last[owner]) / rate)
    own = f"{len(owners & people)} of {len(people)}"
    least = round(len(people) * LEAST_PEOPLE)
    what, met = "annotated people with rows of their own", len(owners & people) >= least
    lab.figure(what, own, f"{len(rows)} rows in the whole clip", f"at least {least}", met)
    what, target = "the longest that a row outlasts its person", "at most 2 s"
    lab.figure(
        what, f"{max(late):.1f} s", f"{len(late) - 1} people who leave", target, max(late) <= 2
    )


def cut_people(clip: Path, rows: Rows, folder: Path, count: int) -> Path:
    """Class folders of so many crops each: people as annotated, and the background between them."""
    if folder.is_dir():
        return folder
    random, part = np.random.default_rng(0), folder.with_name(f".{folder.name}")
    boxes = [(frame, Box(*map(round, person.box))) for frame in rows for person in rows[frame]]
    drawn = [boxes[place] for place in random.permutation(len(boxes))[:count]]
    by_frame: dict[int, list[Box]] = {}
    for frame, box in drawn:
        by_frame.setdefault(frame, []).append(box)
    for name in (PERSON, BACKGROUND):
        (part / name).mkdir(parents=True, exist_ok=True)
    frames = (item for item in VideoFile(clip).read() if isinstance(item, Frame))
    for number, frame in enumerate(frames, 1):
        pixels = frame.picture.rgb() if number in by_frame else None
        for place, box in enumerate(by_frame.get(number, ())):
            own = f"{number:04}-{place}.png"
            save(part / PERSON / own, pixels, box)
            save(part / BACKGROUND / own, pixels, background_box(box, rows[number], pixels, random))
    part.rename(folder)
    return folder


def background_box(
    box: Box, people: Sequence[Any], pixels: Array, random: np.random.Generator
) -> Box:
    """A box of the same size where nobody is, as far as tries reach."""
    height, width = pixels.shape[:2]
    others = [Box(*map(round, person.box)) for person in people]
    for _ in range(TRIES):
        corner = (
            int(random.integers(max(1, side))) for side in (width - box.width, height - box.height)
        )
        moved = Box(*corner, box.width, box.height)
        if all(not moved.overlap(other) for other in others):
            break
    return moved


def save(path: Path, pixels: Array, box: Box) -> None:
    with whole_file(path) as file:
        Image.fromarray(np.ascontiguousarray(cut_out(pixels, box, MARGIN))).save(file, format="PNG")
