"""trtkit build."""

from __future__ import annotations

from typing import Annotated

import typer

from trtkit.cli.options import JsonOption, WorkspaceOption
from trtkit.cli.output import note, print_json, print_table
from trtkit.errors import TrtkitError


def build(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Exported models. Default: all of the workspace."),
    ] = None,
    cut: Annotated[
        str | None, typer.Option(metavar="N", help="Cut after block N; 0 for no split.")
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="fp32 engines (the default).")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="fp16 engines.")] = False,
    backend: Annotated[str, typer.Option(help="Which library makes the engines.")] = "auto",
    batch: Annotated[
        str, typer.Option(metavar="MIN,OPT,MAX", help="Images per run; OPT is infer's default.")
    ] = "1,8,64",
    bundle: Annotated[
        str | None,
        typer.Option(help="Name of the bundle. Default: the models', the cut and the precision."),
    ] = None,
    verify_images: Annotated[
        int, typer.Option(help="Images to compare on: of calibration/, or generated.")
    ] = 16,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Split, build and verify models into engines/BUNDLE.

    Several models whose prefixes are the same share one prefix engine.
    """
    from trtkit.api import build as api

    report = api.build(
        names or (),
        cut=_cut(cut),
        precision=_precision(fp32, fp16),
        backend=backend,
        batch=_batch(batch),
        bundle_name=bundle,
        verify_images=verify_images,
        workspace=workspace,
        progress=note,
    )
    manifest = report.manifest
    if report.up_to_date:
        note(f"{report.folder} is up to date (built {manifest.created}): nothing was done.")
    if json:
        print_json(report.to_json())
        return
    if manifest.computes != manifest.precision:
        note(f"{manifest.precision} on {manifest.backend} computes in {manifest.computes}.")
    if manifest.verified["source"] == "generated":
        note(
            "Compared on generated images: put photos in calibration/ to compare on those instead."
        )
    print_table(
        ["bundle", "stage", "after", "takes", "gives", "error", "same top-1", "file"],
        [
            [
                report.folder,
                stage.name,
                stage.parent or "image",
                ", ".join(map(str, stage.inputs)),
                ", ".join(map(str, stage.outputs)),
                *_verified(manifest.verified["tails"].get(stage.name)),
                stage.file,
            ]
            for stage in manifest.stages
        ],
    )


def _verified(comparison: dict[str, float] | None) -> tuple[str, str]:
    if comparison is None:
        return "", ""
    return f"{comparison['relative_error']:.1e}", f"{comparison['agreement']:.1%}"


def _cut(text: str | None) -> int:
    if text is not None and text.isdecimal():
        return int(text)
    asked = "No --cut was given"
    if text is not None:
        why = ", which this version cannot choose" if text == "auto" else ""
        asked = f"--cut {text} was asked for{why}"
    raise TrtkitError(
        f"{asked}; give the number of the block to cut after (`trtkit cuts NAME` lists them), or 0 "
        "for no split."
    )


def _precision(fp32: bool, fp16: bool) -> str:
    if fp32 and fp16:
        raise TrtkitError("--fp32 and --fp16 were both asked for; choose one, or build twice.")
    return "fp16" if fp16 else "fp32"


def _batch(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) == 3 and all(part.strip().isdecimal() for part in parts):
        return int(parts[0]), int(parts[1]), int(parts[2])
    raise TrtkitError(f"--batch {text} was given; write MIN,OPT,MAX, such as 1,8,64.")
