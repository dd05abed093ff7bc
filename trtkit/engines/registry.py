"""Which backends there are and which one to use. A backend's library is imported when it is chosen."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass

from trtkit.engines.base import Backend
from trtkit.errors import TrtkitError, listed, nearest


@dataclass(frozen=True)
class BackendEntry:
    """A backend by name: the module that holds its `backend()`, the library it needs, how to get it."""

    name: str
    module: str
    library: str
    install: str

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.library) is not None


# In the order in which `auto` prefers them. A further backend is a further row.
BACKENDS = (
    BackendEntry(
        "onnxruntime", "trtkit.engines.onnxruntime", "onnxruntime", "pip install onnxruntime"
    ),
)


def get_backend(name: str = "auto") -> Backend:
    """The backend of that name; `auto` is the first one whose library is installed.

    Raises TrtkitError for an unknown name or a missing library.
    """
    if name == "auto":
        entry = next((entry for entry in BACKENDS if entry.installed), BACKENDS[-1])
    else:
        entry = _entry(name)
    if not entry.installed:
        raise TrtkitError(
            f"The {entry.name} backend was asked for, but its library {entry.library} is not "
            f"installed; run `{entry.install}`."
        )
    backend: Backend = importlib.import_module(entry.module).backend()
    return backend


def installed() -> list[str]:
    """The names of the backends that can be used here, in the order in which `auto` prefers them."""
    return [entry.name for entry in BACKENDS if entry.installed]


def _entry(name: str) -> BackendEntry:
    for entry in BACKENDS:
        if entry.name == name:
            return entry
    known = [entry.name for entry in BACKENDS]
    hint = nearest(name, known) or known
    raise TrtkitError(f"There is no backend {name!r} in this version; there is {listed(hint)}.")
