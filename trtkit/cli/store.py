"""trtkit store info|verify|upgrade|compact|export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trtkit.cli.options import JsonOption, StoreBundleOption, StoreOption, WorkspaceOption
from trtkit.cli.output import note, print_json, print_table
from trtkit.sizes import human_bytes

app = typer.Typer(no_args_is_help=True, help="Show a footage store, check it, export it.")


@app.command()
def info(store: StoreOption = Path("video-store"), json: JsonOption = False) -> None:
    """Show what the store holds."""
    from trtkit.api.store import store_info
    from trtkit.video.times import clock

    held = store_info(store)
    if json:
        print_json(held)
        return
    rows = [
        [
            source.row.camera, source.row.location, clock(source.row.end_us),
            "complete" if source.row.complete else "not complete", source.objects, source.pictures,
            source.clusters, source.gaps, human_bytes(source.map_bytes),
        ]
        for source in held.sources
    ]  # fmt: skip
    columns = [
        "camera", "source", "up to", "state", "objects", "pictures", "clusters", "gaps", "feature maps",
    ]  # fmt: skip
    print_table(columns, rows)
    if held.identity is not None:
        note(f"Indexed by {held.identity.tail} of {held.identity.bundle}.")
    note(
        f"{sum(held.verdicts.values())} verdicts of {len(held.verdicts)} models are remembered; the "
        f"database has {human_bytes(held.database_bytes)}."
    )


@app.command()
def verify(store: StoreOption = Path("video-store"), json: JsonOption = False) -> None:
    """Read everything and check its consistency. Exits with 1 when something is wrong."""
    from trtkit.api.store import store_verify

    report = store_verify(store)
    if json:
        print_json(report)
    for problem in report.problems:
        note(problem)
    state = f"{len(report.problems)} problems" if report.problems else "all is well"
    note(f"{report.objects} objects and {report.maps} feature maps were read: {state}.")
    raise typer.Exit(1 if report.problems else 0)


@app.command()
def upgrade(store: StoreOption = Path("video-store")) -> None:
    """Move a store of an earlier format forward; earlier versions cannot read it any more."""
    from trtkit.api.store import store_upgrade

    note(f"The footage store in {store} has format {store_upgrade(store)}.")


@app.command()
def compact(
    store: StoreOption = Path("video-store"),
    bundle: StoreBundleOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Free disk space and delete the verdicts of models that the bundle no longer has."""
    from trtkit.api.store import store_compact

    freed = store_compact(store, bundle=bundle, workspace=workspace)
    note(f"The database is {human_bytes(freed)} smaller.")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    store: StoreOption = Path("video-store"),
    bundle: StoreBundleOption = None,
    tail: Annotated[
        str | None, typer.Option(help="Whose verdicts. Default: the bundle's other model.")
    ] = None,
    format: Annotated[
        Literal["parquet", "mot"] | None,
        typer.Option(
            help="Rows of objects, or of tracks. Default: mot for FILE.txt, else parquet."
        ),
    ] = None,
    camera: Annotated[str | None, typer.Option(help="Whose tracks, with --format mot.")] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Write every object as a row of a Parquet file, or the tracks of a source as MOTChallenge rows."""
    from trtkit.api.store import store_export

    count = store_export(
        path, store=store, bundle=bundle, tail=tail, format=format, camera=camera,
        workspace=workspace,
    )  # fmt: skip
    note(f"{count} objects in {path}.")
