"""Where a plan comes from, and whether it can be loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtkit.engines.cuda.device import Card
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError
from trtkit.serialization import to_plain

AMPERE = (8, 0)
# What a plan of TensorRT for RTX runs on, whatever it was built on, unless it is built for one card:
# https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/ (Turing, 7.5, has to be asked for).
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
# Which major versions run version compatible plans of which older ones:
# https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/version-compatibility.html
RUNS_PLANS_OF = {8: {8}, 10: {8, 10}, 11: {10, 11}}


def describe_origin(
    library: str, version: str, card: Card | None, options: BuildOptions
) -> dict[str, Any]:
    """What the manifest records of where a plan was built."""
    return {
        "library": library,
        "version": version,
        "gpu": card.name if card else None,
        "compute_capability": card.capability if card else None,
        "flags": to_plain(options),
    }


def check_origin(
    record: Mapping[str, Any], library: str, version: str, card: Card, rebuild: str
) -> None:
    """Raise TrtkitError, saying what it was built with and what is here, when it cannot be loaded.

    TensorRT itself says so in its log, or warns and goes on with a plan of another card.
    """
    flags = record["flags"]
    differences = []
    if (record["library"], record["version"]) != (library, version) and not (
        record["library"] == library
        and flags["version_compatible"]
        and _later(version, record["version"])
    ):
        differences.append((f"{record['library']} {record['version']}", f"{library} {version}"))
    if not _fits(record, card):
        built_on = f"{record['gpu']} (compute capability {record['compute_capability']})"
        if record["gpu"] is None:
            built_on = f"the compute capabilities {', '.join(RTX_CAPABILITIES)}"
        differences.append((built_on, str(card)))
    if differences:
        built, here = (" on ".join(side) for side in zip(*differences, strict=True))
        raise TrtkitError(
            f"The engine was built with {built}, here is {here}; run `{rebuild}` to build it for "
            "this machine."
        )


def _fits(record: Mapping[str, Any], card: Card) -> bool:
    if record["library"] == "tensorrt-rtx":
        return card.capability in RTX_CAPABILITIES
    if record["flags"]["hardware_compatible"]:
        return card.compute_capability >= AMPERE
    return (record["gpu"], record["compute_capability"]) == (card.name, card.capability)


def _later(version: str, built_with: str) -> bool:
    """Whether a version compatible plan of `built_with` runs on `version`."""
    here, there = _numbers(version), _numbers(built_with)
    return here >= there and there[0] in RUNS_PLANS_OF.get(here[0], {here[0]})


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
