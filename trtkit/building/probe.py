"""A try of a foreign model in a process of its own: some damaged files end the process that loads them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from trtkit.cpu import own_process
from trtkit.engines.probe import GraphProbe
from trtkit.errors import TrtkitError
from trtkit.subprocesses import Parent, Worker, WorkerFailed

# Far more than any classifier takes for one image on one core.
SECONDS: Final = 300.0


def try_out(path: Path) -> None:
    """Load an ONNX file and run it in limited memory on one black image, in a process of its own.

    Raises TrtkitError when ONNX Runtime crashes, runs out of memory or takes more than `SECONDS`. What it
    refuses with an error is left to the caller, who can say more about it.
    """
    try:
        with Worker("ONNX Runtime", "building.probe") as worker:
            worker.ask({"path": str(path)}, timeout=SECONDS)
    except WorkerFailed as error:
        raise TrtkitError(
            f"{path.name} cannot be run: ONNX Runtime {error.how}; export the model again from the "
            "framework that made it."
        ) from error


def main() -> None:
    own_process()
    parent = Parent()
    request = parent.receive()
    if request is None:
        return
    with suppress(TrtkitError):
        GraphProbe(Path(request["path"]), request["path"]).try_out()
    parent.send({})
