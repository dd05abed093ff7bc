"""`trtkit infer`: predictions for files, folders and globs, from a built bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtkit.runtime.pipeline import Pipeline, load
from trtkit.store.cache import CacheOptions
from trtkit.workspace import Workspace


def open_bundle(
    bundle: str | Path | None = None,
    *,
    tail: str | Sequence[str] | None = None,
    cache: CacheOptions | None = None,
    gpu_cache: int = 0,
    workspace: str | Path | None = None,
) -> Pipeline:
    """The pipeline of a bundle, by name or folder; of the one built last without a name.

    `tail` is the first one by default; several names, or "all", compute what the models share once.
    `cache` defaults to `CacheOptions()`, which is on; `gpu_cache` is bytes of device memory for feature
    maps that stay on the card. Call `.infer(paths)` on it. Raises TrtkitError.
    """
    folder = Workspace.at(workspace).find_bundle(bundle)
    return load(
        folder, tail=tail, cache=cache if cache is not None else CacheOptions(), gpu_cache=gpu_cache
    )
