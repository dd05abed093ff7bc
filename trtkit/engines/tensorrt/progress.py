"""TensorRT's progress monitor, as calls with the share done of a phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trtkit.engines.tensorrt.versions import Api


def make_monitor(api: Api, advance: Callable[[str, float], None]) -> Any:
    """A monitor that calls `advance(phase, share)`; None where this TensorRT has no monitors.

    Its `interrupted` says whether the user ended the build: an exception cannot pass through
    TensorRT, which asks after each step whether to go on.
    """
    base = api.monitor_base
    if base is None:
        return None

    class Monitor(base):  # type: ignore[misc, valid-type]
        """Tells how far the outermost phase is; those inside it start and end all the time."""

        def __init__(self) -> None:
            super().__init__()
            self.interrupted = False
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = max(1, steps)

        def phase_finish(self, name: str) -> None:
            self._steps.pop(name, None)
            self._tell(name, 1.0)

        def step_complete(self, name: str, step: int) -> bool:
            self._tell(name, min(1.0, (step + 1) / self._steps.get(name, 1)))
            return not self.interrupted

        def _tell(self, name: str, share: float) -> None:
            try:
                advance(name, share)
            except KeyboardInterrupt:
                self.interrupted = True

    return Monitor()
