"""`trtkit cuts`: where an exported model may be cut."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.extras import require
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.graph.boundaries import CutPoint


def cuts(name: str, *, workspace: str | Path | None = None) -> list[CutPoint]:
    """Every cut of the exported model `name`: block, tensor, shape and bytes per image, FLOPs before.

    Raises TrtkitError when there is no such export or it is damaged.
    """
    require("train", "Listing cuts", "onnx")
    from trtkit.graph.boundaries import cut_points
    from trtkit.graph.card import ModelCard
    from trtkit.graph.files import read_model

    path = Workspace.at(workspace).find_export(name)
    model = read_model(path)
    return cut_points(model, ModelCard.read_from(model, path.stem))
