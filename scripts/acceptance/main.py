"""The run: options, what has to be here, step by step, the report."""

from __future__ import annotations

import argparse
import fnmatch
import gc
import importlib.util
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from measure.common import progress

from acceptance.context import Context, LeftOut
from acceptance.environment import clocks, command_line, commit, identity, now
from acceptance.journal import DONE, FAILED, LEFT_OUT, Journal, Record, write_whole
from acceptance.report import markdown, print_targets
from acceptance.settings import MODEL_SETS, Settings
from acceptance.steps import Step, plan
from acceptance.targets import targets
from trtkit.engines.cuda import device
from trtkit.engines.registry import BACKENDS, get_backend
from trtkit.errors import TrtkitError, listed

log = logging.getLogger("acceptance")

ALL_DONE, SOME_FAILED, CANNOT_RUN = 0, 1, 2
OUT_OF_TIME = "the time was up"


def main(arguments: Sequence[str], description: str | None = None) -> int:
    """Exit status: 0 when no step failed, 1 when some did, 2 when nothing can be run."""
    parser = _parser(description)
    options = parser.parse_args(arguments)
    # What was imported is no garbage: looking for some before each measurement need not pass it.
    gc.freeze()
    try:
        settings = _settings(options)
        context = _context(settings, options, arguments)
        started = time.monotonic()
        for step in plan(settings.set):
            _do(context, step, started + settings.minutes * 60)
        found = targets(settings, context.journal)
        context.journal.save(targets=[asdict(one) for one in found])
        print_targets(context.journal, found)
        if options.markdown is not None:
            write_whole(options.markdown, markdown(context.journal, found))
    except TrtkitError as error:
        progress(str(error))
        return CANNOT_RUN
    finally:
        gc.unfreeze()
    return SOME_FAILED if context.journal.failed() else ALL_DONE


def _do(context: Context, step: Step, deadline: float) -> None:
    """Do a step, or say why not, and write it down."""
    journal = context.journal
    there = step.makes is None or step.makes(context).exists()
    if journal.done(step.name) and there:
        progress(f"{step.name}: done before")
        return
    reason = _reason_to_leave(context, step, deadline)
    if reason is not None:
        progress(f"{step.name}: left out, {reason}")
        if step.name not in journal.steps or journal.steps[step.name].state == LEFT_OUT:
            journal.write(step.name, Record(LEFT_OUT, reason=reason))
        return
    progress(f"{step.name} ...")
    record = _run(context, step)
    journal.write(step.name, record)
    # What a failed step held of the device goes before the next one begins.
    gc.collect()
    seconds = f"{record.seconds:.1f} s" if record.seconds is not None else ""
    progress(f"{step.name}: {record.state}, {record.reason or seconds}")


def _run(context: Context, step: Step) -> Record:
    before, started = clocks(), time.monotonic()
    result, state, reason = None, DONE, None
    try:
        result = step.run(context)
    except LeftOut as why:
        state, reason = LEFT_OUT, str(why)
    except TrtkitError as error:
        state, reason = FAILED, str(error)
    except Exception as error:
        # Whatever goes wrong in a step, the others go on.
        log.exception("%s", step.name)
        state, reason = FAILED, f"{type(error).__name__}: {error}"
    return Record(
        state=state,
        seconds=time.monotonic() - started,
        date=now(),
        commit=context.commit,
        result=result,
        reason=reason,
        clocks=None if before is None else {"before": before, "after": clocks()},
    )


def _reason_to_leave(context: Context, step: Step, deadline: float) -> str | None:
    if any(fnmatch.fnmatch(step.name, pattern) for pattern in context.settings.skip):
        return "--skip names it"
    for needed in step.needs:
        if not context.journal.done(needed):
            record = context.journal.steps.get(needed)
            failed = record is not None and record.state == FAILED
            return f"it needs {needed!r}, which {'failed' if failed else 'was left out'}"
    return OUT_OF_TIME if time.monotonic() >= deadline else None


