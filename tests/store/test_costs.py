"""Whether the cache is worth it: the times that were measured, and what they come to."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtkit.cpu import processor_name, usable_cores
from trtkit.engines.registry import get_backend
from trtkit.serialization import from_plain, to_plain
from trtkit.store.costs import CacheCosts, StoreCosts, format_name, machine_of, together, weigh

HERE = ("a processor", "2 cores", "onnxruntime")
# A photo takes 1 + 2 + 5 = 8 ms anew, and 3 + 5 with the map from memory at 3 ms.
COSTS = CacheCosts(
    machine=HERE,
    batch=4,
    decode=1e-3,
    prefix=2e-3,
    tails={"cat": 5e-3, "dog": 0.0},
    store={"fp16": StoreCosts(bytes=1000, read=1e-3, read_cold=4e-3, write=2e-3)},
    overlaps=False,
)


def reading(read: float, cold: float | None) -> CacheCosts:
    return replace(COSTS, store={"fp16": StoreCosts(1000, read, cold, 0.0)})


def test_reading_that_is_cheaper_is_used_and_the_sentence_says_so():
    verdict = weigh(COSTS, HERE, "cat", "fp16", resident=True)
    assert verdict.use
    assert verdict.why == (
        "Cache used: with a feature map from memory a photo takes 6 ms, computed anew 8 ms."
    )


def test_reading_that_is_dearer_is_not():
    verdict = weigh(reading(3.5e-3, None), HERE, "cat", "fp16", resident=True)
    assert not verdict.use
    assert verdict.why == (
        "Cache not used: with a feature map from memory a photo takes 8.5 ms, computed anew 8 ms "
        "(--cache always uses it all the same)."
    )
    # What costs the same is not worth the disk.
    assert not weigh(reading(3e-3, None), HERE, "cat", "fp16", resident=True).use


def test_what_does_not_fit_into_memory_comes_from_the_disk():
    assert weigh(COSTS, HERE, "cat", "fp16", resident=True).use
    verdict = weigh(COSTS, HERE, "cat", "fp16", resident=False)
    assert not verdict.use
    assert "from disk a photo takes 9 ms, computed anew 8 ms" in verdict.why
    # Where the disk could not be told from memory, what is known is taken.
    unknown = weigh(reading(1e-3, None), HERE, "cat", "fp16", resident=False)
    assert unknown.use
    assert "from memory a photo takes 6 ms" in unknown.why


def test_engines_beside_the_processor_hide_what_is_shorter():
    assert together(3.0, 4.0, overlaps=False) == 7.0
    assert together(3.0, 4.0, overlaps=True) == 4.0
    # The tail takes 5 ms either way; anew it is the engines' 7 ms that count.
    beside = replace(reading(6.5e-3, None), overlaps=True)
    verdict = weigh(beside, HERE, "cat", "fp16", resident=True)
    assert verdict.use
    assert "a photo takes 6.5 ms, computed anew 7 ms" in verdict.why
    assert not weigh(replace(beside, overlaps=False), HERE, "cat", "fp16", resident=True).use
    # Decoding that is slower than all engines makes even a slow read worth it.
    assert weigh(replace(beside, decode=8e-3), HERE, "dog", "fp16", resident=True).use
    assert not weigh(beside, HERE, "dog", "fp16", resident=True).use


@pytest.mark.parametrize(
    ("costs", "machine", "tail", "form", "said"),
    [
        (None, HERE, "cat", "fp16", "what it costs was not measured on this machine"),
        (COSTS, (*HERE, "a card"), "cat", "fp16", "not measured on this machine"),
        (COSTS, HERE, "cow", "fp16", "not measured on this machine"),
        (COSTS, HERE, "cat", "fp16 lz4", "what reading fp16 lz4 maps costs was not measured"),
    ],
)
def test_what_was_not_measured_is_used(costs, machine, tail, form, said):
    for resident in (True, False):
        verdict = weigh(costs, machine, tail, form, resident=resident)
        assert verdict.use
        assert verdict.why.startswith("Cache used: ")
        assert said in verdict.why


def test_the_sentence_names_the_cache_as_it_is_told():
    why = weigh(COSTS, HERE, "cat", "fp16", resident=False, name="Cache on disk").why
    assert why.startswith("Cache on disk not used: ")


def test_formats_and_machines():
    assert format_name("fp16", "none") == "fp16"
    assert format_name("fp32", "zstd") == "fp32 zstd"
    assert machine_of(get_backend("onnxruntime")) == (
        processor_name(), f"{usable_cores()} cores", "onnxruntime",
    )  # fmt: skip


SECONDS = st.floats(0, 1e6)
STORED = st.builds(StoreCosts, st.integers(0, 2**40), SECONDS, st.none() | SECONDS, SECONDS)
ANY_COSTS = st.builds(
    CacheCosts,
    machine=st.lists(st.text()).map(tuple),
    batch=st.integers(1, 4096),
    decode=SECONDS,
    prefix=SECONDS,
    tails=st.dictionaries(st.text(), SECONDS, max_size=3),
    store=st.dictionaries(st.text(), STORED, max_size=3),
    overlaps=st.booleans(),
)


@given(ANY_COSTS)
def test_costs_are_read_as_they_were_written(costs):
    assert from_plain(json.loads(json.dumps(to_plain(costs))), CacheCosts) == costs


def test_fields_of_a_later_version_are_left_out():
    value = to_plain(COSTS)
    stored = {**value["store"]["fp16"], "seek": 1}
    assert from_plain({**value, "network": [1], "store": {"fp16": stored}}, CacheCosts) == COSTS


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(to_plain(COSTS))), ANY_JSON)
def test_odd_costs_are_refused_or_can_be_weighed(field, odd):
    try:
        costs = from_plain({**to_plain(COSTS), field: odd}, CacheCosts)
    except ValueError:
        return
    verdict = weigh(costs, costs.machine, "cat", "fp16", resident=False)
    # Whatever it says, the sentence and the decision are the same.
    assert verdict.why.startswith("Cache used: " if verdict.use else "Cache not used: ")


@pytest.mark.parametrize(
    "value",
    [
        None, [], "costs", 7, {},
        {**to_plain(COSTS), "decode": None},
        {**to_plain(COSTS), "decode": float("nan")},
        {**to_plain(COSTS), "prefix": -1.0},
        {**to_plain(COSTS), "prefix": 10**400},
        {**to_plain(COSTS), "machine": 7},
        {**to_plain(COSTS), "tails": [1.0]},
        {**to_plain(COSTS), "tails": {"cat": "soon"}},
        {**to_plain(COSTS), "store": {"fp16": {"bytes": 1}}},
        {**to_plain(COSTS), "store": {"fp16": None}},
    ],
)  # fmt: skip
def test_what_is_no_costs(value):
    with pytest.raises(ValueError):
        from_plain(value, CacheCosts)
