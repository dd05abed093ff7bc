"""The prefix cache: the feature maps of photos seen before, found by what they were computed from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trtkit.cpu import available_memory
from trtkit.errors import TrtkitError, listed
from trtkit.identity import bytes_digest, feature_key
from trtkit.preprocessing import Preprocessing
from trtkit.store.codec import CodecName, DtypeName
from trtkit.store.segment import store_bytes
from trtkit.store.store import FeatureStore
from trtkit.tensors import Array
from trtkit.workspace import user_cache

ENVIRONMENT = "TRTKIT_CACHE"
DEFAULT_SIZE = 10 * 2**30

# Of a feature map that the engines quantize.
INTEGERS = ("int8", "uint8")

CacheMode = Literal["auto", "always", "off"]


def cache_folder(folder: str | Path | None = None) -> Path:
    """`folder`, else $TRTKIT_CACHE, else trtkit/features in the user's cache folder.

    Keys are content hashes, so that all workspaces of a user can share one cache.
    """
    chosen = folder or os.environ.get(ENVIRONMENT)
    return Path(chosen) if chosen else user_cache() / "features"


def fits_memory(folder: Path) -> bool:
    """Whether the system can keep all that is cached in `folder` in memory; so where nothing says."""
    available = available_memory()
    try:
        return available is None or store_bytes(folder) <= available
    except OSError:
        # There is none yet, or it is not to be read: opening it says so.
        return True


@dataclass(frozen=True)
class CacheOptions:
    """How `infer` uses the cache.

    `mode`: `auto` (where reading is cheaper than computing again, by what the build measured),
    `always`, `off`. `dtype`: what an fp32 feature map is stored as, `fp16` by default (relative
    rounding error 2^-11), `fp32` for exact ones; an fp16 map is kept as it is, and an int8 one as well,
    which `int8` asks for: only an int8 bundle has those. `codec`: `none`, `lz4`
    or `zstd`. `size`: bytes on disk.
    """

    mode: CacheMode = "auto"
    dtype: Literal["fp16", "fp32", "int8"] = "fp16"
    codec: CodecName = "none"
    size: int = DEFAULT_SIZE
    folder: Path | None = None

    @property
    def floats(self) -> DtypeName:
        """What floats are stored as; integers stay what they are."""
        return "fp16" if self.dtype == "int8" else self.dtype

    def check_dtype(self, dtype: str, bundle: str) -> None:
        """Raise TrtkitError for int8 where the engines' feature maps, of `dtype`, are not quantized."""
        if self.dtype == "int8" and dtype not in INTEGERS:
            raise TrtkitError(
                f"Feature maps of bundle {bundle} are {dtype} and have no scale for int8; build with "
                "--int8, or store them as fp16 or fp32."
            )

    def __post_init__(self) -> None:
        if self.mode not in get_args(CacheMode):
            raise TrtkitError(
                f"Cache mode `{self.mode}` not found; available: {listed(get_args(CacheMode))}."
            )


class PrefixCache:
    """Feature maps of one prefix and one preprocessing, in a feature store that others may share.

    `get` and `key` may be called from several threads. `reads` False: `get` finds nothing.
    """

    def __init__(
        self,
        store: FeatureStore,
        preprocessing: Preprocessing,
        prefix_id: str,
        *,
        reads: bool = True,
    ) -> None:
        self.store = store
        self.reads = reads
        self._preprocessing = preprocessing.digest
        self._prefix_id = prefix_id

    @classmethod
    def open(
        cls,
        options: CacheOptions,
        preprocessing: Preprocessing,
        prefix_id: str,
        *,
        idle: bool = False,
    ) -> PrefixCache:
        """The cache in the options' folder; for reading only where another process is writing.

        `idle`: only its keys are wanted; it neither finds nor keeps anything. Raises TrtkitError when
        the folder cannot be used at all.
        """
        store = FeatureStore(
            cache_folder(options.folder),
            mode="read" if idle else "auto",
            dtype=options.floats,
            codec=options.codec,
            max_bytes=options.size,
        )
        return cls(store, preprocessing, prefix_id, reads=not idle)

    @property
    def writable(self) -> bool:
        """Whether new feature maps are kept."""
        return self.store.writable

    def __enter__(self) -> PrefixCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.store.close()

    def key(self, data: bytes) -> bytes:
        """The key of the photo with these file bytes."""
        return feature_key(bytes_digest(data), self._preprocessing, self._prefix_id)

    def get(self, key: bytes, into: Array | None = None) -> Array | None:
        """The feature map, without a batch dimension, in the dtype it is stored as; None on a miss.

        It is read into `into`, 1-D uint8, where that is possible.
        """
        return self.store.get(key, into) if self.reads else None

    def put(self, key: bytes, feature: Array) -> None:
        """Keep a copy of a feature map; it is written in the background."""
        self.store.put(key, feature)
