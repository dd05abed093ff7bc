"""trtkit cache info|verify|clear."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from trtkit.cli.options import CacheDirOption, JsonOption
from trtkit.cli.output import note, print_json, print_table
from trtkit.sizes import human_bytes

app = typer.Typer(no_args_is_help=True, help="Look at the prefix cache, check it, empty it.")


@app.command()
def info(cache_dir: CacheDirOption = None, json: JsonOption = False) -> None:
    """Show what the cache holds."""
    from trtkit.api.cache import cache_info

    found = cache_info(cache_dir)
    if json:
        print_json(asdict(found))
        return
    kinds = "; ".join(
        f"{what} " + ", ".join(f"{kind} {count}" for kind, count in counts.items())
        for what, counts in (("dtype", found.entries_by_dtype), ("codec", found.entries_by_codec))
        if counts
    )
    print_table(
        ["folder", "feature maps", "segments", "size", "limit", "kinds"],
        [
            [
                found.folder,
                found.entries,
                found.segments,
                human_bytes(found.bytes),
                human_bytes(found.max_bytes),
                kinds or "none",
            ]
        ],
    )


@app.command()
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Forget the damaged ones.")] = False,
    cache_dir: CacheDirOption = None,
    json: JsonOption = False,
) -> None:
    """Read every feature map and check it. Exits with 1 when some are damaged."""
    from trtkit.api.cache import cache_verify

    report = cache_verify(cache_dir, repair=repair)
    if json:
        print_json(asdict(report))
    else:
        for damage in report.damaged:
            note(f"{damage.key.hex()} in segment {damage.segment}: {damage.reason}")
        print_table(
            ["folder", "feature maps", "size", "damaged", "forgotten"],
            [
                [
                    report.folder,
                    report.entries,
                    human_bytes(report.bytes),
                    len(report.damaged),
                    report.repaired,
                ]
            ],
        )
    raise typer.Exit(1 if len(report.damaged) > report.repaired else 0)


@app.command()
def clear(cache_dir: CacheDirOption = None, json: JsonOption = False) -> None:
    """Delete every feature map."""
    from trtkit.api.cache import cache_clear

    report = cache_clear(cache_dir)
    if json:
        print_json(asdict(report))
    else:
        note(
            f"Deleted {report.segments} segments, {human_bytes(report.bytes)}, in {report.folder}."
        )
