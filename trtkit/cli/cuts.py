"""trtkit cuts."""

from __future__ import annotations

from typing import Annotated

import typer

from trtkit.cli.options import JsonOption, WorkspaceOption
from trtkit.cli.output import print_json, print_table
from trtkit.sizes import human_bytes


def cuts(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An exported model.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """List where NAME may be cut: block, tensor, shape and fp32 bytes per image, FLOPs before it."""
    from trtkit.api import cuts as api

    points = api.cuts(name, workspace=workspace)
    if json:
        print_json(points)
        return
    print_table(
        ["cut", "block", "tensor", "shape", "bytes", "FLOPs before"],
        [
            [
                point.cut,
                point.block,
                point.tensor,
                " x ".join(map(str, point.shape)),
                human_bytes(point.bytes),
                "unknown" if point.flops_share is None else f"{point.flops_share:.1%}",
            ]
            for point in points
        ],
    )
