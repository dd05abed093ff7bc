"""The lock that scripts/test and scripts/demo install from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
INSTALLED_EXTRAS = ("train", "quantize", "video")


def declared() -> list[Requirement]:
    """What pyproject.toml says must be there to build, check and test the project."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = [*project["build-system"]["requires"], *project["dependency-groups"]["dev"]]
    texts += project["project"]["dependencies"]
    for extra in INSTALLED_EXTRAS:
        texts += project["project"]["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def locked() -> dict[Requirement, list[str]]:
    """Each requirement of the lock with its hashes."""
    requirements = {}
    for entry in LOCK.read_text().replace("\\\n", " ").splitlines():
        text, *hashes = entry.split(" --hash=")
        requirements[Requirement(text)] = [one.strip() for one in hashes]
    return requirements


def environment(python: str, machine: str) -> dict[str, str]:
    return {
        "python_version": python, "python_full_version": f"{python}.1", "os_name": "posix",
        "sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine,
        "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": "",
    }  # fmt: skip


def applies(requirement: Requirement, where: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(where)


def test_it_holds_no_addresses():
    text = LOCK.read_text()
    for address in ("://", "--index", "--extra-index", "--find-links", "-i ", "-f ", " @ "):
        assert address not in text


def test_every_requirement_is_one_version_with_hashes():
    requirements = locked()
    assert len(requirements) > 100
    for requirement, hashes in requirements.items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version
        assert hashes and all(one.startswith("sha256:") and len(one) == 71 for one in hashes)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_it_covers_what_the_project_declares(python: str, machine: str):
    where = environment(python, machine)
    pins: dict[str, list[str]] = {}
    for requirement in locked():
        if applies(requirement, where):
            (specifier,) = requirement.specifier
            pins.setdefault(requirement.name, []).append(specifier.version)
    assert [name for name, versions in pins.items() if len(versions) != 1] == []
    for requirement in declared():
        if applies(requirement, where):
            (version,) = pins[requirement.name]
            assert requirement.specifier.contains(version), requirement
