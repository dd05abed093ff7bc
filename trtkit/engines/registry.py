"""Which backends there are and which one to use. A backend's library is imported when it is chosen."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from trtkit.engines.base import Backend
from trtkit.errors import TrtkitError, listed, nearest


@dataclass(frozen=True)
class BackendEntry:
    """A backend by name: where its maker is, the modules its library may be, how to get it.

    `needs_gpu`: `auto` takes it only where there is a GPU.
    """

    name: str
    module: str
    maker: str
    libraries: tuple[str, ...]
    install: str
    needs_gpu: bool = False

    @property
    def installed(self) -> bool:
        return any(importlib.util.find_spec(name) is not None for name in self.libraries)


# In the order in which `auto` prefers them. A further backend is a further row.
BACKENDS = (
    BackendEntry(
        "tensorrt",
        "trtkit.engines.tensorrt.backend",
        "tensorrt",
        ("tensorrt",),
        "pip install 'trtkit[tensorrt]'",
        needs_gpu=True,
    ),
    BackendEntry(
        "tensorrt-rtx",
        "trtkit.engines.tensorrt.backend",
        "tensorrt_rtx",
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        "pip install 'trtkit[tensorrt-rtx]'",
        needs_gpu=True,
    ),
    BackendEntry(
        "onnxruntime",
        "trtkit.engines.onnxruntime",
        "backend",
        ("onnxruntime",),
        "pip install onnxruntime",
    ),
)


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
    """Whether the backend of that name is a GPU's, and is here and able to build.

    The CPU's can always build, so that it is no reason to stay with it.
    """
    entry = next((entry for entry in BACKENDS if entry.name == name), None)
    if entry is None or not entry.needs_gpu or not entry.installed:
        return False
    return get_backend(name).cannot_build() is None


def installed() -> list[str]:
    """The names of the backends whose libraries are here, in the order in which `auto` prefers them."""
    return [entry.name for entry in BACKENDS if entry.installed]


def _make(entry: BackendEntry) -> Backend:
    if not entry.installed:
        raise TrtkitError(
            f"The {entry.name} backend was asked for, but its library {entry.libraries[0]} is not "
            f"installed; run `{entry.install}`."
        )
    backend: Backend = getattr(importlib.import_module(entry.module), entry.maker)()
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
    known = [entry.name for entry in BACKENDS]
    hint = nearest(name, known) or known
    raise TrtkitError(f"There is no backend {name!r} in this version; there is {listed(hint)}.")
