"""The workspace: the folder whose checkpoints/, export/, engines/ and calibration/ are shared."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trtkit.errors import TrtkitError, available, os_reason

ENVIRONMENT = "TRTKIT_WORKSPACE"
# The checkpoint in a training's folder that is exported and trained further.
BEST = "best.safetensors"
# In `engines/`: measurements of builds.
TIMING_FOLDER = ".timing-cache"


def user_cache() -> Path:
    """Where trtkit keeps what all workspaces of a user share, and what may be deleted at any time."""
    import platformdirs

    try:
        folder = platformdirs.user_cache_path("trtkit", appauthor=False)
    except RuntimeError:
        # Nobody says where home is: neither HOME nor the list of users.
        return _private_folder()
    return folder if folder.is_absolute() else _private_folder()


def _private_folder() -> Path:
    """A folder of this user's alone among the temporary files. Raises TrtkitError if it is not."""
    folder = Path(tempfile.gettempdir()) / f"trtkit-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise TrtkitError(
            f"There is no home folder, and {folder} cannot be made ({os_reason(error)}); set HOME or "
            "XDG_CACHE_HOME."
        ) from error
    # Others may write to the folder of temporary files, so this one may be theirs, or a link.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise TrtkitError(
            f"There is no home folder, and {folder} is not this user's alone; set HOME or XDG_CACHE_HOME."
        )
    return folder


@dataclass(frozen=True)
class Workspace:
    """A folder with checkpoints/, export/, engines/ and calibration/, each made when written to."""

    root: Path

    @classmethod
    def at(cls, folder: str | Path | None = None) -> Workspace:
        """The workspace in `folder`, else in $TRTKIT_WORKSPACE, else in the current folder."""
        return cls(Path(folder or os.environ.get(ENVIRONMENT) or "."))

    @property
    def exports(self) -> Path:
        return self.root / "export"

    @property
    def engines(self) -> Path:
        return self.root / "engines"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def timing(self) -> Path:
        """A folder for measurements that the next build can use, hidden from the list of bundles."""
        return self.engines / TIMING_FOLDER

    @property
    def calibration(self) -> Path:
        return self.root / "calibration"

    def export_path(self, name: str) -> Path:
        """Where the export called `name` lies. Raises TrtkitError for a name that is no file name."""
        check_name(name)
        return self.exports / f"{name}.onnx"

    def exported(self) -> list[str]:
        """The names of the exported models, sorted."""
        return sorted(path.stem for path in self.exports.glob("*.onnx") if path.name[0] != ".")

    def find_export(self, name: str) -> Path:
        """The file of an exported model, given its name or a path to it.

        Raises TrtkitError, with the nearest names, if it is missing.
        """
        direct = Path(name)
        if direct.suffix == ".onnx" and direct.is_file():
            return direct
        names = self.exported()
        name = name.removesuffix(".onnx")
        if name in names:
            return self.export_path(name)
        if not names:
            raise TrtkitError(
                f"Model `{name}` not found: {self.exports} has no exported models; run "
                f"`trtkit export {name}` first."
            )
        raise TrtkitError(f"Model `{name}` not found in {self.exports}; {available(name, names)}.")

    def find_checkpoint(self, name: str | Path) -> Path:
        """A checkpoint's file, given its path, the folder of a training or that training's name.

        A training's checkpoint is its best one. Raises TrtkitError, with the nearest names, if it is
        missing.
        """
        for path in (Path(name), Path(name) / BEST, self.checkpoints / name / BEST):
            # Path.is_file would raise for a name too long to be one.
            if os.path.isfile(path):  # noqa: PTH113
                return path
        names = sorted(path.parent.name for path in self.checkpoints.glob(f"*/{BEST}"))
        raise TrtkitError(
            f"Checkpoint `{name}` not found; give a file, or the name of a training in "
            f"{self.checkpoints} ({available(str(name), names)})."
        )

    def bundles(self) -> list[Path]:
        """The folders of the built bundles, the newest first."""
        manifests = [
            path for path in self.engines.glob("*/bundle.json") if path.parent.name[0] != "."
        ]
        manifests.sort(key=lambda path: (-path.stat().st_mtime_ns, path))
        return [path.parent for path in manifests]

    def find_bundle(self, name: str | Path | None) -> Path:
        """The folder of a bundle, given its name or path; without a name the one built last.

        Raises TrtkitError, with the nearest names, if it is missing.
        """
        bundles = self.bundles()
        if name is None:
            if bundles:
                return bundles[0]
            raise TrtkitError(
                f"There is no bundle in {self.engines}; run `trtkit export MODEL` and "
                "`trtkit build --cut N` first, or give --bundle or --workspace."
            )
        for folder in (self.engines / name, Path(name)):
            if (folder / "bundle.json").is_file():
                return folder
        names = [path.name for path in bundles]
        raise TrtkitError(
            f"Bundle `{name}` not found in {self.engines}; {available(str(name), names)}."
        )


def check_name(name: str) -> None:
    """Raise TrtkitError unless `name` can be a file name on every system."""
    if not re.fullmatch(r"[\w+.,=@-]+( [\w+.,=@-]+)*", name) or name.startswith((".", "-")):
        raise TrtkitError(
            f"{name!r} cannot be the name of a model or bundle; use letters, digits, '.', '_', "
            "'+' and '-'."
        )