def _context(settings: Settings, options: argparse.Namespace, arguments: Sequence[str]) -> Context:
    """Everything that a run needs, or a TrtkitError that names what is missing."""
    missing = [] if importlib.util.find_spec("onnx") else ["onnx, which building needs, is missing"]
    problem = device.missing()
    if problem is not None:
        missing.append(problem.rstrip("."))
    libraries = [entry for entry in BACKENDS if entry.needs_gpu]
    if options.backend != "auto":
        libraries = [entry for entry in libraries if entry.name == options.backend]
    installed = [entry for entry in libraries if entry.installed]
    if not installed:
        names = " or ".join(entry.name for entry in libraries)
        missing.append(f"{names} is not installed (`{libraries[0].install}`)")
    if missing:
        raise TrtkitError(f"The acceptance run cannot run here: {'; '.join(missing)}.")
    backend, card = get_backend(installed[0].name), device.current_card()
    if backend.cannot_run() is not None:
        raise TrtkitError(f"The acceptance run cannot run here: {backend.cannot_run()}.")
    journal = Journal.open(
        settings.out, {**identity(backend, card), **settings.decisive()}, fresh=options.fresh
    )
    context = Context(settings, journal, backend, card, commit())
    _check_models(context)
    if options.fresh and settings.made.exists():
        # Made by an earlier run of this script and by nothing else.
        shutil.rmtree(settings.made)
    settings.made.mkdir(parents=True, exist_ok=True)
    journal.runs.append(
        {"date": now(), "command": command_line(arguments), "minutes": settings.minutes}
    )
    journal.save()
    return context


def _check_models(context: Context) -> None:
    """Raise TrtkitError when no model is there and none can be exported."""
    models = context.settings.set.models
    missing = [model for model in models if not context.export(model).is_file()]
    if len(missing) == len(models) and context.python_to_export is None:
        raise TrtkitError(
            f"None of {listed(models)} is in {context.settings.workspace / 'export'}, and there is no "
            "torch here to export them with; copy exports there (`trtkit export MODEL --weights "
            "random` on a machine that has torch), or give --torch-python."
        )


def _settings(options: argparse.Namespace) -> Settings:
    out = options.out.resolve()
    workspace = options.workspace or out.with_name(f"{out.stem}-workspace")
    if out.is_dir():
        raise TrtkitError(f"--out {options.out} is a folder; give the name of a file.")
    for name, folder in (("photos", options.photos), ("int8-exports", options.int8_exports)):
        if folder is not None and not folder.is_dir():
            raise TrtkitError(f"--{name} {folder} is no folder; give one that exists.")
    return Settings(
        out=out,
        workspace=workspace.resolve(),
        models=options.models,
        batches=options.batches,
        minutes=options.minutes,
        tuned=options.tuned,
        own_tactics=options.own_tactics,
        torch_python=options.torch_python,
        torch_compile=options.torch_compile,
        int8_exports=options.int8_exports.resolve() if options.int8_exports else None,
        photos=options.photos.resolve() if options.photos else None,
        skip=tuple(options.skip),
    )


def _batches(text: str) -> tuple[int, ...]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise argparse.ArgumentTypeError(f"{text} is no list of batch sizes such as 1,8,32")
    return tuple(sizes)


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu_acceptance",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="FILE", required=True, help="the results, JSON; there: go on")
    add("--markdown", type=Path, metavar="FILE", help="the results as a page, too")
    add("--workspace", type=Path, metavar="DIR", help="exports and what is made; beside FILE")
    add("--models", choices=MODEL_SETS, default="full", help="small: to try the script itself")
    add("--batches", type=_batches, default=(1, 8, 32, 128), help="default: 1,8,32,128")
    add("--minutes", type=float, default=8.0, help="no step starts later; default: 8")
    add("--fresh", action="store_true", help="forget the results in FILE and what was built")
    add("--backend", choices=[entry.name for entry in BACKENDS if entry.needs_gpu], default="auto")
    add("--tuned", action="store_true", help="tune for each batch size besides; builds take longer")
    add(
        "--own-tactics", action="store_true", help="TensorRT 8 without cuDNN's and cuBLAS's kernels"
    )
    add("--torch-python", metavar="PYTHON", help="an interpreter that has torch and torchvision")
    add("--torch-compile", action="store_true", help="measure torch.compile as well")
    add("--int8-exports", type=Path, metavar="DIR", help="quantized exports, NAME.onnx each")
    add(
        "--photos", type=Path, metavar="DIR", help="JPEG files; default: those of scripts/photos.py"
    )
    add("--skip", nargs="+", default=[], metavar="STEP", help="steps to leave out; * may be in it")
    return parser
