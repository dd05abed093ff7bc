"""`trtkit cuts`: where an exported model may be cut."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.building.sources import load_model
from trtkit.extras import require
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.graph.boundaries import CutPoint


def cuts(name: str, *, workspace: str | Path | None = None) -> list[CutPoint]:
    """Every cut of the exported model `name`: block, tensor, shape and bytes per image, FLOPs before.

    Raises TrtkitError when the export is missing or damaged.

        for point in trtkit.cuts("resnet50"):
            print(point.cut, point.block, point.bytes)
    """
    require("train", "Listing cuts", "onnx")
    from trtkit.graph.boundaries import cut_points

    path = Workspace.at(workspace).find_export(name)
    model = load_model(path.stem, path)
    return cut_points(model.graph, model.card)
