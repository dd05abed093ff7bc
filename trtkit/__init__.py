"""trtkit: image classifiers on TensorRT, split where they share layers.

The functions are those of the command line; nothing heavy is imported before one is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trtkit.errors import ImageError, TrtkitError

if TYPE_CHECKING:
    from trtkit.api.bench import bench
    from trtkit.api.build import build
    from trtkit.api.cache import cache_clear, cache_info, cache_verify
    from trtkit.api.cuts import cuts
    from trtkit.api.doctor import doctor
    from trtkit.api.evaluate import evaluate
    from trtkit.api.export import export
    from trtkit.api.infer import open_bundle
    from trtkit.api.ingest import ingest
    from trtkit.api.profile import profile
    from trtkit.api.query import query
    from trtkit.api.store import (
        store_compact,
        store_export,
        store_info,
        store_upgrade,
        store_verify,
    )
    from trtkit.api.train import train
    from trtkit.api.tune import tune
    from trtkit.engines.options import BuildOptions
    from trtkit.runtime.pipeline import Pipeline, load
    from trtkit.runtime.results import Result
    from trtkit.store.cache import CacheOptions
    from trtkit.video.options import IngestOptions

__version__ = "0.1.0"

__all__ = [
    "BuildOptions",
    "CacheOptions",
    "ImageError",
    "IngestOptions",
    "Pipeline",
    "Result",
    "TrtkitError",
    "__version__",
    "bench",
    "build",
    "cache_clear",
    "cache_info",
    "cache_verify",
    "cuts",
    "doctor",
    "evaluate",
    "export",
    "ingest",
    "load",
    "open_bundle",
    "profile",
    "query",
    "store_compact",
    "store_export",
    "store_info",
    "store_upgrade",
    "store_verify",
    "train",
    "tune",
]

# Where to find what is no command's function: `store_info` of `trtkit store info` is in trtkit.api.store.
_HOMES = {
    "BuildOptions": "trtkit.engines.options",
    "CacheOptions": "trtkit.store.cache",
    "IngestOptions": "trtkit.video.options",
    "Pipeline": "trtkit.runtime.pipeline",
    "Result": "trtkit.runtime.results",
    "load": "trtkit.runtime.pipeline",
    "open_bundle": "trtkit.api.infer",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'trtkit' has no attribute {name!r}")
    home = _HOMES.get(name, f"trtkit.api.{name.partition('_')[0]}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
