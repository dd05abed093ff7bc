"""A bundle: a built tree of stages in one folder, with the manifest `bundle.json` that describes it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtkit.errors import TrtkitError, available, os_reason
from trtkit.format1 import as_format_2
from trtkit.identity import file_digest
from trtkit.preprocessing import Preprocessing
from trtkit.sealing import read_json_file, regular_file
from trtkit.serialization import from_plain, to_plain
from trtkit.stages import OutputRef, Stage, check_tree, path_to

MANIFEST = "bundle.json"
FORMAT = 2


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
        """The stages that end a model, its heads, in the order of the build."""
        return tuple(stage for stage in self.stages if stage.role == "head")

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

    def path_to(self, stage: Stage) -> tuple[Stage, ...]:
        """The stages from the root to `stage`, both included."""
        return path_to(self.stages, stage.name)

    def prefix_of(self, tail: Stage) -> Stage | None:
        """The prefix that `tail` shares with other models; None where nothing is split."""
        return next((stage for stage in self.path_to(tail) if stage.role == "prefix"), None)

    def cut_of(self, *tails: Stage) -> OutputRef | None:
        """The edge that a feature store guards: the feature map of the prefix of all these tails.

        None where nothing is split, or not by one prefix.
        """
        first, *others = map(self.prefix_of, tails)
        if first is None or any(prefix is not first for prefix in others):
            return None
        return first.ref("feature_map")

    def embedding_of(self, tail: Stage) -> OutputRef | None:
        """The embedding that the head of `tail` takes, a vector N x D; None without one."""
        refs = [stage.ref("embedding") for stage in self.path_to(tail)]
        return next((ref for ref in reversed(refs) if ref is not None), None)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **to_plain(self)}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`, of this format or an earlier one.

    Raises TrtkitError when it is missing or damaged, or its stages are no tree.
    """
    path = folder / MANIFEST
    try:
        value = read_json_file(path)
        if isinstance(value, dict) and value.get("format") == 1:
            value = as_format_2(value)
        elif isinstance(value, dict) and value.get("format") != FORMAT:
            raise ValueError(
                f"it has format {value.get('format')}, this trtkit reads 1 to {FORMAT}"
            )
        manifest = from_plain(value, Manifest)
        check_tree(manifest.stages)
        _check_values(manifest)
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


def _check_values(manifest: Manifest) -> None:
    """Raise ValueError for values that no build writes."""
    least, usual, most = manifest.batch
    if not 1 <= least <= usual <= most:
        raise ValueError(f"it has batches of {least}, {usual} and {most} images")
    if manifest.cut < 0:
        raise ValueError(f"it has the cut {manifest.cut}")
    for stage in manifest.stages:
        if not re.fullmatch("([0-9a-f]{2})+", stage.id):
            raise ValueError(f"the id {stage.id!r} of stage {stage.name} is not hexadecimal")


def check_files(
    folder: Path, stages: Iterable[Stage], *, engines: bool = True, sources: bool = False
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
        # A link could lead out of the bundle; a pipe or a device would be read for ever.
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link; a bundle has its files in its own folder")
        regular_file(path).close()
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
