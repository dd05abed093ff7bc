"""trtkit cache info|verify|clear."""

from __future__ import annotations

from typing import Annotated

import typer

from trtkit.cli.options import CacheDirOption, JsonOption
from trtkit.cli.output import note, print_json, print_rows
from trtkit.cli.progress import terminal_reporter
from trtkit.sizes import human_bytes

app = typer.Typer(no_args_is_help=True, help="Look at the prefix cache, check it, empty it.")


@app.command()
def info(cache_dir: CacheDirOption = None, json: JsonOption = False) -> None:
    """Show what the cache holds."""
    from trtkit.api.cache import cache_info

    cache = cache_info(cache_dir)
    if json:
        print_json(cache)
        return
    kinds = "; ".join(
        f"{what} " + ", ".join(f"{kind} {count}" for kind, count in counts.items())
        for what, counts in (("dtype", cache.entries_by_dtype), ("codec", cache.entries_by_codec))
        if counts
    )
    row = {
        "folder": cache.folder,
        "feature maps": cache.entries,
        "segments": cache.segments,
        "size": human_bytes(cache.bytes),
        "limit": human_bytes(cache.max_bytes),
        "kinds": kinds or "none",
    }
    print_rows([row])


@app.command()
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Forget the damaged ones.")] = False,
    cache_dir: CacheDirOption = None,
    json: JsonOption = False,
) -> None:
    """Read every feature map and check it. Exits with 1 when some are damaged."""
    from trtkit.api.cache import cache_verify

    with terminal_reporter():
        report = cache_verify(cache_dir, repair=repair)
    if json:
        print_json(report)
    else:
        for damage in report.damaged:
            note(f"{damage.key.hex()} in segment {damage.segment}: {damage.reason}")
        row = {
            "folder": report.folder,
            "feature maps": report.entries,
            "size": human_bytes(report.bytes),
            "damaged": len(report.damaged),
            "forgotten": report.repaired,
        }
        print_rows([row])
    raise typer.Exit(1 if len(report.damaged) > report.repaired else 0)


@app.command()
def clear(cache_dir: CacheDirOption = None, json: JsonOption = False) -> None:
    """Delete every feature map."""
    from trtkit.api.cache import cache_clear

    report = cache_clear(cache_dir)
    if json:
        print_json(report)
    else:
        note(
            f"Deleted {report.segments} segments, {human_bytes(report.bytes)}, in {report.folder}."
        )
