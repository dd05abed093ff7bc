"""What measuring does to a process, here that of all tests, is undone after each test."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """What is in memory already is left out of collections, as it would not be there for a user.

    torch.compile raises the recursion limit for good.
    """
    limit = sys.getrecursionlimit()
    gc.freeze()
    yield
    gc.unfreeze()
    sys.setrecursionlimit(limit)
