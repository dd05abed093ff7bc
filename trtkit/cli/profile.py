"""trtkit profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtkit.cli.options import (
    Fp16Option,
    Fp32Option,
    HitRateOption,
    Int8Option,
    JsonOption,
    StorageOption,
    WorkspaceOption,
    chosen_precision,
)
from trtkit.cli.output import note, print_json, print_table, put
from trtkit.cli.progress import terminal_reporter

if TYPE_CHECKING:
    from trtkit.costs.profile import CutCost, Profile


def profile(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An exported model.")],
    fp32: Fp32Option = False,
    fp16: Fp16Option = False,
    int8: Int8Option = False,
    backend: Annotated[
        str, typer.Option(help="Whose engines are measured: TensorRT where there is a GPU.")
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Photos per run of the engines.")] = 1,
    photos: Annotated[int, typer.Option(help="Photos to decode and cache.")] = 16,
    hit_rate: HitRateOption = None,
    storage_per_image: StorageOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw time saved against bytes stored there."),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Measure every block of a model, and what each cut costs and saves."""
    from trtkit.api import profile as api
    from trtkit.building.cut import best_cut
    from trtkit.costs.choice import CutGoal
    from trtkit.sizes import parse_size

    storage = parse_size(storage_per_image, "storage per image") if storage_per_image else None
    goal = CutGoal.of(hit_rate, storage)
    if plot is not None:
        from trtkit.plotting import check_picture

        check_picture(plot)
    with terminal_reporter():
        report = api.profile(
            name,
            precision=chosen_precision(fp32=fp32, fp16=fp16, int8=int8),
            backend=backend,
            batch=batch,
            photos=photos,
            workspace=workspace,
        )
    choice = best_cut(report, goal)
    note(
        f"{report.model}, {report.precision} on {report.backend}, batch {report.batch}, "
        f"{report.threads} threads, {report.photos}: {_ms(report.whole)} ms a photo, decoding "
        f"{_ms(report.decode)} ms."
    )
    for sentence in choice.why:
        note(sentence)
    if plot is not None:
        from trtkit.costs.plot import draw_profile

        draw_profile(report, choice.cut, plot)
    if json:
        print_json({**report.to_json(), "choice": {"cut": choice.cut, "why": choice.why}})
        return
    _print(report)


def _print(report: Profile) -> None:
    print_table(
        [
            "cut",
            "block",
            "block ms",
            "shape",
            "stored KiB",
            "lz4 KiB",
            "zstd KiB",
            "read ms",
            "from disk ms",
            "tail ms",
            "warm ms",
            "saved ms",
            "break-even hit rate",
        ],
        [
            *(_row(report, cut) for cut in report.cuts),
            ["", "head", _ms(report.blocks[-1].seconds), *[""] * 10],
        ],
    )
    put()
    print_table(
        ["layers", "number", "ms", "share"],
        [
            [kind.kind, kind.layers, _ms(kind.seconds), f"{kind.seconds / report.whole:.1%}"]
            for kind in report.kinds
        ],
    )


def _row(report: Profile, cut: CutCost) -> list[object]:
    from trtkit.costs.profile import USUAL

    usual = cut.stored[USUAL]
    even = report.break_even(cut)
    return [
        cut.cut,
        cut.block,
        _ms(report.blocks[cut.cut - 1].seconds),
        " x ".join(map(str, cut.shape)),
        *(f"{cut.stored[form].bytes / 1024:.0f}" for form in (USUAL, "fp16 lz4", "fp16 zstd")),
        _ms(usual.read),
        "" if usual.read_cold is None else _ms(usual.read_cold),
        _ms(cut.tail),
        _ms(report.warm(cut)),
        _ms(report.saved(cut)),
        "never" if even is None else f"{even:.1%}",
    ]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"
