"""The timing cache: how fast each kernel was, kept from one build to the next."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from filelock import FileLock

from trtkit.engines.cuda.device import Card


class TimingCache:
    """One file for each library, version and card; two builds at once lose nothing of each other."""

    def __init__(self, folder: Path, library: str, card: Card | None) -> None:
        name = f"{library} {card.name} {card.capability}" if card else f"{library} no card"
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.cache"

    def use(self, config: Any) -> None:
        """Give a build what earlier ones measured."""
        config.set_timing_cache(config.create_timing_cache(self._read()), False)

    def keep(self, config: Any) -> None:
        """Add what this build measured to the file.

        The file is read again under a lock, because another build may have added to it meanwhile.
        """
        measured = config.get_timing_cache()
        if measured is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            both = config.create_timing_cache(self._read())
            both.combine(measured, False)
            fresh = self.path.with_suffix(".new")
            fresh.write_bytes(bytes(both.serialize()))
            fresh.replace(self.path)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
