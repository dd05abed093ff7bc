"""The cut with the least expected time, under a limit on what is stored."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.profiles import make_profile
from trtkit.costs.choice import CutGoal, choose, cut_options, settle
from trtkit.errors import TrtkitError

SECONDS = st.floats(1e-4, 1.0)


def test_the_deepest_cut_saves_most() -> None:
    choice = choose([make_profile()], CutGoal(0.8), shared=3)
    assert choice.cut == 3
    assert choice.neighbours == (2,)
    # 0.8 * (0.5 + 2) + 0.2 * (1 + 1.5 + 62) ms.
    assert "14.9 ms a photo at a hit rate of 80%, without a cache 63 ms" in choice.why[0]
    assert "1000 B per image" in choice.why[1]


def test_the_storage_limit_leaves_cuts_out() -> None:
    profile = make_profile(sizes=[4096, 2048, 8192])
    choice = choose([profile], CutGoal(0.8, 4096), shared=3)
    assert choice.cut == 2
    assert choice.neighbours == (1,)
    assert "of 2 cuts that take at most 4.0 KiB" in choice.why[0]
    assert choose([profile], CutGoal(0.8), shared=3).cut == 3


def test_no_map_is_so_small() -> None:
    profile = make_profile(sizes=[4096, 2048, 8192])
    with pytest.raises(
        TrtkitError,
        match=r"No feature map of .* fits into 1.0 KiB per image; .* at cut 2, takes 2.0 KiB",
    ):
        choose([profile], CutGoal(0.8, 1024), shared=3)


@pytest.mark.parametrize(("hit_rate", "read"), [(0.0, 0.0001), (0.8, 0.5)])
def test_where_computing_is_faster_there_is_no_cut(hit_rate: float, read: float) -> None:
    choice = choose([make_profile(read=read)], CutGoal(hit_rate), shared=3)
    assert choice.cut == 0
    assert choice.neighbours == ()
    assert len(choice.why) == 3
    assert choice.why[0] == "Computing is faster: 63 ms a photo without a cache."


def test_models_that_share_nothing() -> None:
    assert choose([make_profile(), make_profile()], CutGoal(0.8), shared=0).cut == 0


def test_the_second_model_finds_what_the_first_one_computed() -> None:
    cheap = make_profile()
    dear = make_profile([0.010, 0.020, 0.300], model="dear")
    every = cut_options([cheap, dear], 2, 0.5)
    assert [each.cut for each in every] == [1, 2]
    cut = cheap.cuts[1]
    expected = 0.5 * cheap.warm(cut) + 0.5 * cheap.cold(cut) + dear.warm(dear.cuts[1])
    assert every[1].expected == pytest.approx(expected)
    assert every[1].computed == pytest.approx(cheap.computed + dear.computed)
    # Though no photo is ever seen again, the second model finds all of them.
    assert choose([cheap, dear], CutGoal(0.0), shared=2).cut == 2


@given(
    st.lists(SECONDS, min_size=1, max_size=8),
    st.data(),
    st.floats(0, 1),
    st.floats(1e-5, 0.5),
    st.booleans(),
)
def test_no_allowed_cut_is_better(
    blocks: list[float], data: st.DataObject, hit_rate: float, read: float, overlaps: bool
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=len(blocks), max_size=len(blocks)))
    storage = data.draw(st.one_of(st.none(), st.integers(1, 6)))
    shared = data.draw(st.integers(1, len(blocks)))
    profile = make_profile(blocks, sizes=sizes, read=read, overlaps=overlaps)
    allowed = [n for n in range(1, shared + 1) if storage is None or sizes[n - 1] <= storage]
    assume(allowed)
    choice = choose([profile], CutGoal(hit_rate, storage), shared=shared)
    least = min(profile.expected(profile.cuts[n - 1], hit_rate) for n in allowed)
    if choice.cut == 0:
        assert least >= profile.computed
    else:
        assert choice.cut in allowed
        assert profile.expected(profile.cuts[choice.cut - 1], hit_rate) == least < profile.computed
    assert set(choice.neighbours) <= set(allowed) - {choice.cut}


def test_measuring_confirms_or_corrects() -> None:
    choice = choose([make_profile()], CutGoal(0.8), shared=3)
    confirmed = settle(choice, {2: 0.050, 3: 0.015})
    assert confirmed.cut == 3
    assert confirmed.why[2] == "Checked by measuring: cut 2 50 ms, cut 3 15 ms."
    corrected = settle(choice, {2: 0.012, 3: 0.015})
    assert corrected.cut == 2
    assert corrected.neighbours == (3,)
    assert corrected.why[2].endswith("so cut 2 is built instead.")
    assert settle(choice, {}) == choice
