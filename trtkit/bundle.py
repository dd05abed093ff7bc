"""A bundle: a built tree of stages in one folder, with the manifest `bundle.json` that describes it.

A bundle is published by replacing its manifest, in one atomic step, after all the files that the new
manifest names are in place; files are named by the stage's id, so old and new ones never collide.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from trtkit.atomic import sync
from trtkit.errors import TrtkitError, available, os_reason
from trtkit.identity import file_digest
from trtkit.preprocessing import Preprocessing
from trtkit.serialization import from_plain, to_plain
from trtkit.tensors import TensorSpec

MANIFEST = "bundle.json"
FORMAT = 1
# The name of the stage that the models of a bundle share.
PREFIX = "prefix"
# Behind a model's name: the stage of its tail that ends in the embedding.
BODY = "-body"
STAGING_PREFIX = ".building-"
# Beside the bundles. The file stays; only its lock matters.
LOCK = ".publishing.lock"


@dataclass(frozen=True)
class Stage:
    """One stage of the tree: which engine file makes it runnable and what that takes and gives.

    `parent` is the parent stage's name, None where the input is the image; `digest` is the BLAKE3
    (hex) of `file`; `classes` are the labels of a stage that ends in logits, None for a prefix and for
    the body of a tail, which ends in the embedding.
    `source` is the stage's ONNX file as exported, from which the engine can be built again elsewhere,
    with its digest; None in bundles of earlier versions. `engine` is the backend's record of the
    build: library, version, card, flags, what the heavy layers compute in.
    """

    name: str
    id: str
    parent: str | None
    file: str
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: tuple[str, ...] | None = None
    source: str | None = None
    source_digest: str | None = None
    engine: dict[str, Any] = field(default_factory=dict)

    def files(self) -> dict[str, str]:
        """The digests of this stage's files, by their names in the bundle."""
        files = {self.file: self.digest}
        if self.source is not None and self.source_digest is not None:
            files[self.source] = self.source_digest
        return files


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says about itself; the content of `bundle.json`.

    `build_id` identifies the request that built it, `batch` is (minimum, optimum, maximum) images,
    `computes` what the precision really is on this backend, `verified` what the build measured,
    `weights` where each model's weights came from, `trained_on` what identifies the photos of its
    training and `models` the digest of its export, by model
    name. `options` is the JSON of the build's options. `unverified` says why the engines themselves
    were never run and compared, None when they were. `costs` is what the prefix cache costs and saves
    on the machine of the build (trtkit.store.costs), None where nothing was measured. `quantized`:
    how int8 was calibrated and judged, by trtkit; None for other precisions and foreign int8.
    """

    name: str
    build_id: str
    cut: int
    precision: str
    computes: str
    backend: str
    backend_version: str
    trtkit_version: str
    created: str
    batch: tuple[int, int, int]
    preprocessing: Preprocessing
    weights: dict[str, str] = field(default_factory=dict)
    trained_on: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: tuple[Stage, ...]
    verified: dict[str, Any] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    unverified: str | None = None
    # Checked by its readers: a bundle whose costs are of another trtkit runs all the same.
    costs: Any = None
    quantized: dict[str, Any] | None = None

    @property
    def tails(self) -> tuple[Stage, ...]:
        """The stages that end in logits, in the order of the build."""
        return tuple(stage for stage in self.stages if stage.classes is not None)

    def tail(self, name: str | None = None) -> Stage:
        """The tail of that name, the first one without a name. Raises TrtkitError if there is none."""
        names = [stage.name for stage in self.tails]
        if name is None:
            return self.tails[0]
        if name not in names:
            raise TrtkitError(
                f"Tail `{name}` not found in bundle {self.name}; {available(name, names)}."
            )
        return self.tails[names.index(name)]

    def path_to(self, tail: Stage) -> tuple[Stage, ...]:
        """The stages from the root to `tail`, both included."""
        by_name = {stage.name: stage for stage in self.stages}
        path = [tail]
        while path[0].parent is not None:
            path.insert(0, by_name[path[0].parent])
        return tuple(path)

    def has_embeddings(self, tail: Stage) -> bool:
        """Whether the last engine of `tail` takes the embedding, a vector N x D, from another one."""
        return len(self.path_to(tail)) > 2

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **to_plain(self)}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`. Raises TrtkitError when it is missing or damaged."""
    path = folder / MANIFEST
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.get("format") != FORMAT:
            raise ValueError(f"it has format {value.get('format')}, this trtkit reads {FORMAT}")
        manifest = from_plain(value, Manifest)
    except FileNotFoundError as error:
        raise TrtkitError(
            f"There is no bundle in {folder}: it has no {MANIFEST}; run `trtkit build`."
        ) from error
    except (OSError, ValueError) as error:
        raise TrtkitError(
            f"The manifest {path} cannot be read ({error}); build the bundle again with `trtkit build`."
        ) from error
    if not manifest.tails:
        raise TrtkitError(f"The bundle {folder} has no tail; build it again with `trtkit build`.")
    return manifest


