"""What follows from measured times, for each cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.profiles import make_profile
from trtkit.costs.profile import FORMAT, Profile

SECONDS = st.floats(1e-6, 1.0)


def test_times_of_a_cut() -> None:
    profile = make_profile()
    second = profile.cuts[1]
    assert profile.computed == pytest.approx(0.001 + 0.062)
    assert profile.warm(second) == pytest.approx(0.0005 + 0.032)
    assert profile.warm(second, cold_disk=True) == pytest.approx(0.001 + 0.032)
    assert profile.cold(second) == pytest.approx(0.001 + 0.0015 + 0.062)
    assert profile.saved(second) == pytest.approx(0.0305)
    # Of 100 photos h are hits: h * 32.5 + (100 - h) * 64.5 = 100 * 63.
    assert profile.break_even(second) == pytest.approx(1.5 / 32)
    assert profile.expected(second, 0.75) == pytest.approx(0.75 * 0.0325 + 0.25 * 0.0645)


def test_beside_the_processor_the_longer_counts() -> None:
    profile = make_profile(decode=0.5, read=0.04, write=0.01, overlaps=True)
    first, last = profile.cuts[0], profile.cuts[-1]
    assert profile.computed == 0.5
    assert profile.warm(first) == pytest.approx(0.052)
    assert profile.warm(last) == 0.04
    assert profile.cold(last) == pytest.approx(0.51)


def test_serving_counts_for_every_photo() -> None:
    profile, served = make_profile(), make_profile(serve=0.25)
    cut = served.cuts[1]
    assert served.computed == pytest.approx(profile.computed + 0.25)
    assert served.warm(cut) == pytest.approx(profile.warm(cut) + 0.25)
    assert served.cold(cut) == pytest.approx(profile.cold(cut) + 0.25)
    assert served.saved(cut) == pytest.approx(profile.saved(cut))
    # Beside a GPU it is the processor's work.
    beside = make_profile(serve=0.25, overlaps=True)
    assert beside.warm(cut) == pytest.approx(0.2505)


def test_a_read_that_costs_more_is_never_worth_it() -> None:
    profile = make_profile(read=0.2)
    assert profile.break_even(profile.cuts[0]) is None
    assert profile.saved(profile.cuts[0]) < 0
    assert profile.to_json()["cuts"][0]["stored"]["fp16"]["break_even_hit_rate"] is None


@given(st.lists(SECONDS, min_size=1, max_size=6), SECONDS, SECONDS, SECONDS, st.booleans())
def test_at_the_break_even_rate_both_take_the_same(
    blocks: list[float], decode: float, read: float, write: float, overlaps: bool
) -> None:
    profile = make_profile(blocks, decode=decode, read=read, write=write, overlaps=overlaps)
    for cut in profile.cuts:
        rate = profile.break_even(cut)
        if rate is None:
            assert profile.warm(cut) >= profile.computed
        elif 0 < rate < 1:
            assert profile.expected(cut, rate) == pytest.approx(profile.computed, rel=1e-6)
            assert profile.expected(cut, min(1.0, rate + 0.1)) <= profile.computed * (1 + 1e-9)


@given(st.lists(SECONDS, min_size=1, max_size=4), st.booleans())
def test_json_gives_the_same_profile(blocks: list[float], overlaps: bool) -> None:
    profile = make_profile(blocks, overlaps=overlaps)
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_json_of_another_format_is_refused() -> None:
    value = make_profile().to_json()
    with pytest.raises(ValueError, match="not a profile of format 2"):
        Profile.from_json({**value, "format": 99})
    with pytest.raises(ValueError, match="missing required field `model`"):
        Profile.from_json({"format": FORMAT})
