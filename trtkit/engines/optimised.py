"""Optimised graphs, kept for this processor so that the next load is fast.

Loading a graph folds its constants and lays out its weights. The optimised graph is written to the user's
cache, with the weights in a file of their own, which ONNX Runtime maps into memory. It computes the same
bits.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from trtkit.atomic import scratch_folder
from trtkit.identity import file_digest
from trtkit.workspace import user_cache

ENVIRONMENT, OFF = "TRTKIT_GRAPHS", "off"
GRAPH, WEIGHTS, RECORD = "graph.onnx", "weights.bin", "digests.json"
# All graphs together, and the free space that one more needs.
MOST_BYTES = 4 << 30

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class KeptGraphs:
    """The graphs in `folder`, each in a folder named by everything that it depends on."""

    folder: Path

    @classmethod
    def usual(cls) -> KeptGraphs | None:
        """The graphs in $TRTKIT_GRAPHS, else in the user's cache; None if that variable is "off"."""
        chosen = os.environ.get(ENVIRONMENT)
        if chosen == OFF:
            return None
        return cls(Path(chosen) if chosen else user_cache() / "graphs")

    def find(self, key: str) -> Path | None:
        """The complete graph of that key, or None."""
        place = self.folder / key
        try:
            whole = json.loads((place / RECORD).read_bytes()) == _digests(place)
        except (OSError, ValueError):
            whole = False
        if not whole:
            self.drop(key)
            return None
        # The one unused longest is evicted first.
        with suppress(OSError):
            os.utime(place)
        return place / GRAPH

    def keep(self, key: str, load: Callable[[Path], Loaded]) -> Loaded | None:
        """Call `load` with a path to which it writes the optimised graph, and return its result.

        None when nothing could be kept: the disk is full, or `load` raised OSError.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < MOST_BYTES:
                return None
            with scratch_folder(self.folder) as folder:
                part = folder / key
                part.mkdir()
                loaded = load(part / GRAPH)
                (part / RECORD).write_text(json.dumps(_digests(part)), encoding="utf-8")
                # Where another process was faster, its graph is as good.
                with suppress(OSError):
                    part.rename(self.folder / key)
            self._evict(key)
        except OSError:
            return None
        return loaded

    def drop(self, key: str) -> None:
        """Delete a graph."""
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def _evict(self, newest: str) -> None:
        """Drop those unused longest while all together are too large; never the newest."""
        graphs = []
        for record in self.folder.glob(f"*/{RECORD}"):
            with suppress(FileNotFoundError):
                size = sum(path.stat().st_size for path in record.parent.iterdir())
                graphs.append((record.parent.stat().st_mtime, record.parent.name, size))
        total = sum(size for _, _, size in graphs)
        for _, key, size in sorted(graphs):
            if total <= MOST_BYTES:
                return
            if key != newest:
                self.drop(key)
                total -= size


def _digests(place: Path) -> dict[str, str]:
    """The digests of the files; a graph without large weights has no file of weights."""
    return {
        name: file_digest(place / name) for name in (GRAPH, WEIGHTS) if (place / name).is_file()
    }
