"""The run: what has to be here, case by case, the report."""

from __future__ import annotations

import fnmatch
import gc
import importlib.util
import logging
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from measure.report import now

from acceptance.cases import made, needs, plan, run, targets
from acceptance.context import AcceptanceSettings, Case, Context, LeftOut, parse, run_python
from acceptance.device import commit, identity
from acceptance.journal import DONE, FAILED, LEFT_OUT, TARGET_COLUMNS, Journal, Record, markdown
from trtkit.atomic import whole_file
from trtkit.benchmark import clocks
from trtkit.benchmark.clocks import Clocks
from trtkit.cli.output import note, print_table
from trtkit.cli.progress import terminal_reporter
from trtkit.engines.cuda import device
from trtkit.engines.registry import BACKENDS, get_backend
from trtkit.errors import TrtkitError, listed
from trtkit.serialization import to_plain

log = logging.getLogger("acceptance")

ALL_DONE, SOME_FAILED, CANNOT_RUN = 0, 1, 2
ANSWER_SECONDS = 60.0
CAN_EXPORT = "import torch, torchvision, onnx, onnxscript, safetensors"


def main(arguments: Sequence[str], description: str | None = None) -> int:
    """Exit status: 0 when no case failed, 1 when some did, 2 when nothing can be run."""
    try:
        with terminal_reporter():
            return _run(parse(arguments, description), arguments)
    except TrtkitError as error:
        note(str(error))
        return CANNOT_RUN


def _run(settings: AcceptanceSettings, arguments: Sequence[str]) -> int:
    context = _context(settings)
    names = [Path(text).name if text.startswith("/") else text for text in arguments]
    command = shlex.join(["scripts/gpu_acceptance", *names])
    journal = context.journal
    journal.runs.append({"date": now(), "command": command, "minutes": settings.minutes})
    journal.save(settings.out)
    deadline = time.monotonic() + settings.minutes * 60
    for case in plan(settings.set):
        _do(context, case, deadline)
    journal.targets = list(targets(context))
    journal.save(settings.out)
    print_table(TARGET_COLUMNS, journal.target_rows())
    for state in (FAILED, LEFT_OUT):
        reasons = [f"  {name}: {reason}" for name, reason in journal.reasons(state).items()]
        print("\n".join(["", f"{state.capitalize()}:", *reasons] if reasons else ()))
    if settings.markdown is not None:
        with whole_file(settings.markdown) as temporary:
            temporary.write_text(markdown(journal), encoding="utf-8")
    return SOME_FAILED if journal.reasons(FAILED) else ALL_DONE


def _do(context: Context, case: Case, deadline: float) -> None:
    """Measure a case, or say why not, and write it down."""
    journal, name, file = context.journal, case.name, made(context, case)
    if journal.done(name) and (file is None or file.exists()):
        note(f"{name}: done before")
        return
    reason = _reason_to_leave(context, case, deadline)
    if reason is not None:
        note(f"{name}: left out, {reason}")
        if journal.state(name) == LEFT_OUT:
            journal.write(context.settings.out, name, Record(LEFT_OUT, reason=reason))
        return
    note(f"{name} ...")
    record = _measure(context, case)
    journal.write(context.settings.out, name, record)
    # Free the device memory of a failed case before the next one begins.
    gc.collect()
    note(f"{name}: {record.state}, {record.reason or f'{record.seconds:.1f} s'}")


def _measure(context: Context, case: Case) -> Record:
    cores, started = os.sched_getaffinity(0), time.monotonic()
    before, result, state, reason = clocks.read(cores), None, DONE, None
    try:
        result = run(context, case)
    except LeftOut as error:
        state, reason = LEFT_OUT, str(error)
    except TrtkitError as error:
        state, reason = FAILED, str(error)
    except Exception as error:
        # Whatever goes wrong in a case, the others go on.
        log.exception("%s", case.name)
        state, reason = FAILED, f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    watched = to_plain(Clocks.between(before, clocks.read(cores), len(cores)))
    return Record(state, seconds, now(), context.commit, result, reason, watched)


def _reason_to_leave(context: Context, case: Case, deadline: float) -> str | None:
    if any(fnmatch.fnmatch(case.name, pattern) for pattern in context.settings.skip):
        return "--skip names it"
    for needed in needs(case, context.settings.set):
        if not context.journal.done(needed.name):
            failed = context.journal.state(needed.name) == FAILED
            return f"it needs {needed.name!r}, which {'failed' if failed else 'was left out'}"
    return "the time was up" if time.monotonic() >= deadline else None


def _context(settings: AcceptanceSettings) -> Context:
    """Everything that a run needs, or a TrtkitError that names what is missing."""
    libraries = [entry for entry in BACKENDS if entry.needs_gpu]
    if settings.backend != "auto":
        libraries = [entry for entry in libraries if entry.name == settings.backend]
    installed = [entry for entry in libraries if entry.installed]
    names = " or ".join(entry.name for entry in libraries)
    problems = (
        None if importlib.util.find_spec("onnx") else "onnx, which building needs, is missing",
        device.missing(),
        None if installed else f"{names} is not installed (`{libraries[0].install}`)",
        get_backend(installed[0].name).cannot_run() if installed else None,
    )
    missing = dict.fromkeys(problem.rstrip(".") for problem in problems if problem)
    if missing:
        raise TrtkitError(f"The acceptance run cannot run here: {'; '.join(missing)}.")
    backend = get_backend(installed[0].name)
    identities = {**identity(backend), **settings.decisive}
    journal = Journal.open(settings.out, identities, fresh=settings.fresh)
    context = Context(settings, journal, backend, commit())
    _check_exports(context)
    if settings.fresh and settings.made.exists():
        # Made by an earlier run of this script and by nothing else.
        shutil.rmtree(settings.made)
    settings.made.mkdir(parents=True, exist_ok=True)
    return context


def _check_exports(context: Context) -> None:
    """Raise TrtkitError if there are no exports and none can be made."""
    models = [model for bundle in context.settings.set.split for model in bundle.models]
    if any(context.export(model).is_file() for model in models):
        return
    run_python(
        context.python,
        ["-c", CAN_EXPORT],
        purpose=f"None of {listed(models)} is in {context.settings.workspace / 'export'}, and exporting",
        seconds=ANSWER_SECONDS,
        instead="copy exports there (`trtkit export MODEL --weights random` on a machine that has torch), "
        "or give --torch-python",
    )
