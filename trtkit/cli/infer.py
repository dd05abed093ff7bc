"""trtkit infer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from trtkit.cli.options import CacheDirOption, Codec, FormatOption, WorkersOption, WorkspaceOption
from trtkit.cli.output import note


def infer(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Photos, folders, quoted globs.")
    ],
    bundle: Annotated[
        str | None, typer.Option(help="Bundle to use. Default: the one built last.")
    ] = None,
    tail: Annotated[
        list[str] | None,
        typer.Option(help="Which model of the bundle, or all. Again for more. Default: its first."),
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to show for each photo.")] = 5,
    cache: Annotated[
        Literal["auto", "always", "off"],
        typer.Option(help="The prefix cache; auto: where it is faster."),
    ] = "auto",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="The same as --cache off.")] = False,
    cache_dtype: Annotated[
        Literal["fp16", "fp32", "int8"], typer.Option(help="What feature maps are stored as.")
    ] = "fp16",
    cache_codec: Annotated[Codec, typer.Option(help="How feature maps are compressed.")] = "none",
    cache_size: Annotated[str, typer.Option(help="Disk space for the cache.")] = "10G",
    cache_dir: CacheDirOption = None,
    gpu_cache: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="GPU memory for feature maps that stay on the card."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Photos per run of the engines. Default: the bundle's.")
    ] = None,
    workers: WorkersOption = None,
    format: FormatOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the predictions there.")
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write counts and times there, as JSON.")
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Classify photos.

    The feature maps of photos seen before come from the prefix cache where reading them is faster:
    such photos are neither decoded nor run through the prefix again. Exits with 1 when some photos
    could not be read.
    """
    from trtkit.api.infer import open_bundle
    from trtkit.cli.predictions import choose_format, destination, follow, summary, write_stats
    from trtkit.errors import listed
    from trtkit.sizes import parse_size
    from trtkit.store.cache import CacheOptions

    options = CacheOptions(
        mode="off" if no_cache else cache,
        dtype=cache_dtype,
        codec=cache_codec,
        size=parse_size(cache_size),
        folder=cache_dir,
    )
    on_card = parse_size(gpu_cache, "the GPU cache") if gpu_cache is not None else 0
    pipeline = open_bundle(bundle, tail=tail, cache=options, gpu_cache=on_card, workspace=workspace)
    if bundle is None or tail is None:
        names = listed(stage.name for stage in pipeline.tails)
        note(f"Using {names} of the bundle {pipeline.manifest.name}.")
    if pipeline.manifest.unverified:
        note(
            f"The engines of {pipeline.manifest.name} are unverified: where they were built, "
            f"{pipeline.manifest.unverified}. `trtkit build --bundle {pipeline.manifest.name}` here "
            "builds and verifies them."
        )
    for name in pipeline.meaningless:
        note(f"The weights of {name} are random: its labels mean nothing.")
    kept = pipeline.cache
    if kept is not None and kept.reads and kept.store.read_only_reason:
        note(f"The cache is only read, not written. {kept.store.read_only_reason}")
    if options.mode == "always" and pipeline.cut is None:
        note(f"The bundle {pipeline.manifest.name} is not split: there is nothing to cache.")
    with pipeline:
        results = pipeline.infer(paths, top=top, batch=batch, workers=workers)
        with destination(output) as stream:
            form = choose_format(format, output)
            follow(results, form, stream, tails=len(pipeline.tails))
    report = pipeline.stats_json(options.mode)
    note(summary(report))
    if pipeline.cache_decision is not None:
        note(pipeline.cache_decision.why)
    if pipeline.stats.dropped:
        note(
            f"{pipeline.stats.dropped} feature maps were not kept: the cache takes {cache_size}, and "
            "only what its disk can write in time."
        )
    if stats is not None:
        write_stats(stats, json.dumps(report, indent=2) + "\n")
    raise typer.Exit(1 if pipeline.stats.failed else 0)
