"""Importing a TensorRT: its version, its one logger and the errors that it logged."""

from __future__ import annotations

import importlib
from collections import deque
from typing import Any

from trtkit.engines.cuda.device import missing
from trtkit.engines.registry import RTX, BackendEntry
from trtkit.engines.tensorrt.versions import Api
from trtkit.errors import TrtkitError, first_line

KEPT_MESSAGES = 50
# What TensorRT says when memory was the reason; it rarely is the last thing it says.
MEMORY_WORDS = (
    "out of memory",
    "outofmemory",
    "requested amount of gpu memory",
    "memory is insufficient",
)
# Often memory too, but not always.
NO_KERNEL = "could not find any implementation for node"


class Library:
    """A TensorRT that was imported. Make it with `load_library`."""

    def __init__(self, entry: BackendEntry, trt: Any) -> None:
        self.name = entry.name
        self.trt = trt
        self.version = str(trt.__version__)
        self.api = Api(trt, entry.name)
        self.messages: deque[str] = deque(maxlen=KEPT_MESSAGES)
        self.logger = _logger(trt, self.messages)

    @property
    def rtx(self) -> bool:
        return self.name == RTX.name

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def make(self, kind: str, work: str) -> Any:
        """The library's Builder or Runtime. Raises TrtkitError where it cannot `work`."""
        try:
            return getattr(self.trt, kind)(self.logger)
        except TypeError as error:
            # What the bindings make of a null pointer: there is no GPU, or no driver for it.
            why = missing() or self.complaint()
            raise TrtkitError(
                f"{self} cannot {work} here ({why}); it needs an NVIDIA GPU and its driver, "
                "`trtkit doctor` shows what is there."
            ) from error

    def complaint(self) -> str:
        """The last error TensorRT logged, without its file and number; forgets them all."""
        last = next(reversed(self.messages), "it does not say why")
        self.messages.clear()
        return last.strip().splitlines()[0].rstrip(". ")

    def short_of_memory(self) -> bool | None:
        """Whether an error that was logged speaks of memory; None when one may mean it."""
        text = " ".join(self.messages).lower()
        if any(words in text for words in MEMORY_WORDS):
            return True
        return None if NO_KERNEL in text else False


# TensorRT takes one logger a process and ignores a second, so there is one library object for each.
_loaded: dict[int, Library] = {}


def load_library(entry: BackendEntry) -> Library:
    """Import it. Raises TrtkitError, naming what is missing, when it is not there or broken."""
    name = entry.library
    if name is None:
        raise entry.missing()
    try:
        trt = importlib.import_module(name)
        library = _loaded.get(id(trt))
        if library is None:
            library = _loaded[id(trt)] = Library(entry, trt)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        # A wheel without its libraries, or with those of another CUDA, fails in one of these ways.
        raise TrtkitError(
            f"{entry.name} is installed but broken ({first_line(error)}); "
            f"install it again (`{entry.install}`), `trtkit doctor` shows what it finds."
        ) from error
    return library


def _logger(trt: Any, messages: deque[str]) -> Any:
    severity = trt.ILogger.Severity
    worst = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors for the sentence that is made of them; the rest is TensorRT's own business."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            if level in worst:
                messages.append(message)

    return Logger()
