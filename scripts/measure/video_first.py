"""The first answer from a large store of video."""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import statistics
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from common import Outcome, Target, progress
from video_subjects import CLASSES

from trtkit.video.store.database import FILE

FIRST_SECONDS = 0.3
ASK = """
import sys
from trtkit.api.query import query
label, store, workspace = sys.argv[1:]
answers = query(label, store=store, workspace=workspace, remember=False, limit=1)
list(answers)
print(answers.explanation.first_seconds)
"""


def first(options: argparse.Namespace, root: Path, outcome: Outcome) -> None:
    store = root / "store"
    large = root / "store-large"
    if not large.is_dir():
        progress(f"Filling a store with {options.objects} objects")
        fill(store, large, options.objects)
    taken = []
    for _ in range(options.rounds):
        for label in CLASSES:
            command = [sys.executable, "-c", ASK, label, str(large), str(root)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            # A class that does not appear has no first answer.
            if printed.strip() != "None":
                taken.append(float(printed))
        progress(f"first answers: {statistics.median(taken) * 1e3:.0f} ms")
    middle = statistics.median(taken)
    outcome.data["first"] = taken
    outcome.targets.append(
        Target(
            f"first appearance of a question, {options.objects:,} objects, median of {len(taken)}",
            f"under {FIRST_SECONDS * 1e3:g} ms",
            f"{middle * 1e3:.0f} ms ({min(taken) * 1e3:.0f} to {max(taken) * 1e3:.0f})",
            middle < FIRST_SECONDS,
        )
    )


def fill(store: Path, large: Path, wanted: int) -> None:
    """A store with the objects of another, over and over, each time later."""
    part = large.with_name(f".{large.name}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(store, part)
    with closing(sqlite3.connect(part / FILE)) as sql:
        (count, objects, clusters, segments, end) = sql.execute(
            "SELECT count(*), max(id), (SELECT max(id) FROM clusters), "
            "(SELECT max(number) + 1 FROM segments), (SELECT max(end_us) FROM segments) FROM objects"
        ).fetchone()
        for copy in range(1, -(-wanted // count)):
            o, c, s, t = copy * objects, copy * clusters, copy * segments, copy * (end + 1_000_000)
            shifted = {
                "objects": f"id + {o}, source, segment + {s}, cluster + {c}, start_us + {t}, end_us + {t}, "
                f"key, top FROM objects WHERE id <= {objects}",
                "clusters": f"id + {c}, source, representative + {o}, label, used FROM clusters "
                f"WHERE id <= {clusters}",
                "ranks": f"class, source, segment + {s}, cluster + {c}, rank, score FROM ranks "
                f"WHERE segment < {segments}",
                "segments": f"source, number + {s}, start_us + {t}, end_us + {t}, frames, objects "
                f"FROM segments WHERE number < {segments}",
                "sightings": f"object + {o}, packed FROM sightings WHERE object <= {objects}",
                "crops": f"object + {o}, jpeg FROM crops WHERE object <= {objects}",
                "vectors": f"object + {o}, packed FROM vectors WHERE object <= {objects}",
            }
            for table, columns in shifted.items():
                sql.execute(f"INSERT INTO {table} SELECT {columns}")
        sql.execute("DELETE FROM verdicts")
        sql.commit()
    part.rename(large)
