"""Collecting garbage between turns must not cost what other tests have left in memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def light_heap() -> Iterator[None]:
    """What is there already is left out of collections, as it would not be there for a user."""
    gc.freeze()
    yield
    gc.unfreeze()
