"""The options of a build besides the model and the precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from trtkit.errors import TrtkitError

BatchRange = tuple[int, int, int]
DEFAULT_RANGE: BatchRange = (1, 8, 64)


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built.

    `profiles`: ranges of images per run, each (minimum, optimum, maximum), the first one the widest;
    further ones are tuned for what they hold, such as (1, 1, 1). `tf32`: let fp32 layers round their
    inputs to 10 bits of mantissa. `hardware_compatible`: plans for every card from Ampere on.
    `version_compatible`: plans for later versions too. `workspace_memory`: bytes of device memory the
    kernels may use, None for all. `optimization_level`: 0 to 5, how long to search, None for
    TensorRT's own. `dla`: which deep learning accelerator, None for the GPU. `own_tactics`: without
    the kernels of cuDNN and cuBLAS.
    """

    profiles: tuple[BatchRange, ...] = (DEFAULT_RANGE,)
    tf32: bool = False
    hardware_compatible: bool = False
    version_compatible: bool = False
    workspace_memory: int | None = None
    optimization_level: int | None = None
    dla: int | None = None
    own_tactics: bool = False

    def __post_init__(self) -> None:
        if not self.profiles:
            raise TrtkitError("Batch sizes are missing; give MIN,OPT,MAX.")
        for low, best, high in self.profiles:
            if not 1 <= low <= best <= high:
                raise TrtkitError(
                    f"Batch {low},{best},{high} is not a range; give MIN,OPT,MAX with "
                    "1 <= MIN <= OPT <= MAX."
                )
        low, _, high = self.batch
        outside = [one for one in self.profiles if one[0] < low or one[2] > high]
        if outside:
            raise TrtkitError(
                f"Batch {','.join(map(str, outside[0]))} lies outside {low} to {high}; one of the ranges "
                "must hold all the others."
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise TrtkitError(
                f"There is no optimization level {self.optimization_level}; give 0 (a fast build) to 5 (a "
                "fast engine)."
            )

    @classmethod
    def for_batches(cls, profiles: Iterable[BatchRange], **others: Any) -> BuildOptions:
        """Options with these ranges in any order, the one that holds the others put first."""
        ordered = sorted(profiles, key=lambda one: (one[0] - one[2], one))
        return cls(profiles=tuple(dict.fromkeys(ordered)), **others)

    def changed(self, changes: Mapping[str, Any]) -> BuildOptions:
        """These options with others in place of those that `changes` names; ranges in any order."""
        changes = dict(changes)
        profiles = changes.pop("profiles", None)
        changed = replace(self, **changes)
        if profiles is None:
            return changed
        return replace(changed, profiles=BuildOptions.for_batches(profiles).profiles)

    @property
    def batch(self) -> BatchRange:
        """The widest range: all that the engines take."""
        return self.profiles[0]

    def beyond_batch(self) -> list[str]:
        """The options besides batch sizes that differ from the defaults, as on the command line."""
        return [
            "--" + option.name.replace("_", "-")
            for option in fields(self)
            if option.name != "profiles" and getattr(self, option.name) != option.default
        ]
