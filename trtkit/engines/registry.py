"""Which backends there are and which one to use. A backend's library is imported when it is chosen."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from trtkit.engines.base import Backend
from trtkit.errors import TrtkitError, available


@dataclass(frozen=True)
class BackendEntry:
    """A backend by name: the modules its library may be, how to get it.

    `module` is trtkit's, with a function `make_backend`. `needs_gpu`: `auto` takes it only where there
    is a GPU.
    """

    name: str
    module: str
    libraries: tuple[str, ...]
    install: str
    needs_gpu: bool = False

    @property
    def library(self) -> str | None:
        """The module of the library that is installed, without importing it."""
        installed = (name for name in self.libraries if importlib.util.find_spec(name) is not None)
        return next(installed, None)

    @property
    def installed(self) -> bool:
        return self.library is not None

    def missing(self) -> TrtkitError:
        """The error of a library that is not installed."""
        return TrtkitError(
            f"The {self.name} backend needs {self.libraries[0]}, which is not installed; run "
            f"`{self.install}`."
        )


TENSORRT = BackendEntry(
    "tensorrt",
    "trtkit.engines.tensorrt.backend",
    ("tensorrt",),
    "pip install 'trtkit[tensorrt]'",
    needs_gpu=True,
)
RTX = BackendEntry(
    "tensorrt-rtx",
    "trtkit.engines.tensorrt.backend",
    ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "pip install 'trtkit[tensorrt-rtx]'",
    needs_gpu=True,
)
ONNXRUNTIME = BackendEntry(
    "onnxruntime",
    "trtkit.engines.onnxruntime",
    ("onnxruntime",),
    "pip install onnxruntime",
)
# In the order in which `auto` prefers them. A further backend is a further row.
BACKENDS = (TENSORRT, RTX, ONNXRUNTIME)


def get_backend(name: str = "auto") -> Backend:
    """The backend of that name; `auto` is the first one that can run here.

    Raises TrtkitError for an unknown name or a missing or broken library.
    """
    if name != "auto":
        return _make(_entry(name))
    for entry in BACKENDS:
        # No library is imported for a GPU that is not there.
        if entry.installed and _has_gpu(entry):
            backend = _make(entry)
            if backend.cannot_run() is None:
                return backend
    return _make(BACKENDS[-1])


def can_build(name: str) -> bool:
    """Whether a GPU backend of that name is installed and able to build here; False for the CPU's."""
    entry = next((entry for entry in BACKENDS if entry.name == name), None)
    if entry is None or not entry.needs_gpu or not entry.installed:
        return False
    return get_backend(name).cannot_build() is None


def installed() -> list[str]:
    """The names of the backends whose libraries are here, in the order in which `auto` prefers them."""
    return [entry.name for entry in BACKENDS if entry.installed]


def _make(entry: BackendEntry) -> Backend:
    if not entry.installed:
        raise entry.missing()
    backend: Backend = importlib.import_module(entry.module).make_backend(entry)
    return backend


def _has_gpu(entry: BackendEntry) -> bool:
    if not entry.needs_gpu:
        return True
    from trtkit.engines.cuda.device import missing

    return missing() is None


def _entry(name: str) -> BackendEntry:
    for entry in BACKENDS:
        if entry.name == name:
            return entry
    names = [entry.name for entry in BACKENDS]
    raise TrtkitError(f"Backend `{name}` not found; {available(name, names)}.")
