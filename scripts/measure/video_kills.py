"""Ingests that are killed, and what their stores hold once they were run again."""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from common import Outcome, Target, progress
from video_subjects import BUNDLE, footage, ingested

from trtkit.video.footage.database import FILE

# Of footage that is ingested again and again.
CLIP_SECONDS = 60


def kills(options: argparse.Namespace, root: Path, outcome: Outcome) -> None:
    seconds = min(CLIP_SECONDS, options.seconds)
    name = f"clip-kills-{seconds:g}"
    given = ("--seconds", seconds, "--size", "640x360", "--density", 1)
    video = footage(options, root, name, *given) / "camera-0.mp4"
    small = ("--segment", 4, "--warmup", 1)
    alone, killed = root / "store-alone", root / "store-killed"
    for store in (alone, killed):
        shutil.rmtree(store, ignore_errors=True)
    begun = time.monotonic()
    ingested(root, video, alone, *small)
    usual = time.monotonic() - begun
    random = np.random.default_rng(0)
    done, rounds, equal = 0, 0, True
    while done < options.kills:
        shutil.rmtree(killed, ignore_errors=True)
        rounds += 1
        while done < options.kills and not complete(killed):
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "trtkit", "ingest", str(video), "--store", str(killed),
                    "--bundle", BUNDLE, "--workspace", str(root), *map(str, small),
                ],
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                process.wait(timeout=float(random.uniform(0.2, 0.7 * usual)))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                done += 1
        ingested(root, video, killed, *small)
        equal = equal and content(killed) == content(alone)
        progress(f"{done} kills in {rounds} ingests, stores equal: {equal}")
    outcome.data["kills"] = {"kills": done, "ingests": rounds, "equal": equal}
    outcome.targets.append(
        Target(
            f"{done} kills at random moments of {rounds} ingests",
            "the stores equal that of an unbroken run",
            "equal" if equal else "not equal",
            equal,
        )
    )


def complete(store: Path) -> bool:
    if not (store / FILE).is_file():
        return False
    with closing(sqlite3.connect(store / FILE)) as sql:
        try:
            return sql.execute("SELECT complete FROM sources").fetchall() == [(1,)]
        except sqlite3.OperationalError:
            # Killed before the tables were there.
            return False


def content(store: Path) -> list[Any]:
    """All that a store holds, but for what was asked of it."""
    tables = (
        "sources",
        "segments",
        "gaps",
        "clusters",
        "objects",
        "sightings",
        "crops",
        "vectors",
        "ranks",
    )
    with closing(sqlite3.connect(store / FILE)) as sql:
        return [
            sorted(sql.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in tables
        ]
