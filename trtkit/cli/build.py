"""trtkit build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from trtkit.cli.output import note, print_json, print_rows
from trtkit.cli.progress import terminal_reporter
from trtkit.errors import TrtkitError

if TYPE_CHECKING:
    from trtkit.building.assemble import BuildReport
    from trtkit.bundle import Manifest
    from trtkit.engines.options import BatchRange
    from trtkit.stages import Stage


def build(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Exported models. Default: all of the workspace."),
    ] = None,
    cut: Annotated[
        str | None,
        typer.Option(metavar="N", help="Cut after block N; 0 for no split, auto to measure."),
    ] = None,
    hit_rate: HitRateOption = None,
    storage_per_image: StorageOption = None,
    fp32: Fp32Option = False,
    fp16: Fp16Option = False,
    int8: Int8Option = False,
    backend: Annotated[
        str, typer.Option(help="Which library makes the engines: TensorRT where there is a GPU.")
    ] = "auto",
    batch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MIN,OPT,MAX",
            help="Images per run; OPT is infer's default. Again, or as one number, for sizes that "
            "TensorRT tunes besides. Default: 1,8,64.",
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            help="Name of the bundle. Default: the models', the cut and the precision. Without NAME "
            "and --cut that bundle is rebuilt for this machine from the ONNX it keeps."
        ),
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings", help="Divide each tail where its last layer takes the embedding."
        ),
    ] = False,
    verify_images: Annotated[
        int, typer.Option(help="Images to compare on: of calibration/, or generated.")
    ] = 16,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            help="Least share of equal top-1 classes, 0 to 1; for int8 to be proved with a confidence "
            "of 95%. Default: the precision's."
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Photos to calibrate int8 on. Default: the workspace's calibration/.",
        ),
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option(help="Photos to calibrate int8 on at most. Default: 512.")
    ] = None,
    calibration_method: Annotated[
        str | None,
        typer.Option(
            help="How ranges are found: entropy, max, or auto (the default), the better one."
        ),
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let fp32 layers round to TF32 (TensorRT).")
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option("--hardware-compatible", help="Plans for every card from Ampere on."),
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Plans for later TensorRT versions too.")
    ] = False,
    workspace_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Device memory for kernels, such as 512M. Default: all."),
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(help="0 (a fast build) to 5 (a fast engine).")
    ] = None,
    dla: Annotated[
        int | None, typer.Option(help="Build for this deep learning accelerator of a Jetson.")
    ] = None,
    own_tactics: Annotated[
        bool, typer.Option("--own-tactics", help="TensorRT 8 without cuDNN's and cuBLAS's kernels.")
    ] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Split, build and verify models into engines/BUNDLE.

    Several models whose prefixes are the same share one prefix engine.
    """
    from trtkit.api import build as api
    from trtkit.sizes import parse_size

    memory = parse_size(workspace_memory, "workspace memory") if workspace_memory else None
    storage = parse_size(storage_per_image, "storage per image") if storage_per_image else None
    options = {
        "profiles": [_profile(text) for text in batch] if batch else None,
        "tf32": tf32 or None,
        "hardware_compatible": hardware_compatible or None,
        "version_compatible": version_compatible or None,
        "workspace_memory": memory,
        "optimization_level": optimization_level,
        "dla": dla,
        "own_tactics": own_tactics or None,
    }
    with terminal_reporter():
        report = api.build(
            names or (),
            cut=_cut(cut),
            hit_rate=hit_rate,
            storage_per_image=storage,
            precision=chosen_precision(fp32=fp32, fp16=fp16, int8=int8),
            backend=backend,
            options={name: value for name, value in options.items() if value is not None},
            bundle_name=bundle,
            embeddings=embeddings,
            verify_images=verify_images,
            min_agreement=min_agreement,
            calibration=calibration,
            calibration_images=calibration_images,
            calibration_method=calibration_method,
            workspace=workspace,
        )
    manifest = report.manifest
    for sentence in report.why:
        note(sentence)
    if report.up_to_date:
        note(f"{report.folder} is up to date (built {manifest.created}): nothing was done.")
    if json:
        print_json(report.to_json())
        return
    _print_notes(manifest)
    print_rows([_row(report, stage) for stage in manifest.stages])


def _row(report: BuildReport, stage: Stage) -> dict[str, object]:
    comparison = report.manifest.verified["tails"].get(stage.name)
    return {
        "bundle": report.folder,
        "stage": stage.name,
        "after": stage.parent or "image",
        "takes": ", ".join(map(str, stage.inputs)),
        "gives": ", ".join(map(str, stage.outputs)),
        "error": f"{comparison['relative_error']:.1e}" if comparison else "",
        "same top-1": f"{comparison['agreement']:.1%}" if comparison else "",
        "heavy layers": _heavy(stage.engine),
        "file": stage.file,
    }


def _print_notes(manifest: Manifest) -> None:
    if manifest.computes != manifest.precision:
        note(f"{manifest.precision} on {manifest.backend} computes in {manifest.computes}.")
    if manifest.verified["source"] == "generated":
        note(
            "Compared on generated images: put photos in calibration/ to compare on those instead."
        )
    if manifest.unverified:
        note(
            f"Unverified: {manifest.unverified}, so the engines were built but never run; what was "
            "compared are their graphs on ONNX Runtime. Build again where there is a GPU."
        )


def _heavy(record: dict[str, Any]) -> str:
    """What the heavy layers compute in, by the engine inspector or else the parsed network."""
    counts = record.get("inspector") or record.get("network") or {}
    layers = [f"{counts[name]} {name}" for name in ("int8", "fp16", "fp32") if counts.get(name)]
    if counts.get("unknown"):
        layers.append(f"{counts['unknown']} the inspector does not tell")
    return ", ".join(layers)


def _cut(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _profile(text: str) -> BatchRange:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) in (1, 3) and all(part.isdecimal() for part in parts):
        low, best, high = map(int, parts * 3 if len(parts) == 1 else parts)
        return low, best, high
    raise TrtkitError(
        f"--batch {text} is not a range; write MIN,OPT,MAX, such as 1,8,64, or one number for that size "
        "alone."
    )
