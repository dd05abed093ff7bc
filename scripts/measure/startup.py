"""Measure how long `trtkit --help` takes, against importing the libraries that draw it.

Each is a process of its own, in turns: from starting it until it has ended. Files lie in the page
cache of the system and Python's bytecode is compiled.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common import Outcome, Target, argument_parser, at_most, in_turns, run, timed

LIMIT = 1.5
BASE = "python -c 'import typer, rich.console'"
INFER = "trtkit infer --help"


def trtkit_script() -> str:
    """The command of the environment that this script runs in."""
    found = shutil.which("trtkit", path=Path(sys.executable).parent) or shutil.which("trtkit")
    if found is None:
        raise SystemExit("There is no command trtkit; install the package first.")
    return found


def seconds(command: Sequence[str]) -> float:
    return timed(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL))


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    script = trtkit_script()
    commands = {
        BASE: [sys.executable, "-c", "import typer, rich.console"],
        "trtkit --help": [script, "--help"],
        INFER: [script, "infer", "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    competitors = {name: partial(seconds, command) for name, command in commands.items()}
    samples = in_turns(competitors, options.rounds, title="start-up", warmups=2)
    ratios = outcome.add_timing("One process", samples, BASE)
    outcome.targets = [
        at_most(f"`trtkit --help` against `{BASE}`", LIMIT, ratios["trtkit --help"]),
        Target(f"`{INFER}` against `{BASE}`", "none", f"{ratios[INFER]:.3f} times"),
    ]
    return outcome


def main() -> None:
    run(argument_parser(__doc__, rounds=20), measure)


if __name__ == "__main__":
    main()
