"""Run every measurement with the settings of record and write docs/results/main-job.{json,md}.

    python scripts/measure/all.py                       everything
    python scripts/measure/all.py --only chain warm     these; the others stay as they were written
    python scripts/measure/all.py --quick               small settings, to see that it works

Each measurement is a process of its own, one after the other; leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import describe, markdown_table, progress, verdict

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
NAME = "main-job"

# The store's throughput against that of plain files with fsync.
STORE_TARGETS = {"write": 1.5, "cold read, all": 1.0}

Result = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A script, and its options: those of record, and those of `--quick`."""

    script: str
    record: str
    quick: str

    def command(self, quick: bool) -> list[str]:
        return [f"scripts/{self.script}", *shlex.split(self.quick if quick else self.record)]


# What each script does without options is what is on record, except where it is said here.
STEPS = {
    "accuracy": Step("measure/accuracy.py", "", "--architectures resnet18 --photos 2"),
    "chain": Step(
        "measure/chain.py",
        "",
        "--model resnet18 --cut 2 --batch 1 2 --precision fp32 --rounds 3",
    ),
    "warm": Step("measure/warm.py", "", "--model resnet18 --cut 2 --photos 8 --batch 4 --rounds 2"),
    "endtoend": Step(
        "measure/endtoend.py", "", "--model resnet18 --cut 2 --photos 16 --batch 4 --rounds 2"
    ),
    "saved": Step(
        "measure/saved.py", "", "--model resnet18 --cut 2 --photos 8 --batch 4 --rounds 2"
    ),
    "memory": Step("measure/memory.py", "", "--few 50 --many 100 --rounds 1"),
    "startup": Step("measure/startup.py", "", "--rounds 3"),
    "store": Step("bench_store.py", "--rounds 9", "--entries 16 --rounds 2"),
}


def run_step(name: str, step: Step, quick: bool, workspace: Path, scratch: Path) -> Result:
    """The JSON of one script. Its command is recorded without the folders of this run."""
    command = step.command(quick)
    output = scratch / f"{name}.json"
    places: list[str | Path] = ["--json", output]
    if name != "store":
        places += ["--workspace", workspace]
    progress(f"{name}: {shlex.join(['python', *command])}")
    subprocess.run([sys.executable, *command, *places], cwd=ROOT, check=True)
    result: Result = json.loads(output.read_text())
    return with_tables({**result, "command": shlex.join(["python", *command])})


def with_tables(result: Result) -> Result:
    """The result with the tables and targets that the store's benchmark does not write itself."""
    if "tables" in result:
        return result
    measures = list(result["medians"]["plain files"])
    ratios = result["ratios_to_plain_files"]
    rows = [
        [name, *(f"{row[measure]:,.0f} ({ratios[name][measure]:.2f})" for measure in measures)]
        for name, row in result["medians"].items()
    ]
    title = f"Feature store, {result['entries']} entries, MB/s (times plain files with fsync)"
    reported = [
        {
            "what": f"Feature store against plain files with fsync, {measure}",
            "target": f"at least {STORE_TARGETS[measure]} times"
            if measure in STORE_TARGETS
            else "",
            "measured": f"{ratios['store'][measure]:.2f} times",
            "met": ratios["store"][measure] >= STORE_TARGETS[measure]
            if measure in STORE_TARGETS
            else None,
        }
        for measure in measures
    ]
    table = {"title": title, "columns": ["", *measures], "rows": rows}
    return {**result, "tables": [table], "targets": reported}


def markdown(results: Mapping[str, Result]) -> str:
    lines = [
        "# Measured: the main job",
        "",
        "Written by `python scripts/measure/all.py`; everything, down to the single rounds, is in "
        f"[{NAME}.json]({NAME}.json). Times are medians of rounds in which the competitors take "
        "turns, with their 10th and 90th percentile. Weights are random; photos are real.",
        "",
    ]
    headers: dict[str, list[str]] = {}
    for name, result in results.items():
        header = describe(without_load(result)).replace("\n", "; ")
        headers.setdefault(header, []).append(name)
    for header, names in headers.items():
        lines += [f"{', '.join(names)}: {header}", ""]
    rows = [
        [target["what"], target["target"], target["measured"], verdict(target["met"]), name]
        for name, result in results.items()
        for target in result["targets"]
    ]
    lines += markdown_table(["what", "target", "measured", "", "by"], rows)
    for name, result in results.items():
        lines += ["", f"## {name}", "", f"    {result['command']}", "", result["date"]]
        for table in result["tables"]:
            lines += ["", table["title"], "", *markdown_table(table["columns"], table["rows"])]
    return "\n".join(lines) + "\n"


def without_load(result: Result) -> Result:
    """Without the load average, which the steps before a step leave behind."""
    return {**result, "load_average": None}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="NAME", help=", ".join(STEPS))
    parser.add_argument(
        "--quick", action="store_true", help="small settings; prints, keeps nothing"
    )
    parser.add_argument("--out", type=Path, help="folder for the results; default: docs/results")
    parser.add_argument(
        "--workspace", type=Path, help="folder for photos, exports and bundles; default: temporary"
    )
    options = parser.parse_args()
    out = options.out or (None if options.quick else RESULTS)
    results: dict[str, Result] = {}
    if out is not None and (out / f"{NAME}.json").is_file():
        results = json.loads((out / f"{NAME}.json").read_text())
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trtkit-measure-")))
        workspace = (options.workspace or scratch).resolve()
        for name in options.only or STEPS:
            results[name] = run_step(name, STEPS[name], options.quick, workspace, scratch)
            ordered = {step: results[step] for step in STEPS if step in results}
            if out is not None:
                # After every step, so that a later one that fails takes nothing with it.
                out.mkdir(parents=True, exist_ok=True)
                (out / f"{NAME}.json").write_text(json.dumps(ordered, indent=1) + "\n")
                (out / f"{NAME}.md").write_text(markdown(ordered))
    print(markdown(ordered))


if __name__ == "__main__":
    main()