def check_files(
    folder: Path, stages: tuple[Stage, ...], *, engines: bool = True, sources: bool = False
) -> None:
    """Raise TrtkitError, naming the file, unless every engine file is there and undamaged.

    With `sources` also what the engines are built from.
    """
    for stage in stages:
        for name, digest in stage.files().items():
            if engines if name == stage.file else sources:
                _check_file(folder / name, digest, stage)


def _check_file(path: Path, digest: str, stage: Stage) -> None:
    try:
        intact = file_digest(path) == digest
    except OSError as error:
        raise TrtkitError(
            f"The file {path} of stage {stage.name} cannot be read ({os_reason(error)}); "
            "build the bundle again with `trtkit build`."
        ) from error
    if not intact:
        raise TrtkitError(
            f"The file {path} of stage {stage.name} is damaged: its content is not what the "
            "manifest records; build the bundle again with `trtkit build`."
        )


@contextmanager
def staging(engines: Path) -> Iterator[Path]:
    """A new hidden folder beside the bundles to build in; removed at the end, whatever happens.

    Also removes those that killed builds have left. Raises TrtkitError when it cannot be made.
    """
    try:
        engines.mkdir(parents=True, exist_ok=True)
        _sweep(engines)
        folder = Path(tempfile.mkdtemp(prefix=f"{STAGING_PREFIX}{os.getpid()}-", dir=engines))
    except OSError as error:
        raise _unwritable(engines, error) from error
    try:
        yield folder
    except OSError as error:
        raise _unwritable(engines, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, staged: Path, manifest: Manifest) -> None:
    """Make `folder` the bundle of `manifest`, whose engine files lie in `staged`.

    A reader sees the old bundle or the new one; a kill at any moment leaves one of the two. Waits for
    another process that is in here: two builds of one bundle would otherwise each sweep away files that
    the other is putting there.
    """
    # For all users of a shared folder, whoever made the file.
    lock = FileLock(folder.parent / LOCK, mode=0o666)
    try:
        lock.acquire()
    except NotImplementedError as error:
        raise _unwritable(folder.parent, OSError(str(error))) from error
    try:
        _publish(folder, staged, manifest)
    finally:
        lock.release()


def _publish(folder: Path, staged: Path, manifest: Manifest) -> None:
    created = not folder.exists()
    wanted = {name for stage in manifest.stages for name in stage.files()}
    try:
        folder.mkdir(exist_ok=True)
        text = json.dumps(manifest.to_json(), indent=2, ensure_ascii=False) + "\n"
        (staged / MANIFEST).write_text(text, encoding="utf-8")
        for name in sorted(wanted):
            sync(staged / name)
            (staged / name).replace(folder / name)
        sync(staged / MANIFEST)
        (staged / MANIFEST).replace(folder / MANIFEST)
        sync(folder)
    except OSError:
        if created:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    for path in folder.iterdir():
        if path.is_file() and path.name not in {*wanted, MANIFEST}:
            path.unlink(missing_ok=True)


def _sweep(engines: Path) -> None:
    import psutil

    for path in engines.glob(f"{STAGING_PREFIX}*"):
        owner = path.name.removeprefix(STAGING_PREFIX).split("-")[0]
        if not owner.isdigit() or not psutil.pid_exists(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> TrtkitError:
    return TrtkitError(
        f"{folder} cannot be written ({os_reason(error)}); free space there, mend its "
        "permissions or choose another --workspace."
    )
