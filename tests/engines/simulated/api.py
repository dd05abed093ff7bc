"""Turning implementations into the classes of one TensorRT version: only what its API lists exists."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tests.engines.simulated.errors import SimulationError

if TYPE_CHECKING:
    from tests.engines.simulated.cuda import SimulatedCuda

LISTS = Path(__file__).parent.parent / "tensorrt_api"
VERSIONS = tuple(sorted(path.stem for path in LISTS.glob("*.json")))
KEPT = {"__dict__", "__weakref__", "__module__", "__doc__", "__qualname__"}


class Library:
    """One TensorRT: its module, what it says, and the faults that a test asks for.

    `messages` holds (severity name, text) of everything logged. The knobs may be changed at any time.
    """

    def __init__(self, version: str, cuda: SimulatedCuda) -> None:
        self.api: dict[str, list[str]] = json.loads((LISTS / f"{version}.json").read_text())
        self.rtx = version.startswith("rtx")
        self.name = "tensorrt_rtx" if self.rtx else "tensorrt"
        self.version = "1.7.1.116" if version == "rtx1.7" else version.removeprefix("rtx")
        self.major = int(self.version.split(".")[0])
        self.cuda = cuda
        self.module = ModuleType("tensorrt_rtx_bindings" if self.rtx else "tensorrt")
        self.messages: list[tuple[str, str]] = []
        self.builds: list[dict[str, Any]] = []
        self.deliver: str | None = None
        self.fail_build: str | bool = False
        self.fail_execute = False
        self.capturable = True
        self.dla_cores = 0
        self.fail_report = False
        # What a layer of these nodes is called, and its milliseconds in a context's run of that number.
        self.layer_name: Callable[[list[str]], str] = " + ".join
        self.layer_ms: Callable[[str, int], Any] = lambda name, run: 0.01
        # The real one keeps loggers alive by reference counts; the last messages go to the newest.
        self.loggers: deque[Any] = deque(maxlen=1)

    def has(self, owner: str, name: str) -> bool:
        """Whether this version's class or enum `owner` has `name`."""
        return name in self.api.get(owner, ())

    @property
    def weakly_typed(self) -> bool:
        """Whether precision is chosen with builder flags unless STRONGLY_TYPED is given."""
        return self.has("BuilderFlag", "FP16")

    def make(self, owner: str, *arguments: Any) -> Any:
        """A new object of a class that users cannot construct."""
        made = object.__new__(getattr(self.module, owner))
        made._open(*arguments)
        return made

    def log(self, severity: str, text: str) -> None:
        self.messages.append((severity, text))
        if self.loggers:
            self.loggers[-1].log(getattr(self.module.ILogger, severity), text)

    def error(self, text: str) -> None:
        self.log("ERROR", text)

    def use_logger(self, logger: Any) -> None:
        self.check(logger, "ILogger")
        self.loggers.append(logger)

    def check(self, value: Any, owner: str) -> None:
        """Raises TypeError, as pybind11 does, unless `value` is an initialised `owner`."""
        if not isinstance(value, getattr(self.module, owner)):
            raise TypeError(f"incompatible function arguments: {value!r} is no {owner}")
        if hasattr(type(value), "_needs_init") and not getattr(value, "_initialised", False):
            raise TypeError(f"{owner}.__init__() must be called when overriding __init__")


class Interface:
    """A class that users derive from. They must call its __init__, as pybind11 demands."""

    _needs_init = True

    def __init__(self) -> None:
        self._initialised = True


class Closed:
    """A class whose objects only the library makes."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError(f"{type(self).__name__}: No constructor defined!")


def publish(library: Library, owner: str, implementation: type, base: type = object) -> type:
    """The class `owner` of this version, with those of the implementation's names that it lists.

    A listed name that the implementation lacks raises SimulationError when it is used.
    """
    listed = set(library.api[owner])
    members: dict[str, Any] = {"_lib": library, "__module__": library.module.__name__}
    ours = [c for c in implementation.__mro__ if c.__module__.startswith(__package__)]
    for parent in reversed(ours):
        for name, value in vars(parent).items():
            if name not in KEPT and (name.startswith("_") or name in listed):
                members[name] = value
    inherited = set(dir(base))
    for name in listed - members.keys() - inherited:
        members[name] = _lacking(owner, name)
    made = type(owner, (base,), members)
    if "_needs_init" not in members:
        made.__setattr__ = _refuse_unknown  # type: ignore[assignment]
    return made


def _lacking(owner: str, name: str) -> property:
    def complain(self: Any, *_: Any) -> Any:
        raise SimulationError(f"the simulation has no {owner}.{name}")

    return property(complain, complain)


def _refuse_unknown(self: Any, name: str, value: Any) -> None:
    if not name.startswith("_") and not isinstance(getattr(type(self), name, None), property):
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
    object.__setattr__(self, name, value)


class Enum:
    """A pybind11 enum: int() works, arithmetic and comparison with numbers do not."""

    __members__: dict[str, Any]
    __slots__ = ("name", "value")

    def __new__(cls, value: Any) -> Any:
        for member in cls.__members__.values():
            if member.value == int(value):
                return member
        raise TypeError(f"{value} is no {cls.__name__}")

    def __int__(self) -> int:
        return self.value

    def __le__(self, other: Any) -> Any:
        return self.value <= other.value if type(other) is type(self) else NotImplemented

    def __lt__(self, other: Any) -> Any:
        return self.value < other.value if type(other) is type(self) else NotImplemented

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


ITEM_SIZES = {
    "FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "UINT8": 1, "INT32": 4, "INT64": 8, "BOOL": 1, "FP8": 1,
}  # fmt: skip


def make_enum(owner: str, names: list[str], numbers: list[int], extra: dict[str, Any]) -> type:
    made: Any = type(owner, (Enum,), {"__slots__": (), **extra})
    made.__members__ = {}
    for name, number in zip(names, numbers, strict=True):
        member = object.__new__(made)
        member.name, member.value = name, number
        made.__members__[name] = member
        setattr(made, name, member)
    return made


def listed_enums(library: Library) -> dict[str, type]:
    """Every enum of this version. The numbers differ between versions: nobody may rely on them."""
    made = {}
    for owner, listed in library.api.items():
        if not {"name", "value"} <= set(listed) or any(n.islower() for n in _members(listed)):
            continue
        names = [name for name in _members(listed) if name != "itemsize"]
        numbers = Random(f"{library.version} {owner}").sample(range(len(names) + 3), len(names))
        extra = {}
        if "itemsize" in listed:
            extra["itemsize"] = property(lambda member: ITEM_SIZES[member.name])
        if owner == "ComputeCapability":
            numbers = [int(name[2:]) if name.startswith("SM") else len(name) for name in names]
        made[owner] = make_enum(owner, names, numbers, extra)
    return made


def _members(listed: list[str]) -> list[str]:
    return [name for name in listed if name not in ("name", "value", "itemsize")]
