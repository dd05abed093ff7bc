"""Ingest that is killed at random moments."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from case import Lab, case
from contents import content
from stock import trtkit_command
from video import footage

from trtkit import store_verify
from trtkit.reporting import message
from trtkit.video.footage.database import FILE, Database
from trtkit.video.footage.writing import source_rows

MODEL, SIDE, BUNDLE = "resnet18", 32, "endurance"
CAMERAS = ("gate", "yard")
# When kills come: at the earliest in seconds, at the latest as a share of the time that ingests take.
SHORTEST, LONGEST = 0.2, 0.25


@case("--kills 2 --seconds 6")
def kills(
    lab: Lab, *, kills=100, seconds=20.0, size="320x240", density=2.0, segment=2.0, seed=0
) -> None:
    """Two ingests into one store, killed at random moments, against unbroken ones."""
    made_bundle(lab)
    clips = [footage(lab, size, own, density) for own in (seconds, seconds * 0.8)]
    unbroken, killed = lab.stock.root / "store-unbroken", lab.stock.root / "store-killed"
    shutil.rmtree(unbroken, ignore_errors=True)
    started = time.monotonic()
    finish(commands(lab, clips, unbroken, segment))
    usual, whole = time.monotonic() - started, content(unbroken)
    random = np.random.default_rng(seed)
    done, ingests, begun, equal = 0, 0, 0, True
    while done < kills:
        shutil.rmtree(killed, ignore_errors=True)
        ingests += 1
        steps = commands(lab, clips, killed, segment)
        count, into = killed_at_random(steps, killed, kills - done, usual, random)
        done, begun = done + count, begun + into
        finish(steps)
        equal = equal and content(killed) == whole and not store_verify(killed).problems
        message(f"{done} kills in {ingests} ingests of two sources, stores equal: {equal}")
    objects = sum(len(own["objects"]) for own in whole.values())
    lab.figure(
        f"{done} kills at random moments of {ingests} ingests of two sources into one store",
        "equal stores" if equal else "other stores",
        f"{objects} objects, {begun} kills after a commit",
        "equal stores",
        equal,
    )
    lab.data["kills"] = {
        "kills": done, "ingests": ingests, "after_commit": begun, "equal": equal, "seed": seed,
        "usual_seconds": usual, "objects": objects,
    }  # fmt: skip


def made_bundle(lab: Lab) -> None:
    name = lab.stock.exported(MODEL, image_size=SIDE)
    lab.stock.built([name], 2, "fp16", "--embeddings", "--bundle", BUNDLE)


def commands(lab: Lab, clips: Sequence[Path], store: Path, segment: float) -> list[list[str]]:
    """An ingest of each clip into the store."""
    where = (
        "--store",
        store,
        "--bundle",
        BUNDLE,
        "--segment",
        segment,
        "--workspace",
        lab.stock.root,
    )
    return [
        trtkit_command("ingest", f"{camera}={clip}", *where)
        for camera, clip in zip(CAMERAS, clips, strict=True)
    ]


def started_all(steps: Sequence[Sequence[str]]) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in steps]


def finish(steps: Sequence[Sequence[str]]) -> None:
    """Run all ingests at once to their end."""
    for process in started_all(steps):
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)


def killed_at_random(
    steps: Sequence[Sequence[str]],
    store: Path,
    most: int,
    usual: float,
    random: np.random.Generator,
) -> tuple[int, int]:
    """Run ingests at once and kill one or all now and then, until all have ended or `most` were killed.

    What was killed is started again. Returns the kills, and those after which the store held a chunk.
    `usual`: seconds that all take without kills.
    """
    running, done, begun = dict(enumerate(started_all(steps))), 0, 0
    while running and done < most:
        time.sleep(float(random.uniform(SHORTEST, LONGEST * usual)))
        running = {place: process for place, process in running.items() if process.poll() is None}
        if not running:
            break
        count = int(random.integers(1, min(len(running), most - done) + 1))
        places = random.permutation(sorted(running))[:count].tolist()
        for place in places:
            running[place].kill()
        for place in places:
            running[place].wait()
        done += count
        begun += count * (reached(store) > 0)
        running |= zip(places, started_all([steps[place] for place in places]), strict=True)
    for process in running.values():
        process.kill()
        process.wait()
    return done, begun


def reached(store: Path) -> int:
    """The frames that a store holds; 0 without one."""
    if not (store / FILE).is_file():
        return 0
    with Database.create(store) as database:
        return sum(row.frames for row in source_rows(database))
