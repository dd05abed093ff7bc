"""Run a measurement: python scripts/measure NAME [options]. `NAME --help` lists its options.

`python scripts/measure all` runs every one again, with the commands on record in docs/results, and writes
its pages. That takes a day; leave the machine alone meanwhile. `--only NAME` runs some, `--quick` sees
whether they work. Each run is a process of its own.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from case import load_cases, run

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "docs" / "results"


def run_all(arguments: Sequence[str]) -> None:
    cases = load_cases()
    parser = argparse.ArgumentParser(prog="python scripts/measure all", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=cases, metavar="NAME", help=", ".join(cases))
    parser.add_argument("--quick", action="store_true", help="small settings; keeps nothing")
    parser.add_argument("--workspace", type=Path, metavar="DIR", help="default: a temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="trtkit-measure-") as scratch:
        for name in options.only or cases:
            file, runs = RESULTS / f"{name}.json", {"": shlex.split(cases[name].quick)}
            if not options.quick:
                recorded = json.loads(file.read_text())
                runs = {label: shlex.split(run["command"])[3:] for label, run in recorded.items()}
            for label, words in runs.items():
                # Runs that differ in their models, as videos do, have workspaces of their own.
                folder = label if len(runs) > 1 else "shared"
                places = ["--workspace", (options.workspace or Path(scratch)) / folder]
                places += [] if options.quick else ["--out", file, "--label", label]
                command = [sys.executable, HERE, name, *words, *places]
                subprocess.run(command, cwd=HERE.parents[1], check=True)


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in (cases := load_cases()) and name != "all":
        usage = "Usage: python scripts/measure NAME [options]; NAME is `all` or one of"
        raise SystemExit(f"{usage} {', '.join(cases)}.")
    run_all(sys.argv[2:]) if name == "all" else run(name, sys.argv[2:])
