"""`trtkit doctor`: what this machine can do and what is missing."""

from __future__ import annotations

from pathlib import Path

from trtkit.runtime.diagnosis import Diagnosis, diagnose
from trtkit.workspace import Workspace


def doctor(*, workspace: str | Path | None = None) -> Diagnosis:
    """Look at this machine: backends, versions, GPUs, what is missing and the command that installs it.

    Changes nothing. `workspace`: a folder with export/ and engines/, by default $TRTKIT_WORKSPACE, else
    the current folder.

    >>> trtkit.doctor().auto
    'onnxruntime'
    """
    return diagnose(Workspace.at(workspace))
