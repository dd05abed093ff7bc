"""The first answer from a large store of video."""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from common import Outcome, Target, progress
from video_subjects import CLASSES

from trtkit.video.footage.database import FILE

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
    asked(large, root, CLASSES[0])
    taken: dict[str, list[float]] = {"kept": [], "off": []}
    for _ in range(options.rounds):
        for label in CLASSES:
            for graphs, seconds in taken.items():
                found = asked(
                    large, root, label, **({"TRTKIT_GRAPHS": "off"} if graphs == "off" else {})
                )
                if found is not None:
                    seconds.append(found)
        progress(f"first answers: {statistics.median(taken['kept']) * 1e3:.0f} ms")
    outcome.data["first"] = taken
    middle = {graphs: statistics.median(seconds) for graphs, seconds in taken.items()}
    said = {
        graphs: f"{middle[graphs] * 1e3:.0f} ms ({min(seconds) * 1e3:.0f} to {max(seconds) * 1e3:.0f})"
        for graphs, seconds in taken.items()
    }
    outcome.targets += [
        Target(
            f"first appearance of a question, {options.objects:,} objects, median of {len(taken['kept'])}",
            f"under {FIRST_SECONDS * 1e3:g} ms",
            said["kept"],
            middle["kept"] < FIRST_SECONDS,
        ),
        Target("the same without an optimised graph of ONNX Runtime", "beside it", said["off"]),
    ]


def asked(store: Path, root: Path, label: str, **environment: str) -> float | None:
    """Seconds to the first appearance in a process of its own; None of a class that does not appear."""
    printed = subprocess.run(
        [sys.executable, "-c", ASK, label, str(store), str(root)],
        check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
    ).stdout.strip()  # fmt: skip
    return None if printed == "None" else float(printed)


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
