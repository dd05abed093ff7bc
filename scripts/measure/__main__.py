"""Run one measurement: python scripts/measure NAME [options]."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    here = Path(__file__).resolve().parent
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    script = (
        here.parent / "bench_store.py" if name == "store" else here / f"{name.replace('-', '_')}.py"
    )
    if name in ("", "all", "common", "subjects", "trainings") or not script.is_file():
        raise SystemExit("Usage: python scripts/measure NAME [options]; see docs/results.")
    sys.argv = [str(script), *sys.argv[2:]]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
