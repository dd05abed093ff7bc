"""Exported models that many tests share, and a workspace and cache of each test's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

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


@pytest.fixture(autouse=True, scope="session")
def own_signals() -> Iterator[None]:
    """A command that runs in the process of the tests leaves its signals alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trtkit.atomic.remove_on_signals", lambda: None)
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's own cache or workspace."""
    folder = tmp_path / "feature-cache"
    monkeypatch.setenv("TRTKIT_CACHE", str(folder))
    monkeypatch.delenv("TRTKIT_WORKSPACE", raising=False)
    return folder


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_once(name, make)`: the folder `name` that `make` filled; the processes of a run share it."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    place = place.resolve()

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        root, done = place / f"once-{name}", place / f"once-{name}.done"
        with FileLock(place / f"once-{name}.lock"):
            if not done.exists():
                # Of a process that failed.
                shutil.rmtree(root, ignore_errors=True)
                root.mkdir()
                make(root)
                done.touch()
        return root

    return folder


@pytest.fixture(scope="session")
def exports(make_once: Callable[..., Path]) -> Path:
    """A folder with resnet18 and resnet34, which share two blocks, and `other`, which shares none.

    All at 64 x 64 with random weights and an eighth of the channels; `other` is a resnet18 of another
    seed.
    """

    def make(root: Path) -> None:
        with thin_networks():
            export_random("resnet18", root)
            export_random("resnet34", root)
            export_random("resnet18", root, name="other", seed=1)

    return make_once("exports", make) / "export"


@pytest.fixture(scope="session")
def full_exports(make_once: Callable[..., Path]) -> Path:
    """A folder with resnet18 with all its channels, at 64 x 64 with random weights."""
    return make_once("full-exports", lambda root: export_random("resnet18", root)) / "export"


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
def digits(make_once: Callable[..., Path]) -> Path:
    """Class folders 0 to 3 with 20 photos of handwritten digits each. Do not change them."""
    from scripts.digits import write_digits

    return make_once(
        "digits", lambda folder: write_digits(folder, size=64, classes=range(4), count=20)
    )


@pytest.fixture(scope="session")
def cheap(make_once: Callable[..., Path], digits: Path) -> Path:
    """A workspace with the training `cheap` of a thin resnet18 on `digits` at 32 x 32. Do not change it."""

    def make(root: Path) -> None:
        with thin_networks():
            trtkit.train(
                digits, arch="resnet18", name="cheap", weights="random", image_size=32, epochs=2,
                optimizer="adamw", lr=1e-2, augmentation="none", workspace=root,
            )  # fmt: skip

    return make_once("cheap", make)


@pytest.fixture(scope="session")
def built(make_once: Callable[..., Path], exports: Path) -> Path:
    """A workspace with one bundle: resnet18 and resnet34 on one prefix, cut 2, fp16. Do not change it."""

    def make(root: Path) -> None:
        (root / "export").symlink_to(exports)
        trtkit.build(["resnet18", "resnet34"], cut=2, precision="fp16", workspace=root)

    return make_once("built", make)
