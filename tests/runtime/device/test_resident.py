"""Which feature maps stay on the card."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.simulated import install
from trtkit.runtime.device.resident import ResidentCache

ROW = 256


@pytest.fixture
def cache(monkeypatch):
    install(monkeypatch)
    return ResidentCache(2 * ROW + 100, ROW)


def test_it_holds_what_fits_and_replaces_the_longest_unused(cache):
    assert cache.capacity == 2
    first, second = cache.place(b"a"), cache.place(b"b")
    assert second == first + ROW
    assert cache.lease(b"a").address == first
    assert cache.place(b"c") == second, "b is the longest unused"
    assert cache.lease(b"b") is None
    assert (len(cache), cache.hits) == (2, 1)


def test_a_key_has_one_row(cache):
    first = cache.place(b"a")
    assert cache.place(b"a") is None
    assert cache.lease(b"a").address == first


def test_a_held_row_is_not_replaced(cache):
    cache.place(b"a"), cache.place(b"b")
    first, again = cache.lease(b"a"), cache.lease(b"a")
    second = cache.lease(b"b")
    assert cache.place(b"c") is None, "all rows are held"
    del again
    assert cache.place(b"c") is None, "a is held once more"
    address = first.address
    del first
    assert cache.place(b"c") == address
    assert cache.lease(b"b").address == second.address


@given(st.lists(st.tuples(st.sampled_from("pld"), st.integers(0, 5)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_lease_shows_its_key_s_row_while_it_lives(steps):
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        cache = ResidentCache(3 * ROW, ROW)
        content, leases = {}, []
        for step, number in steps:
            key = bytes([number])
            if step == "p":
                address = cache.place(key)
                if address is not None:
                    content[address] = key
            elif step == "l":
                lease = cache.lease(key)
                if lease is not None:
                    leases.append((lease, key))
            elif leases:
                leases.pop(number % len(leases))
            assert all(content[lease.address] == held for lease, held in leases)
            assert len(cache) <= 3
