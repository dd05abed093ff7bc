"""The options that several commands have, and the choices some of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trtkit.errors import TrtkitError

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        metavar="DIR",
        envvar="TRTKIT_WORKSPACE",
        help="The folder with export/, engines/ and calibration/. Default: the current one.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
CacheDirOption = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        envvar="TRTKIT_CACHE",
        help="Where the prefix cache lies. Default: trtkit/features in the user's cache folder.",
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Decoding threads. Default: one per core.")
]
StoreOption = Annotated[
    Path,
    typer.Option(
        metavar="DIR", envvar="TRTKIT_STORE", help="The footage store. Default: ./video-store."
    ),
]
StoreBundleOption = Annotated[str | None, typer.Option(help="Default: the bundle of the store.")]
ExpensiveOption = Annotated[
    str | None, typer.Option(help="The expensive model. Default: the bundle's other one.")
]
Codec = Literal["none", "lz4", "zstd"]
FormatOption = Annotated[
    Literal["table", "jsonl", "csv"] | None,
    typer.Option(help="Default: by the ending of --output, else table."),
]

Fp32Option = Annotated[bool, typer.Option("--fp32", help="fp32 engines (the default).")]
Fp16Option = Annotated[bool, typer.Option("--fp16", help="fp16 engines.")]
Int8Option = Annotated[
    bool, typer.Option("--int8", help="int8 engines, calibrated on photos; the rest fp16.")
]
HitRateOption = Annotated[
    float | None,
    typer.Option(help="To choose a cut: share of photos seen again, 0 to 1. Default: 0.8."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="To choose a cut: what a feature map may take, as 200K."),
]


def chosen_precision(**flags: bool) -> str | None:
    """The precision whose flag is set, None when none is. Raises TrtkitError for several."""
    chosen = [name for name, is_set in flags.items() if is_set]
    if len(chosen) > 1:
        names = " and ".join(f"--{name}" for name in chosen)
        raise TrtkitError(f"{names} exclude each other; choose one, or run it twice.")
    return chosen[0] if chosen else None
