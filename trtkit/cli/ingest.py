"""trtkit ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trtkit.cli.options import Codec, JsonOption, StoreOption, WorkspaceOption
from trtkit.cli.output import note, print_json


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Video files, folders of frames, URLs, camera numbers; CAMERA=SOURCE names the camera.",
        ),
    ],
    store: StoreOption = Path("video-store"),
    bundle: Annotated[
        str | None,
        typer.Option(help="Bundle to index with. Default: the store's, or the last built."),
    ] = None,
    tail: Annotated[
        str | None, typer.Option(help="The cheap model of the bundle. Default: its first.")
    ] = None,
    top: Annotated[int, typer.Option(help="Best classes of an object that are indexed.")] = 4,
    clusters: Annotated[
        str | None,
        typer.Option(
            help="Distance of objects that are alike, 0 to 2, or off. Default: tuned, or 0.3."
        ),
    ] = None,
    motion: Annotated[
        Literal["mog2", "knn", "gmg"], typer.Option(help="The background model.")
    ] = "mog2",
    motion_width: Annotated[int, typer.Option(help="Pixels of the frames it looks at.")] = 480,
    detector: Annotated[
        Path | None,
        typer.Option(metavar="FILE.onnx", help="Find objects by this network, not by motion."),
    ] = None,
    detector_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Its least score, 0 to 1.")
    ] = 0.3,
    detector_class: Annotated[
        list[str] | None, typer.Option(help="Only objects of this class of it; can be repeated.")
    ] = None,
    min_size: Annotated[int, typer.Option(help="Pixels; smaller objects are dropped.")] = 20,
    margin: Annotated[float, typer.Option(help="Around an object, as a share of it.")] = 0.2,
    pictures: Annotated[int, typer.Option(help="Pictures that are kept of each object.")] = 3,
    picture_side: Annotated[
        int, typer.Option(help="Pixels; larger pictures are scaled down to it.")
    ] = 320,
    lost: Annotated[
        float, typer.Option(help="Seconds for which an object may be out of sight.")
    ] = 2.0,
    least: Annotated[float, typer.Option(help="Seconds; what is seen for less is dropped.")] = 0.5,
    travel: Annotated[
        float, typer.Option(help="Lengths of itself; what moves less is dropped.")
    ] = 0.5,
    segment: Annotated[
        float, typer.Option(help="Seconds of footage that are committed at once.")
    ] = 60.0,
    maps: Annotated[
        Literal["all", "representatives", "none"], typer.Option(help="Whose feature maps are kept.")
    ] = "all",
    map_dtype: Annotated[
        Literal["fp16", "fp32"], typer.Option(help="What feature maps are stored as.")
    ] = "fp16",
    map_codec: Annotated[Codec, typer.Option(help="How feature maps are compressed.")] = "none",
    map_size: Annotated[str, typer.Option(help="Disk space for the maps of each source.")] = "50G",
    frame_rate: Annotated[
        float | None,
        typer.Option(help="Frames a second of folders and of files without times. Default: 25."),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(
            help="Time zone of the cameras, as Europe/Berlin or +01:00. Default: as a source states."
        ),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of footage after which it ends, for streams.")
    ] = None,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Index footage for `trtkit query`.

    Moving objects are tracked, and the best pictures of each go through the bundle's prefix and cheap
    model; their classes and feature maps are stored. Whatever stopped it, the same command continues
    after the last commit. Exits with 1 when some sources could not be read.
    """
    from trtkit.api.ingest import ingest as run
    from trtkit.api.ingest import ingest_options
    from trtkit.cli.footage import ingest_reporter, ingest_summary
    from trtkit.sizes import parse_size

    options = ingest_options(
        store, clusters=clusters, motion=motion, motion_width=motion_width, min_size=min_size,
        detector_confidence=detector_confidence, detector_classes=tuple(detector_class or ()),
        margin=margin, pictures=pictures, picture_side=picture_side, lost_seconds=lost,
        least_seconds=least, least_travel=travel, segment_seconds=segment, top=top, maps=maps,
        map_dtype=map_dtype, map_codec=map_codec,
    )  # fmt: skip
    with ingest_reporter():
        report = run(
            sources, store=store, bundle=bundle, tail=tail, options=options,
            map_bytes=parse_size(map_size, "feature maps"), frame_rate=frame_rate,
            seconds=duration, detector=detector, zone=zone, workspace=workspace,
        )  # fmt: skip
    for line in ingest_summary(report):
        note(line)
    if json:
        print_json(report.to_json())
    raise typer.Exit(1 if report.failed else 0)
