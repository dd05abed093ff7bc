"""What was measured against what it must be. A figure that was not measured stays empty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from acceptance.journal import DONE, FAILED, Journal
from acceptance.settings import Settings
from acceptance.steps import (
    HOST_TIME,
    LEAKS,
    LOOPS,
    MAIN,
    PRECISIONS,
    build_name,
    compute_name,
    parity_name,
    rebuild_name,
    torch_name,
)
from trtkit.building.verification import LIMITS

CHAIN_AT_MOST = 1.02
CHAIN_BATCHES = (1, 8, 32)
LOOP_AT_LEAST = 0.98
TIMES_FASTER = {"fp16": 4.0, "int8": 6.0}
EAGER = "eager fp32"
SUBMIT_MICROSECONDS = 50.0
WARM_AT_MOST = 0.25
# The driver gives memory out in pieces of this size, so that less than one is not seen.
LOST_BYTES = 2 * 2**20

# A figure, and whether it is good enough.
Found = tuple[str, bool] | None


@dataclass(frozen=True)
class Target:
    """`measured` is empty and `met` None where nothing was measured; `verdict` then says why."""

    what: str
    must_be: str
    measured: str
    met: bool | None
    verdict: str


def targets(settings: Settings, journal: Journal) -> list[Target]:
    """All targets in the order of the steps that measure them."""
    return [
        *_chain(settings, journal),
        *_host_time(settings, journal),
        *_loops(settings, journal),
        *_torch(settings, journal),
        *_parity(settings, journal),
        *_warm(settings, journal),
        _leaks(journal),
    ]


def _target(journal: Journal, step: str, what: str, must_be: str, found: Found) -> Target:
    if found is not None:
        measured, met = found
        return Target(what, must_be, measured, met, "met" if met else "NOT met")
    record = journal.steps.get(step)
    if record is None or record.state not in (DONE, FAILED):
        verdict = "left out"
    else:
        verdict = "failed" if record.state == FAILED else "not measured"
    return Target(what, must_be, "", None, verdict)


def _chain(settings: Settings, journal: Journal) -> Iterator[Target]:
    for pair in settings.set.pairs:
        step = compute_name(pair.model, MAIN)
        for batch in (size for size in settings.batches if size in CHAIN_BATCHES):
            rows = [row for row in _rows(journal, step) if row["batch"] == batch]
            # With CUDA graphs where they can be recorded, which is how a bundle runs.
            best = max(rows, key=lambda row: row["graphs"], default=None)
            found: Found = None
            if best is not None:
                ratio = best["ratio"]
                text = f"{ratio['of_medians']:.3f} ({ratio['p10']:.3f} to {ratio['p90']:.3f})"
                found = text, ratio["of_medians"] <= CHAIN_AT_MOST
            what = f"Device time, chain to unsplit, {pair.model} {MAIN}, batch {batch}"
            yield _target(journal, step, what, f"at most {CHAIN_AT_MOST}", found)


def _host_time(settings: Settings, journal: Journal) -> Iterator[Target]:
    for batch in (size for size in (1, 8) if size <= max(settings.batches)):
        row = _one(_rows(journal, HOST_TIME), batch=batch)
        found: Found = None
        if row is not None:
            taken, pixels = row["submit_median_microseconds"], row["pixels_median_microseconds"]
            found = f"{taken:.1f} us ({pixels:.1f} of it pixels)", taken < SUBMIT_MICROSECONDS
        what = f"Host time of a batch, batch {batch}"
        yield _target(journal, HOST_TIME, what, f"under {SUBMIT_MICROSECONDS:g} us", found)


def _loops(settings: Settings, journal: Journal) -> Iterator[Target]:
    for batch in settings.batches:
        row = _one(_rows(journal, LOOPS), batch=batch)
        found: Found = None
        if row is not None:
            ratio = row["ratio"]
            text = f"{ratio['of_medians']:.3f} ({ratio['p10']:.3f} to {ratio['p90']:.3f})"
            found = text, ratio["of_medians"] >= LOOP_AT_LEAST
        what = f"Throughput, our loop to a bare one, batch {batch}"
        yield _target(journal, LOOPS, what, f"at least {LOOP_AT_LEAST}", found)


def _torch(settings: Settings, journal: Journal) -> Iterator[Target]:
    for precision, wanted in TIMES_FASTER.items():
        for bundle in (bundle for bundle in settings.set.bundles if bundle.cut):
            step = torch_name(bundle, precision)
            # One line for all that was not measured.
            sizes = settings.batches if journal.done(step) else ()
            for model in bundle.models:
                what = f"Times faster than torch eager fp32, {model} {precision}"
                for batch in sizes:
                    row = _one(_rows(journal, step), model=model, batch=batch, mode=EAGER)
                    times = row["times_faster"] if row else None
                    found: Found = None if times is None else (f"{times:.2f}", times >= wanted)
                    line = f"{what}, batch {batch}"
                    yield _target(journal, step, line, f"at least {wanted:g}", found)
                if not sizes:
                    yield _target(journal, step, what, f"at least {wanted:g}", None)


def _parity(settings: Settings, journal: Journal) -> Iterator[Target]:
    for precision in PRECISIONS:
        limits = LIMITS[precision]
        int8 = precision == "int8"
        must_be = (
            f"at least {limits.agreement:.0%}" if int8 else f"at most {limits.relative_error:g}"
        )
        for bundle in (bundle for bundle in settings.set.bundles if bundle.cut):
            step = parity_name(bundle, precision)
            for tail in bundle.models:
                rows = [row for row in _rows(journal, step) if row["tail"] == tail]
                found: Found = None
                if rows and int8:
                    least = min(row["agreement"] for row in rows)
                    found = f"{least:.1%}", least >= limits.agreement
                elif rows:
                    # An infinite error is null in JSON.
                    errors = [row["relative_error"] for row in rows]
                    worst = None if None in errors else max(errors)
                    found = ("not finite", False) if worst is None else (
                        f"{worst:.1e}", worst <= limits.relative_error
                    )  # fmt: skip
                kind = "equal top-1 classes" if int8 else "relative error"
                what = f"Parity, {kind}, {tail} {precision}"
                yield _target(journal, step, what, must_be, found)


def _warm(settings: Settings, journal: Journal) -> Iterator[Target]:
    for precision in PRECISIONS:
        for bundle in settings.set.bundles:
            step = rebuild_name(bundle, precision)
            if precision == "int8" and not journal.done(build_name(bundle, precision)):
                continue
            result = journal.result(step)
            found: Found = None
            if result is not None:
                found = f"{result['ratio']:.3f}", result["ratio"] <= WARM_AT_MOST
            what = f"Build time, warm timing cache to cold, {bundle.name} {precision}"
            yield _target(journal, step, what, f"at most {WARM_AT_MOST}", found)


def _leaks(journal: Journal) -> Target:
    result = journal.result(LEAKS)
    found: Found = None
    what = "Device memory lost by bindings made and dropped"
    if result is not None:
        few, many = sorted(map(int, result["free_bytes_after"]))[1:]
        what += f", from number {few} to {many}"
        found = f"{result['lost_bytes'] / 2**20:.1f} MiB", result["lost_bytes"] <= LOST_BYTES
    return _target(journal, LEAKS, what, f"at most {LOST_BYTES // 2**20} MiB", found)


def _rows(journal: Journal, step: str) -> list[Mapping[str, Any]]:
    result = journal.result(step)
    return [] if result is None else result["rows"]


def _one(rows: list[Mapping[str, Any]], **wanted: Any) -> Mapping[str, Any] | None:
    """The row with these values."""
    fitting = (row for row in rows if all(row[name] == value for name, value in wanted.items()))
    return next(fitting, None)
