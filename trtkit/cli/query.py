"""trtkit query."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtkit.cli.options import (
    ExpensiveOption,
    FormatOption,
    StoreBundleOption,
    StoreOption,
    WorkspaceOption,
)
from trtkit.cli.output import note


def query(
    label: Annotated[str, typer.Argument(metavar="CLASS", help="The class to look for.")],
    store: StoreOption = Path("video-store"),
    camera: Annotated[
        list[str] | None, typer.Option(help="Only this camera; can be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="Only from then: seconds, H:MM:SS or an ISO date.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only until then.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many answers.")] = None,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Of the expensive model, 0 to 1.")
    ] = 0.0,
    top: Annotated[
        int | None, typer.Option(help="Best classes of the cheap model that count. Default: tuned.")
    ] = None,
    gap: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Join objects that are at most so far apart in time."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds after which no more objects are classified."),
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Neither use nor store verdicts.")
    ] = False,
    bundle: StoreBundleOption = None,
    tail: ExpensiveOption = None,
    format: FormatOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the answers there.")
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page of pictures and paths there."),
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Cut a clip of each answer into that folder."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell what the answer took, step by step.")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Say when each object of a class can be seen in ingested footage.

    The index gives the candidates, and the bundle's expensive model classifies one object of each of
    their clusters, from its stored feature map. Its verdicts are remembered.
    """
    from trtkit.api.query import query as ask
    from trtkit.cli.footage import explained, follow_answers, summary
    from trtkit.cli.predictions import choose_format, destination
    from trtkit.video.clips import clip_folder

    if clip is not None:
        clip_folder(clip)
    with ask(
        label, store=store, bundle=bundle, tail=tail, camera=camera or (), since=since, until=until,
        limit=limit, min_confidence=min_confidence, top=top, gap=gap, seconds=budget,
        remember=not forget, workspace=workspace,
    ) as answers:  # fmt: skip
        with destination(output) as stream:
            written = follow_answers(answers, choose_format(format, output), stream)
        sentence = summary(answers.explanation, label)
        note(sentence)
        forgotten = answers.explanation.judged.forgotten
        if forgotten is not None:
            note(f"Not all of this is remembered. {forgotten}")
        clips = None if clip is None else answers.clips(written, clip)
        for line in () if clips is None else clips.sentences():
            note(line)
        if gallery is not None:
            answers.gallery(written, gallery, sentence, clips)
        if explain:
            for line in explained(answers.explanation):
                note(line)
    raise typer.Exit(1 if clips is not None and clips.failed else 0)
