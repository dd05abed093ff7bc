"""Nothing of TensorRT's API is used that a supported version lacks.

The lists in tensorrt_api/ were read off NVIDIA's wheels: each class or enum with its public names.
What differs between versions is in versions.py alone, behind a look whether it is there; that each of
them is right is shown by the tests that run every version's own API (tests/engines/simulated).
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import trtkit.engines.tensorrt
from tests.engines.simulated import SimulatedCuda, make_tensorrt
from trtkit.engines.tensorrt.versions import Api

LISTS = Path(__file__).parent.parent / "tensorrt_api"
VERSIONS = {path.stem: json.loads(path.read_text()) for path in LISTS.glob("*.json")}
PACKAGE = Path(trtkit.engines.tensorrt.__file__).parent
EVERYTHING = {name for lists in VERSIONS.values() for names in lists.values() for name in names}
# Names that some TensorRT has too, but that are used of trtkit's own objects only.
OURS = {"precision", "enqueue"}


def used(path):
    """(class or enum, name) of what is used of `trt`, and the other attributes that TensorRT has too."""
    chains, attributes = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
            continue
        inner = node.value
        if isinstance(inner, ast.Attribute) and _is_trt(inner.value):
            chains.add((inner.attr, node.attr))
        elif _is_trt(inner):
            chains.add((node.attr, None))
        elif node.attr in EVERYTHING:
            attributes.add(node.attr)
    return chains, attributes


def _is_trt(node):
    return (isinstance(node, ast.Name) and node.id == "trt") or (
        isinstance(node, ast.Attribute) and node.attr == "trt"
    )


def test_the_walk_sees_what_is_there():
    chains, attributes = used(PACKAGE / "builder.py")
    assert ("BuilderFlag", "TF32") in chains
    assert ("OnnxParser", None) in chains
    assert {"build_serialized_network", "num_DLA_cores"} <= attributes


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "path", [path for path in sorted(PACKAGE.glob("*.py")) if path.name != "versions.py"],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_every_version_has_what_is_used(version, path):
    lists = VERSIONS[version]
    names = {name for members in lists.values() for name in members}
    chains, attributes = used(path)
    lacking = [
        f"{kind}.{name}" if name else kind
        for kind, name in chains
        if kind not in lists or (name and name not in lists[kind])
    ]
    lacking += sorted(attributes - names - OURS)
    assert not lacking, f"{path.name} uses what {version} lacks"


def test_what_versions_py_asks_for_exists_somewhere():
    chains, _ = used(PACKAGE / "versions.py")
    for kind, name in chains:
        having = [lists[kind] for lists in VERSIONS.values() if kind in lists]
        assert any(name is None or name in names for names in having), (kind, name)


# What the table at the top of versions.py says.
@pytest.mark.parametrize(
    ("version", "strong", "dla_strong", "shares", "monitors"),
    [
        ("8.5.3.1", False, False, False, False),
        ("8.6.1", False, False, True, False),
        ("10.3.0", True, False, True, True),
        ("10.16.1.11", True, False, True, True),
        ("11.4.0.106", True, True, True, True),
        ("rtx1.7", True, True, True, True),
    ],
)
def test_the_table_of_versions(version, strong, dla_strong, shares, monitors):
    api = Api(make_tensorrt(version, SimulatedCuda(seed=0)), "tensorrt")
    assert api.strongly_typed() == strong
    assert api.strongly_typed(dla=True) == dla_strong
    assert api.shares_profiles == shares
    assert (api.monitor_base is not None) == monitors
