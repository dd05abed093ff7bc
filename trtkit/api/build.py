"""`trtkit build`: split, convert, build, verify, publish a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trtkit.building.assemble import BuildReport, build_bundle
from trtkit.building.request import DEFAULT_VERIFY_IMAGES, BuildSettings, Calibration
from trtkit.engines.options import BuildOptions
from trtkit.names import names_of
from trtkit.workspace import Workspace


def build(
    names: str | Sequence[str] = (),
    *,
    cut: int | str | None = None,
    hit_rate: float | None = None,
    storage_per_image: int | None = None,
    precision: str | None = None,
    backend: str = "auto",
    options: BuildOptions | Mapping[str, Any] | None = None,
    bundle_name: str | None = None,
    embeddings: bool = False,
    verify_images: int = DEFAULT_VERIFY_IMAGES,
    min_agreement: float | None = None,
    calibration: str | Path | None = None,
    calibration_images: int | None = None,
    calibration_method: str | None = None,
    workspace: str | Path | None = None,
) -> BuildReport:
    """Build the bundle of the exported models `names` (all of the workspace by default).

    One prefix up to block `cut` and a tail for each model; cut 0 does not split, and `auto` measures
    and takes the cut with the least expected time, for a `hit_rate` (0 to 1, 0.8 by default) and feature
    maps of at most `storage_per_image` bytes. `embeddings` divides each tail into two engines, so that
    the input of its last layer can be had (`Runner.submit`). `precision`: `fp32` (the default), `fp16`
    or `int8`. The chain is compared with the unsplit fp32 model on `verify_images` photos of
    `calibration/`, or on generated images where it holds none; `min_agreement` (0 to 1) replaces the
    precision's own limit on equal top-1 classes, and for int8 is proved with a confidence of 95%. For
    int8 of a model without Q/DQ pairs, ranges are measured on `calibration_images` (512) photos of
    `calibration` (the workspace's calibration/) by `calibration_method` (`entropy`, `max` or `auto`, the
    better one), and other photos decide which layers return to float until `min_agreement` holds. The
    bundle appears as a whole or not at all; the
    same request again builds nothing.

    A `bundle_name` without `names` and `cut` rebuilds that bundle for this machine from the ONNX it
    keeps: for its own backend if that can build here, with its own precision and options by default.
    `options` as a dict changes those that it names. Raises TrtkitError.

        report = trtkit.build(["resnet50", "resnet152"], cut=7, precision="fp16")
        report.folder  # engines/resnet50+resnet152-cut7-fp16
    """
    settings = BuildSettings(
        cut=cut,
        hit_rate=hit_rate,
        storage_per_image=storage_per_image,
        precision=precision,
        backend=backend,
        options=options,
        bundle_name=bundle_name,
        embeddings=embeddings,
        verify_images=verify_images,
        min_agreement=min_agreement,
        calibration=Calibration(calibration, calibration_images, calibration_method),
    )
    return build_bundle(Workspace.at(workspace), names_of(names), settings)
