"""The feature store: prefix outputs by key, in append-only segments with an SQLite index."""

from trtkit.store.maintenance import (
    ClearReport,
    DamageReport,
    StoreInfo,
    VerifyReport,
    clear,
    info,
    store_bytes,
    verify,
)
from trtkit.store.store import FeatureStore, StoreStats

__all__ = [
    "ClearReport",
    "DamageReport",
    "FeatureStore",
    "StoreInfo",
    "StoreStats",
    "VerifyReport",
    "clear",
    "info",
    "store_bytes",
    "verify",
]
