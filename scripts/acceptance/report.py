"""The results in words: the targets for the terminal, everything as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from acceptance.case import Target
from acceptance.journal import FAILED, LEFT_OUT, Journal
from trtkit.cli.output import print_table

COLUMNS = ("what", "must be", "measured", "")
METHOD = (
    "Times are medians of rounds in which the competitors take turns, with their 10th and 90th "
    "percentile; a ratio is that of the medians, behind it p10, median and p90 of the rounds. Weights are "
    "random."
)
STAGES = ("bundle", "builder s", "warm s", "ratio", "whole build s", "heavy layers", "MiB")


def print_targets(journal: Journal, targets: Sequence[Target]) -> None:
    """The targets, then what failed and what was left out."""
    print_table(COLUMNS, [(one.what, one.must_be, one.measured, one.verdict) for one in targets])
    for title, state in (("Failed", FAILED), ("Left out", LEFT_OUT)):
        reasons = journal.reasons(state)
        if reasons:
            print(f"\n{title}:")
        for name, reason in reasons.items():
            print(f"  {name}: {reason}")


def markdown(journal: Journal, targets: Sequence[Target]) -> str:
    """The page for docs/results/."""
    lines = ["# Measured: on a GPU", "", *(f"    {run['command']}" for run in journal.runs), ""]
    lines += [*_machine(journal), "", METHOD, "", "## Targets", ""]
    rows = [
        (
            one.what,
            one.must_be,
            one.measured,
            f"**{one.verdict}**" if one.met is False else one.verdict,
        )
        for one in targets
    ]
    lines += _table(COLUMNS, rows)
    builds = list(_builds(journal))
    if builds:
        lines += ["", "## Builds", "", *_table(STAGES, builds)]
    for name in journal.steps:
        lines += _section(name, journal.result(name))
    for title, state in (("Failed", FAILED), ("Left out", LEFT_OUT)):
        reasons = journal.reasons(state).items()
        if reasons:
            lines += ["", f"## {title}", "", *(f"- {name}: {reason}" for name, reason in reasons)]
    return "\n".join(lines) + "\n"


def _machine(journal: Journal) -> Iterator[str]:
    result = journal.result("environment")
    if result is None:
        common = journal.identity.items()
        yield ", ".join(f"{name} {value}" for name, value in common if value is not None) + "."
    else:
        driver = f"driver {result['driver']}, " if result["driver"] else ""
        commit = f" ({result['commit']})" if result["commit"] else ""
        yield (
            f"{result['date']}: {result['card']}, compute capability {result['compute_capability']}, "
            f"{driver}CUDA {result['cuda']}, {result['tensorrt']} {result['tensorrt_version']}, "
            f"cuda-python {result['cuda_python']}, Python {result['python']}, trtkit {result['trtkit']}"
            f"{commit}; {result['processor']}, {result['cores']} cores, {result['system']}."
        )
    commits = {record.commit for record in journal.steps.values() if record.commit}
    if len(commits) > 1:
        yield f"The steps were done by several states of trtkit: {', '.join(sorted(commits))}."


def _builds(journal: Journal) -> Iterator[tuple[str, ...]]:
    for name in journal.steps:
        result = journal.result(name)
        if result is None or not name.startswith("build "):
            continue
        again = journal.result(f"re{name}")
        layers: dict[str, int] = {}
        for stage in result["stages"]:
            for kind, count in (stage["inspector"] or stage["network"] or {}).items():
                layers[kind] = layers.get(kind, 0) + count
        yield (
            f"{result['bundle']} {result['precision']}",
            f"{result['builder_seconds']:.1f}",
            f"{again['warm_builder_seconds']:.1f}" if again else "",
            f"{again['ratio']:.3f}" if again else "",
            f"{result['seconds']:.1f}",
            ", ".join(
                f"{layers[kind]} {kind}" for kind in layers if layers[kind] and kind != "heavy"
            ),
            f"{sum(stage['plan_bytes'] for stage in result['stages']) / 2**20:.1f}",
        )


def _section(name: str, result: Any) -> list[str]:
    """The rows of a case with everything that is in them, under what holds for all of them."""
    if result is None or not ("rows" in result or "free_bytes_after" in result):
        return []
    facts = [
        f"{_words(key)} {_cell(value)}"
        for key, value in result.items()
        if key != "rows" and value is not None
    ]
    lines = ["", f"## {name[:1].upper()}{name[1:]}", "", "; ".join(facts) + "."]
    rows = result.get("rows", ())
    if not rows:
        return lines
    return [
        *lines,
        "",
        *_table([_words(key) for key in rows[0]], [map(_cell, row.values()) for row in rows]),
    ]


def _words(key: str) -> str:
    return key.replace("_", " ")


def _cell(value: Any) -> str:
    """A value of a row: times in ms as median (p10 to p90), ratios as that of the medians (...)."""
    if isinstance(value, dict) and "median_seconds" in value:
        parts = (1e3 * value[f"{part}_seconds"] for part in ("median", "p10", "p90"))
        return "{:.3f} ms ({:.3f} to {:.3f})".format(*parts)
    if isinstance(value, dict) and "of_medians" in value:
        return "{of_medians:.3f} ({p10:.3f} {median:.3f} {p90:.3f})".format(**value)
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)} {_cell(part)}" for key, part in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _table(columns: Sequence[str], rows: Sequence[Any]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
