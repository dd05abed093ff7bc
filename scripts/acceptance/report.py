"""The results in words: a table of targets for the terminal, everything as markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from measure.common import Table, print_table

from acceptance.journal import Journal
from acceptance.targets import Target


def print_targets(journal: Journal, targets: Sequence[Target]) -> None:
    """The targets, then what failed and what was left out."""
    rows = [(one.what, one.must_be, one.measured, one.verdict) for one in targets]
    print_table(Table("Targets", ("what", "must be", "measured", ""), tuple(rows)))
    for title, steps in (("Failed", journal.failed()), ("Left out", journal.left_out())):
        if steps:
            print(f"\n{title}:")
            for name, reason in steps.items():
                print(f"  {name}: {reason}")


def markdown(journal: Journal, targets: Sequence[Target]) -> str:
    """The page for docs/results/."""
    lines = ["# Measured: on a GPU", "", *_machine(journal), "", "## Targets", ""]
    rows = [
        (
            one.what,
            one.must_be,
            one.measured,
            f"**{one.verdict}**" if one.met is False else one.verdict,
        )
        for one in targets
    ]
    lines += _table(("what", "must be", "measured", ""), rows)
    for table in _tables(journal):
        lines += ["", f"## {table.title}", "", *_table(table.columns, table.rows)]
    for title, steps in (("Failed", journal.failed()), ("Left out", journal.left_out())):
        if steps:
            lines += ["", f"## {title}", "", *(f"- {name}: {why}" for name, why in steps.items())]
    return "\n".join(lines) + "\n"


def _machine(journal: Journal) -> Iterator[str]:
    for run in journal.runs:
        yield f"    {run['command']}"
    yield ""
    found = journal.result("environment")
    if found is None:
        known = journal.identity.items()
        yield ", ".join(f"{name} {value}" for name, value in known if value is not None) + "."
    else:
        driver = f"driver {found['driver']}, " if found["driver"] else ""
        commit = f" ({found['commit']})" if found["commit"] else ""
        yield (
            f"{found['date']}: {found['card']}, compute capability {found['compute_capability']}, "
            f"{driver}CUDA {found['cuda']}, {found['tensorrt']} {found['tensorrt_version']}, "
            f"cuda-python {found['cuda_python']}, Python {found['python']}, trtkit {found['trtkit']}"
            f"{commit}; {found['processor']}, {found['cores']} cores, {found['system']}."
        )
    commits = {record.commit for record in journal.steps.values() if record.commit}
    if len(commits) > 1:
        yield f"The steps were done by several states of trtkit: {', '.join(sorted(commits))}."
    yield ""
    yield (
        "Times are medians of rounds in which the competitors take turns, with their 10th and 90th "
        "percentile; a ratio is that of the medians, behind it p10, median and p90 of the rounds. "
        "Weights are random."
    )


def _tables(journal: Journal) -> Iterator[Table]:
    builds = list(_builds(journal))
    if builds:
        columns = ("bundle", "builder s", "warm s", "ratio", "whole build s", "heavy layers", "MiB")
        yield Table("Builds", columns, tuple(builds))
    for name in journal.steps:
        result = journal.result(name)
        maker = MAKERS.get(name) or MAKERS.get(name.split(" ", 1)[0])
        if result is not None and maker is not None:
            yield maker(f"{name[:1].upper()}{name[1:]}", result)


def _builds(journal: Journal) -> Iterator[tuple[str, ...]]:
    for name in journal.steps:
        result = journal.result(name)
        if result is None or not name.startswith("build "):
            continue
        again = journal.result(f"re{name}") or {}
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
            ", ".join(f"{layers[k]} {k}" for k in layers if layers[k] and k != "heavy"),
            f"{sum(stage['plan_bytes'] for stage in result['stages']) / 2**20:.1f}",
        )


def _compute(title: str, result: Any) -> Table:
    columns = ("batch", "graphs", "chain ms", "unsplit ms", "ratio", "by round")
    rows = [
        (
            str(row["batch"]),
            "yes" if row["graphs"] else "no",
            _ms(row["chain"]),
            _ms(row["unsplit"]),
            *_ratio(row["ratio"]),
        )
        for row in result["rows"]
    ]
    return Table(f"{title}: device time of one batch", columns, tuple(rows))


def _loops(title: str, result: Any) -> Table:
    why = result["trtexec"]
    columns = ("batch", "ours img/s", "bare img/s", "trtexec img/s", "ours to bare", "by round")
    rows = [
        (
            str(row["batch"]),
            f"{row['ours_images_per_second']:,.0f}",
            f"{row['bare_images_per_second']:,.0f}",
            _number(row["trtexec_images_per_second"], ",.0f"),
            *_ratio(row["ratio"]),
        )
        for row in result["rows"]
    ]
    without = f"; no trtexec: {why}" if why else ""
    graphs = "" if result["graphs_recorded"] else ", without CUDA graphs"
    return Table(f"{title}: {result['model']} unsplit{graphs}{without}", columns, tuple(rows))


def _host_time(title: str, result: Any) -> Table:
    columns = ("batch", "submit us", "p10", "p90", "of it pixels us")
    names = ("submit_median", "submit_p10", "submit_p90", "pixels_median")
    rows = [
        (str(row["batch"]), *(f"{row[f'{name}_microseconds']:.1f}" for name in names))
        for row in result["rows"]
    ]
    return Table(f"{title} of a batch, {result['model']}", columns, tuple(rows))


def _end_to_end(title: str, result: Any) -> Table:
    modes = list(dict.fromkeys(row["mode"] for row in result["rows"]))
    speed = {(row["batch"], row["mode"]): row["images_per_second"] for row in result["rows"]}
    rows = [
        (str(batch), *(_number(speed.get((batch, mode)), ",.0f") for mode in modes))
        for batch in dict.fromkeys(row["batch"] for row in result["rows"])
    ]
    what = f"{result['model']}, {result['photos']} JPEG files ({result['source']})"
    return Table(f"{title}: images per second, {what}", ("batch", *modes), tuple(rows))


def _torch(title: str, result: Any) -> Table:
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    columns = ("model", "batch", "torch", "torch ms", "ours ms", "times faster")
    rows = [
        (
            row["model"],
            str(row["batch"]),
            row["mode"] + (f" ({row['error']})" if row["error"] else ""),
            _ms(row["torch"]),
            _ms(row["ours"]),
            _number(row["times_faster"], ".2f"),
        )
        for row in result["rows"]
    ]
    return Table(f"{title}: device time of one batch ({versions})", columns, tuple(rows))


def _parity(title: str, result: Any) -> Table:
    columns = ("tail", "by", "images", "relative error", "equal top-1", "ties")
    rows = [
        (
            row["tail"],
            row["by"],
            str(row["images"]),
            _number(row["relative_error"], ".1e", "not finite"),
            f"{row['agreement']:.1%}",
            str(row["ties"]),
        )
        for row in result["rows"]
    ]
    without = f" ({result['photos']})" if result["photos"] else ""
    return Table(title + without, columns, tuple(rows))


def _leaks(title: str, result: Any) -> Table:
    rows = [(count, f"{free:,}") for count, free in result["free_bytes_after"].items()]
    return Table(f"{title}: free device memory", ("bindings", "bytes"), tuple(rows))


MAKERS = {
    "compute": _compute,
    "loops": _loops,
    "host time": _host_time,
    "end to end": _end_to_end,
    "torch": _torch,
    "parity": _parity,
    "leaks": _leaks,
}


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _ms(timing: Any) -> str:
    if timing is None:
        return ""
    middle, low, high = (timing[f"{name}_seconds"] * 1e3 for name in ("median", "p10", "p90"))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _ratio(ratio: Any) -> tuple[str, str]:
    rounds = " ".join(f"{ratio[name]:.3f}" for name in ("p10", "median", "p90"))
    return f"{ratio['of_medians']:.3f}", rounds


def _number(value: float | None, form: str, otherwise: str = "") -> str:
    return otherwise if value is None else format(value, form)
