"""Exported models that many tests share, and a workspace and cache of each test's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import trtkit
from tests.thin import make_thin, thin_networks
from trtkit.workspace import Workspace

SIZE = 64
# Fixtures of the whole session load engines as well; what ONNX Runtime makes of them is not kept.
os.environ["TRTKIT_GRAPHS"] = "off"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, or no TensorRT that runs on it, and say which."""
    from trtkit.engines.cuda.device import missing
    from trtkit.engines.registry import get_backend

    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = missing() if marked else None
    if marked and reason is None and not get_backend("auto").on_device:
        reason = "no TensorRT that runs on it is installed"
    for item in marked:
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU with TensorRT: {reason}"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's own cache or workspace."""
    folder = tmp_path / "feature-cache"
    monkeypatch.setenv("TRTKIT_CACHE", str(folder))
    monkeypatch.delenv("TRTKIT_WORKSPACE", raising=False)
    return folder


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with resnet18 and resnet34, which share two blocks, and `other`, which shares none.

    All at 64 x 64 with random weights and an eighth of the channels; `other` is a resnet18 of another
    seed.
    """
    root = tmp_path_factory.mktemp("exports")
    with thin_networks():
        export_random("resnet18", root)
        export_random("resnet34", root)
        export_random("resnet18", root, name="other", seed=1)
    return root / "export"


@pytest.fixture(scope="session")
def full_exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with resnet18 and resnet34 with all their channels, which int8 needs to agree."""
    root = tmp_path_factory.mktemp("full-exports")
    export_random("resnet18", root)
    export_random("resnet34", root)
    return root / "export"


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's networks are thin, like those of `exports`, which baselines rebuild.

    Undone with the test's own patches, in the opposite order.
    """
    make_thin(monkeypatch)


def export_random(architecture: str, root: Path, name: str | None = None, seed: int = 0) -> None:
    """Export an architecture with random weights into the workspace `root`."""
    trtkit.export(
        architecture, name=name, weights="random", seed=seed, image_size=SIZE, workspace=root
    )


@pytest.fixture
def make_workspace(tmp_path: Path, exports: Path) -> Callable[..., Workspace]:
    """A workspace with the exports of the given names."""

    def make(*names: str) -> Workspace:
        root = tmp_path / "workspace"
        (root / "export").mkdir(parents=True)
        for name in names:
            os.link(exports / f"{name}.onnx", root / "export" / f"{name}.onnx")
        return Workspace(root)

    return make


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders 0 to 3 with 20 photos of handwritten digits each. Do not change them."""
    from scripts.digits import write_digits

    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, size=64, classes=range(4), count=20)
    return folder


@pytest.fixture(scope="session")
def cheap(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A workspace with the training `cheap` of resnet18 on `digits` at 32 x 32. Do not change it."""
    root = tmp_path_factory.mktemp("cheap")
    trtkit.train(
        digits, arch="resnet18", name="cheap", weights="random", image_size=32, epochs=2,
        optimizer="adamw", lr=1e-3, augmentation="none", workspace=root,
    )  # fmt: skip
    return root


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, exports: Path) -> Path:
    """A workspace with one bundle: resnet18 and resnet34 on one prefix, cut 2, fp16. Do not change it."""
    root = tmp_path_factory.mktemp("built")
    (root / "export").symlink_to(exports)
    trtkit.build(["resnet18", "resnet34"], cut=2, precision="fp16", workspace=root)
    return root
