"""The options that several commands have, and the choices some of them take."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

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


class CacheModeChoice(str, Enum):
    auto = "auto"
    always = "always"
    off = "off"


class CacheDtypeChoice(str, Enum):
    fp16 = "fp16"
    fp32 = "fp32"


class CodecChoice(str, Enum):
    none = "none"
    lz4 = "lz4"
    zstd = "zstd"


class FormatChoice(str, Enum):
    table = "table"
    jsonl = "jsonl"
    csv = "csv"
