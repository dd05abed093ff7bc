"""Finding the state dict in what a training script saved around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

# Wrappers are nested two or three deep.
DEPTH = 6
# In the name of a wrapper: weights that are averages, and tensors that are no weights.
AVERAGES = ("ema", "averaged", "swa")
OTHERS = ("optim", "sched", "scaler", "best_", "history")


@dataclass(frozen=True)
class HeldState:
    """A state dict and the keys that lead to it, with dots; the empty place is the file itself."""

    place: str
    state: dict[str, torch.Tensor]


def find_states(content: Any) -> list[HeldState]:
    """The state dicts in a file's content: the model's own first, then averages, then whatever else.

    find_states({"epoch": 3, "net": state})[0].place  # net
    """
    return sorted(_states(content, (), set()), key=lambda held: _rank(held.place))


def _rank(place: str) -> int:
    words = place.lower()
    if any(word in words for word in OTHERS):
        return 2
    return int(any(word in words for word in AVERAGES))


def _states(value: Any, place: tuple[str, ...], above: set[int]) -> Iterator[HeldState]:
    if not isinstance(value, Mapping) or len(place) > DEPTH or id(value) in above:
        return
    if "_modules" in value and "_parameters" in value:
        yield HeldState(".".join(place), dict(_module_tensors(value, "", set())))
        return
    tensors = {
        name: item
        for name, item in value.items()
        if isinstance(name, str) and isinstance(item, torch.Tensor)
    }
    if tensors:
        yield HeldState(".".join(place), tensors)
    for name, item in value.items():
        yield from _states(item, (*place, str(name)), above | {id(value)})


def _module_tensors(
    module: Mapping[str, Any], prefix: str, above: set[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a module that was saved whole, by the names that its state dict gives them."""
    if id(module) in above:
        return
    for kind in ("_parameters", "_buffers"):
        items = module.get(kind)
        for name, item in items.items() if isinstance(items, Mapping) else ():
            if isinstance(item, torch.Tensor):
                yield f"{prefix}{name}", item
    children = module.get("_modules")
    for name, child in children.items() if isinstance(children, Mapping) else ():
        if isinstance(child, Mapping):
            yield from _module_tensors(child, f"{prefix}{name}.", above | {id(module)})
