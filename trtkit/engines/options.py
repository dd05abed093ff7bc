"""What a build can be asked for besides the model and the precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from trtkit.errors import TrtkitError

Profile = tuple[int, int, int]
DEFAULT_PROFILE: Profile = (1, 8, 64)


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

    profiles: tuple[Profile, ...] = (DEFAULT_PROFILE,)
    tf32: bool = False
    hardware_compatible: bool = False
    version_compatible: bool = False
    workspace_memory: int | None = None
    optimization_level: int | None = None
    dla: int | None = None
    own_tactics: bool = False

    def __post_init__(self) -> None:
        if not self.profiles:
            raise TrtkitError("No batch sizes were given to build for; give MIN,OPT,MAX.")
        for low, best, high in self.profiles:
            if not 1 <= low <= best <= high:
                raise TrtkitError(
                    f"Batch {low},{best},{high} was asked for; give MIN,OPT,MAX with "
                    "1 <= MIN <= OPT <= MAX."
                )
        low, _, high = self.batch
        outside = [one for one in self.profiles if one[0] < low or one[2] > high]
        if outside:
            raise TrtkitError(
                f"Batch {','.join(map(str, outside[0]))} was asked for besides {low} to {high}; one of "
                "the ranges must hold all the others."
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise TrtkitError(
                f"Optimization level {self.optimization_level} was asked for; give 0 (a fast build) "
                "to 5 (a fast engine)."
            )

    @classmethod
    def for_batches(cls, profiles: Iterable[Profile], **others: Any) -> BuildOptions:
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
    def batch(self) -> Profile:
        """The widest range: all that the engines take."""
        return self.profiles[0]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "profiles": [list(profile) for profile in self.profiles]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BuildOptions:
        profiles = tuple((low, best, high) for low, best, high in value["profiles"])
        return cls(**{**value, "profiles": profiles})

    def beyond_batch(self) -> list[str]:
        """The command line's names of what was asked for besides batch sizes."""
        plain = BuildOptions(profiles=self.profiles)
        return [
            "--" + name.replace("_", "-")
            for name, value in asdict(self).items()
            if value != getattr(plain, name) and name != "profiles"
        ]
