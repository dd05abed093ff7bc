"""A measurement is a case: a function whose keyword parameters are its options.

    @case("--model resnet18 --cut 2 --rounds 3")
    def chain(lab: Lab, *, model="resnet152", cut=7, rounds=30) -> None:
        "What is measured, in one sentence."
        competitors = {"unsplit": ..., "chain": ...}
        lab.contest(f"{model}, cut {cut}", competitors, rounds, most={"chain": 1.02})

A case makes its subjects ready in `lab.stock`, lets competitors take turns and reports figures with
their targets; a missed one is a result too. An option has the type of its default, a whole number
without one, several values with a tuple. The words of `@case` are the options of a quick trial.
"""

import argparse
import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from report import Result, Samples, machine, markdown, quantity, write
from stock import Stock

from trtkit.benchmark.protocol import ProtocolSettings, take_turns
from trtkit.benchmark.statistics import PairedRatio, Summary
from trtkit.cli.progress import terminal_reporter
from trtkit.cpu import own_process

Measure = Callable[..., None]
MODULES = (
    "mainjob",
    "store",
    "cuts",
    "transfer",
    "contests",
    "int8",
    "video",
    "endurance",
    "people",
    "tracks",
    "tree",
    "published",
)
CASES: dict[str, Measure] = {}
CELLS = ("what", "measured", "compared", "target", "met")
# Options of every case, which the command on record leaves out.
PLACES = {
    "--out": "FILE.json that keeps the run, with a page FILE.md",
    "--label": "name of the run in that file; default: that of the case",
    "--workspace": "folder for photos, exports, trainings and bundles, which the next run uses again "
    "(remove it when trtkit changed); default: a temporary one",
}


@dataclass
class Lab:
    """Where a case works and what it has measured; `data` becomes its JSON, beside the figures."""

    stock: Stock
    data: Result = field(default_factory=dict)
    figures: list[Result] = field(default_factory=list)

    def figure(self, what: str, measured: str, compared="", target="", met=None) -> None:
        """Report a figure; `met` is None where it has no target."""
        cells = (what, measured, compared, target, met)
        self.figures.append(dict(zip(CELLS, cells, strict=True)))

    def contest(self, title, competitors, rounds, warmup=1, **targets) -> dict[str, float]:
        """Let functions take turns and compare them with the first one."""
        turns = take_turns(competitors, ProtocolSettings.fixed(rounds, warmup), title=title)
        return self.compare(title, turns.samples, **targets)

    def contests(self, title, competitors, images, batch, rounds, **options) -> None:
        """Let functions of images take turns at each batch size; `images` are as many as the largest."""
        for size in batch:
            own = {name: partial(run, images[:size]) for name, run in competitors.items()}
            self.contest(f"{title}, batch {size}", own, rounds, **options)

    def rounds(self, title, competitors, rounds) -> dict[str, dict[str, list[float]]]:
        """Let functions that measure several things take turns: samples by thing and competitor."""
        rows: dict[str, list[Mapping[str, float]]] = {name: [] for name in competitors}
        turns = {
            name: partial(lambda name: rows[name].append(competitors[name]()), name)
            for name in competitors
        }
        take_turns(turns, ProtocolSettings.fixed(rounds, warmup=0), title=title)
        things = next(iter(rows.values()))[0]
        return {own: {name: [row[own] for row in rows[name]] for name in rows} for own in things}

    def compare(
        self, title: str, samples: Samples, base="", unit="seconds", most=(), least=(), under=()
    ) -> dict[str, float]:
        """Report medians and ratios to `base`, the first by default; the ratios of the medians.

        `most` and `least` are targets of the ratios, `under` of the medians, by competitor.
        """
        base = base or next(iter(samples))
        summaries = {name: Summary.of(own) for name, own in samples.items()}
        paired = {name: PairedRatio.of(own, samples[base]) for name, own in samples.items()}
        ratios = {name: ratio.of_medians for name, ratio in paired.items()}
        for name, ratio in ratios.items():
            target: tuple[Any, ...] = ()
            if name in most:
                target = (f"at most {most[name]:g} times", ratio <= most[name])
            elif name in least:
                target = (f"at least {least[name]:g} times", ratio >= least[name])
            elif name in under:
                target = (f"under {1e3 * under[name]:g} ms", summaries[name].median < under[name])
            # A thousandth needs more digits than a ratio near 1.
            form, own = ".3f" if ratio >= 0.01 else ".2g", paired[name]
            compared = f"{ratio:{form}} times {base} ({own.p10:{form}} to {own.p90:{form}})"
            compared = "" if name == base else compared
            self.figure(f"{title}: {name}", quantity(samples[name], unit), compared, *target)
        self.data.setdefault("results", {})[title] = {
            "unit": unit,
            "base": base,
            "medians": {name: own.median for name, own in summaries.items()},
            "p10_p90": {name: (own.p10, own.p90) for name, own in summaries.items()},
            "ratios": ratios,
            "samples": samples,
        }
        return ratios


def case(quick: str) -> Callable[[Measure], Measure]:
    """Make a function a case, with its name on the command line."""

    def register(measure: Measure) -> Measure:
        measure.quick = quick
        CASES[measure.__name__.replace("_", "-")] = measure
        return measure

    return register


def load_cases() -> dict[str, Measure]:
    """All cases, by name."""
    for module in MODULES:
        import_module(module)
    return CASES


def parser_of(name: str) -> argparse.ArgumentParser:
    """The options of a case, from its signature, and those of every case."""
    about = f"{inspect.getdoc(CASES[name])} See docs/results/{name}.md."
    parser = argparse.ArgumentParser(prog=f"python scripts/measure {name}", description=about)
    for option, default in inspect.getfullargspec(CASES[name]).kwonlydefaults.items():
        several = isinstance(default, tuple)
        kind = type(default[0] if several else default)
        how: dict[str, Any] = {"action": "store_true"}
        if kind is not bool:
            how = {"type": kind if kind in (float, str) else int, "default": default}
            how |= {"nargs": "+" if several else None, "help": "default: %(default)s"}
        parser.add_argument(f"--{option.replace('_', '-')}", **how)
    for option, meaning in PLACES.items():
        parser.add_argument(option, metavar=option.strip("-").upper(), help=meaning)
    return parser


def run(name: str, arguments: Sequence[str]) -> None:
    """Measure a case, print its figures and keep them."""
    own_process()
    options = vars(parser_of(name).parse_args(arguments))
    out, label, folder = (options.pop(option.strip("-")) for option in PLACES)
    label, title = label or name, str(inspect.getdoc(CASES[name])).rstrip(".")
    pairs = zip(("", *arguments), arguments, strict=False)
    words = [word for before, word in pairs if not {before, word} & {*PLACES}]
    result = machine(["python", "scripts/measure", name, *words])
    with ExitStack() as stack:
        stack.enter_context(terminal_reporter())
        folder = folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="measure-"))
        Path(folder).mkdir(parents=True, exist_ok=True)
        lab = Lab(Stock(Path(folder).resolve()))
        CASES[name](lab, **options)
    result |= {**lab.data, "figures": lab.figures}
    print(markdown({label: result}))
    if out is not None:
        write(Path(out), label, title, result)
