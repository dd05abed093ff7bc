"""Importing a TensorRT: which one is here, its version, its one logger, and what it complained about."""

from __future__ import annotations

import importlib
import importlib.util
from collections import deque
from dataclasses import dataclass
from typing import Any

from trtkit.engines.tensorrt.versions import Api
from trtkit.errors import TrtkitError

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


@dataclass(frozen=True)
class Flavour:
    """A library of the family: its name, the modules it may be imported as, how to get it."""

    name: str
    modules: tuple[str, ...]
    install: str

    def module(self) -> str | None:
        """The module that is installed, without importing it."""
        for name in self.modules:
            if importlib.util.find_spec(name) is not None:
                return name
        return None


TENSORRT = Flavour("tensorrt", ("tensorrt",), "pip install 'trtkit[tensorrt]'")
RTX = Flavour(
    "tensorrt-rtx",
    ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "pip install 'trtkit[tensorrt-rtx]'",
)


class Library:
    """A TensorRT that was imported. Make it with `load_library`."""

    def __init__(self, flavour: Flavour, trt: Any) -> None:
        self.name = flavour.name
        self.trt = trt
        self.version = str(trt.__version__)
        self.api = Api(trt, flavour.name)
        self.messages: deque[str] = deque(maxlen=KEPT_MESSAGES)
        self.logger = _logger(trt, self.messages)

    @property
    def rtx(self) -> bool:
        return self.name == RTX.name

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def complaint(self) -> str:
        """The last error TensorRT logged, without its file and number; forgets them all."""
        last = next(reversed(self.messages), "it does not say why")
        self.messages.clear()
        return last.strip().splitlines()[0].rstrip(". ")

    def short_of_memory(self) -> bool | None:
        """Whether an error that was logged speaks of memory; None when one may mean it."""
        said = " ".join(self.messages).lower()
        if any(words in said for words in MEMORY_WORDS):
            return True
        return None if NO_KERNEL in said else False


# TensorRT takes one logger a process and ignores a second, so there is one library object for each.
_loaded: dict[int, Library] = {}


def load_library(flavour: Flavour) -> Library:
    """Import it. Raises TrtkitError, naming what is missing, when it is not there or broken."""
    name = flavour.module()
    if name is None:
        raise TrtkitError(
            f"The {flavour.name} backend was asked for, but its library {flavour.modules[0]} is not "
            f"installed; run `{flavour.install}`."
        )
    try:
        trt = importlib.import_module(name)
        known = _loaded.get(id(trt))
        if known is None:
            known = _loaded[id(trt)] = Library(flavour, trt)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        # A wheel without its libraries, or with those of another CUDA, fails in one of these ways.
        why = str(error).strip().splitlines()
        raise TrtkitError(
            f"{flavour.name} is installed but broken ({why[0] if why else type(error).__name__}); "
            f"install it again (`{flavour.install}`), `trtkit doctor` shows what it finds."
        ) from error
    return known


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
