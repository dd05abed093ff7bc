"""Finding the fewest layers that stay float, with judges whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log2

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import helper

from tests.graph.onnx_graphs import classifier, make_model
from tests.reports import recorded
from trtkit.errors import TrtkitError
from trtkit.graph.card import ModelCard
from trtkit.graph.quantize import kernel_edges
from trtkit.graph.tree import Model
from trtkit.preprocessing import Preprocessing
from trtkit.quantization.accuracy import Accuracy
from trtkit.quantization.search import Trial, find_kept, rank

LEAST = 0.99


def model_of(graph: onnx.ModelProto) -> Model:
    return Model("m", graph, ModelCard("foreign", "none", ["a", "b"], Preprocessing(8, 8, 8), []))


def chain(count: int) -> Model:
    """Convolutions conv0, conv1 ... in a row, all of the same work."""
    return channels(*[1] * (count + 1))


def channels(*counts: int) -> Model:
    """Convolutions in a row from so many channels to so many: the work of each is their product."""
    weights = {
        f"w{n}": np.ones((after, before, 1, 1), np.float32)
        for n, (before, after) in enumerate(pairwise(counts))
    }
    nodes = [
        helper.make_node("Conv", [f"t{n}" if n else "x", f"w{n}"], [f"t{n + 1}"], f"conv{n}")
        for n in range(len(weights))
    ]
    output = f"t{len(weights)}", ["N", counts[-1], 2, 2]
    return model_of(make_model(nodes, ["N", counts[0], 2, 2], output, weights))


@dataclass
class Example:
    """A model whose int8 layers add known errors, and what is good enough.

    What `make` gives is no graph but the layers that stay float, which the judge looks at.
    """

    model: Model
    errors: dict[str, float]
    good: Callable[[frozenset[str]], bool]
    kept: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.judged: list[frozenset[str]] = []
        self.ranked_with: list[frozenset[str]] = []
        self.phases: list[tuple[str, float]] = []

    def make(self, kept: Sequence[str]) -> Model:
        assert len(set(kept)) == len(kept)
        return Model("m", frozenset(kept), self.model.card)

    def accuracy(self, kept: frozenset[str]) -> Accuracy:
        self.judged.append(kept)
        agreement = 1.0 if self.good(kept) else 0.5
        return Accuracy(100, 0, agreement, None, None, 0.1, 0.01, 0.02)

    def error(self, kept: frozenset[str]) -> float:
        self.ranked_with.append(kept)
        return max(error for name, error in self.errors.items() if name not in kept)

    def find(self) -> Trial:
        edges = kernel_edges(self.model.graph.graph)
        with recorded() as reports:
            trial = find_kept(self.model, self, self.make, edges, self.kept, LEAST)
        self.phases = reports.phases
        return trial


def example(
    errors: Sequence[float], needed: Collection[int], kept: Collection[int] = ()
) -> Example:
    """Good exactly where the needed layers are float."""
    names = {f"conv{n}" for n in needed}
    return Example(
        chain(len(errors)),
        {f"conv{n}": error for n, error in enumerate(errors)},
        names.issubset,
        [f"conv{n}" for n in kept],
    )


def most_trials(layers: int) -> int:
    """Of all int8, then doubling up, then halving down."""
    return 2 + 2 * ceil(log2(max(layers, 2)))


def test_nothing_is_kept_where_int8_is_good_at_once():
    tried = example([3, 1, 2], needed=[])
    trial = tried.find()
    assert trial.kept == ()
    assert trial.model.graph == frozenset()
    assert trial.accuracy.agreement == 1.0
    assert trial.before == trial.accuracy
    assert (len(tried.judged), tried.ranked_with, tried.phases) == (1, [], [])


def test_the_layer_that_adds_the_largest_error_is_kept_first():
    trial = example([1, 2, 5, 3, 4], needed=[2]).find()
    assert trial.kept == ("conv2",)
    assert trial.model.graph == {"conv2"}
    assert (trial.before.agreement, trial.accuracy.agreement) == (0.5, 1.0)


def test_the_fewest_by_rank_are_kept():
    trial = example([1, 2, 5, 3, 4, 0], needed=[3]).find()
    assert trial.kept == ("conv2", "conv4", "conv3")


def test_layers_are_those_that_compute():
    model = model_of(classifier())
    layers = {"conv1": 4.0, "conv2": 1.0, "add": 2.0, "pool": 3.0, "gemm": 5.0}
    tried = Example(model, layers, {"gemm", "conv1", "pool"}.issubset)
    assert tried.find().kept == ("gemm", "conv1", "pool")
    # All but one are float while that one is ranked; the flattening only moves values.
    assert tried.ranked_with == [set(layers) - {name} for name in layers]
    assert tried.phases == [
        ("Ranking layers by the error they add", share) for share in (0, 0.2, 0.4, 0.6, 0.8)
    ]


@given(st.data())
def test_what_is_found_is_the_shortest_beginning_of_the_ranking(data):
    count = data.draw(st.integers(2, 40))
    errors = data.draw(st.permutations(range(1, count + 1)))
    needed = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    tried = example(errors, needed)
    order = sorted(range(count), key=lambda n: -errors[n])
    fewest = 1 + max(order.index(n) for n in needed)
    if fewest == count:
        with pytest.raises(TrtkitError, match="returning layers to float does not help"):
            tried.find()
    elif 2 * fewest > count:
        with pytest.raises(TrtkitError, match=rf"only with {fewest / count:.1%} of its work float"):
            tried.find()
    else:
        assert tried.find().kept == tuple(f"conv{n}" for n in order[:fewest])
    assert len(tried.judged) <= most_trials(count)
    assert len(tried.ranked_with) == count


def test_trials_are_few_where_layers_are_many():
    count = 300
    for needed in (1, 2, 17, 150, 152, 298):
        tried = example(range(count, 0, -1), needed=range(needed))
        if needed <= 150:
            assert len(tried.find().kept) == needed
        else:
            with pytest.raises(TrtkitError, match=f"only with {needed / 300:.1%} of its work"):
                tried.find()
        assert len(tried.judged) <= most_trials(count) == 20


def test_the_search_begins_with_what_is_kept_already():
    tried = example([9, 1, 2, 4, 3], needed=[0, 3], kept=[0])
    trial = tried.find()
    assert trial.kept == ("conv0", "conv3")
    assert tried.judged[0] == {"conv0"}
    assert all("conv0" in kept for kept in tried.judged)


def test_what_is_kept_already_adds_no_error_to_the_ranking():
    # conv0 is so bad that beside it no other layer's error would be seen.
    tried = example([9, 1, 2, 4, 3, 0], needed=[3, 4], kept=[0])
    assert tried.find().kept == ("conv0", "conv3", "conv4")
    assert len(tried.ranked_with) == 5
    assert all("conv0" in kept for kept in tried.ranked_with)


def test_what_is_kept_already_may_do():
    tried = example([1, 2, 3, 4], needed=[1], kept=[1, 0])
    assert tried.find().kept == ("conv1", "conv0")
    assert tried.ranked_with == []


@given(st.data())
def test_what_is_kept_already_stays_kept(data):
    count = data.draw(st.integers(3, 20))
    errors = data.draw(st.permutations(range(1, count + 1)))
    kept = data.draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count - 2))
    needed = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    others = sorted(set(range(count)) - set(kept), key=lambda n: -errors[n])
    fewest = max((1 + others.index(n) for n in needed if n in others), default=0)
    assume(fewest < len(others))
    tried = example(errors, needed, kept)
    # What is kept already counts as work that is float.
    if 2 * (len(kept) + fewest) > count:
        with pytest.raises(TrtkitError, match="work float"):
            tried.find()
    else:
        assert tried.find().kept == tuple(f"conv{n}" for n in (*kept, *others[:fewest]))


def test_where_nothing_helps_it_says_what_was_missed():
    tried = Example(chain(6), {f"conv{n}": 1.0 for n in range(6)}, lambda kept: False)
    with pytest.raises(
        TrtkitError,
        match=r"^int8 does not keep the accuracy of m: 50 of 100 held-out photos have the same best "
        r"class as in fp32 \(at least 99\.0%\), and returning layers to float does not help; .* "
        r"--min-agreement or build with --fp16\. Nothing was kept\.$",
    ):
        tried.find()
    # At least one layer is int8.
    assert max(len(kept) for kept in tried.judged) == 5


def test_half_of_the_work_may_be_float_and_no_more():
    assert example([4, 3, 2, 1], needed=[1]).find().kept == ("conv0", "conv1")
    tried = example([4, 3, 2, 1], needed=[2])
    with pytest.raises(
        TrtkitError,
        match=r"^int8 keeps the accuracy of m only with 75.0% of its work float; .* --fp16\. Nothing was "
        r"kept\.$",
    ):
        tried.find()


@pytest.mark.parametrize(
    ("counts", "refused"),
    [
        # The work is 6, 3 and 3.
        ((2, 3, 1, 3), None),
        # 6, 3 and 2.
        ((2, 3, 1, 2), "54.5%"),
        # 15000, or 15100, and twice 7500.
        ((150, 100, 75, 100), None),
        ((151, 100, 75, 100), "50.2%"),
    ],
)
def test_it_is_the_work_that_counts_and_not_how_many_layers(counts, refused):
    tried = Example(
        channels(*counts), {"conv0": 3, "conv1": 2, "conv2": 1}, frozenset({"conv0"}).issubset
    )
    if refused is None:
        assert tried.find().kept == ("conv0",)
    else:
        with pytest.raises(TrtkitError, match=f"only with {refused}.* of its work float"):
            tried.find()


@pytest.mark.parametrize("heavy_is_needed", [False, True])
def test_layers_without_multiplications_are_no_work(heavy_is_needed):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv0"),
        *(helper.make_node("Add", [a, a], [b], f"add{a}") for a, b in pairwise("abcde")),
        helper.make_node("Conv", ["e", "w"], ["y"], "conv1"),
    ]
    shape = ["N", 1, 2, 2]
    weight = {"w": np.ones((1, 1, 1, 1), np.float32)}
    adds = ["adda", "addb", "addc", "addd"]
    needed = [*adds, "conv1"] if heavy_is_needed else adds
    errors = {**dict.fromkeys(needed, 5.0), "conv0": 1.0} | (
        {} if heavy_is_needed else {"conv1": 2.0}
    )
    model = model_of(make_model(nodes, shape, ("y", shape), weight))
    assert set(Example(model, errors, set(needed).issubset).find().kept) == set(needed)


def test_what_is_kept_already_counts_as_work():
    assert example([9, 5, 1, 2], needed=[1], kept=[0]).find().kept == ("conv0", "conv1")
    with pytest.raises(TrtkitError, match="only with 75.0% of its work float"):
        example([9, 5, 1, 2], needed=[1], kept=[0, 2]).find()


def test_what_is_kept_already_may_be_too_much_even_where_nothing_is_missing():
    with pytest.raises(TrtkitError, match="only with 75.0% of its work float"):
        example([9, 5, 1, 2], needed=[], kept=[0, 1, 2]).find()


@pytest.mark.parametrize("kept", [(), ("conv0",)])
def test_one_layer_has_none_to_return(kept):
    tried = Example(chain(1), {"conv0": 1.0}, lambda kept: False, kept)
    with pytest.raises(TrtkitError, match="does not keep"):
        tried.find()
    assert len(tried.judged) == 1


@given(st.sets(st.integers(0, 20)), st.permutations(range(21)))
def test_what_is_given_is_always_good_enough(good_counts, errors):
    """Also where keeping more makes it worse again."""
    tried = example(errors, needed=[])
    tried.good = lambda kept: len(kept) in good_counts
    try:
        trial = tried.find()
    except TrtkitError as error:
        fewest = min(good_counts.intersection(map(len, tried.judged)), default=None)
        assert ("does not help" in str(error)) == (fewest is None)
        assert fewest is None or 2 * fewest > 21
        return
    assert 2 * len(trial.kept) <= 21
    assert len(trial.kept) in good_counts
    assert trial.model.graph == set(trial.kept)
    assert trial.accuracy.shortfall(LEAST) is None
    # Of those that were tried none was better.
    assert len(trial.kept) == min(len(kept) for kept in tried.judged if len(kept) in good_counts)


def test_layers_with_equal_errors_keep_the_order_of_the_graph():
    tried = example([1, 2, 1, 2], needed=[])
    assert rank(list(tried.errors), tried, tried.make) == [
        "conv1", "conv3", "conv0", "conv2"
    ]  # fmt: skip
