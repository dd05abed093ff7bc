"""`trtkit profile`: what each block of an exported model takes, and what each cut costs and saves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtkit.building.profiles import DEFAULT_BATCH, DEFAULT_PHOTOS, ProfileSettings, kept_profile
from trtkit.building.request import DEFAULT_PRECISION
from trtkit.engines.options import BuildOptions
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.costs.profile import Profile
    from trtkit.quantization.photos import Int8Options


def profile(
    name: str,
    *,
    precision: str | None = None,
    backend: str = "auto",
    batch: int = DEFAULT_BATCH,
    options: BuildOptions | Mapping[str, Any] | None = None,
    photos: int = DEFAULT_PHOTOS,
    again: bool = True,
    int8: Int8Options | None = None,
    workspace: str | Path | None = None,
) -> Profile:
    """Measure the exported model `name` block by block on a backend of this machine.

    At `precision` (`fp32`, the default, `fp16`, `int8`), in batches of `batch` images; `photos` of
    `calibration/` are decoded and cached, or generated images where it holds none. The result is kept
    in the workspace; `again=False` returns the kept one if model, machine, backend and options are the
    same. `int8`: how to calibrate a model without Q/DQ pairs, by default on `calibration/`. Raises
    TrtkitError.

        profile = trtkit.profile("resnet50", precision="fp16")
        for cut in profile.cuts:
            print(cut.cut, cut.block, profile.saved(cut))
    """
    built = options if isinstance(options, BuildOptions) else BuildOptions().changed(options or {})
    settings = ProfileSettings(precision or DEFAULT_PRECISION, backend, batch, built, photos, int8)
    return kept_profile(Workspace.at(workspace), name, settings, again=again)
