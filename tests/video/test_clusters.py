"""Which cluster an object joins, which cluster leaves, and that a run broken off goes on the same."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtkit.video.clusters import Cluster, Clusters, normalised

SIZE = 4
# What fp16 and sums in float32 may do to a distance.
ROUNDING = 2e-3


@st.composite
def runs(draw: st.DrawFn) -> tuple[float, int, np.ndarray, list[int], list[int]]:
    """A distance, a limit, features and best classes of objects, and where segments end."""
    count = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centres = rng.normal(size=(draw(st.integers(1, 5)), SIZE))
    spread = draw(st.sampled_from([0.0, 0.05, 0.3]))
    vectors = centres[rng.integers(0, len(centres), count)]
    vectors = normalised(vectors + spread * rng.normal(size=vectors.shape))
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    cuts = draw(st.lists(st.integers(0, count), max_size=5))
    distance = draw(st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.0]))
    return distance, draw(st.integers(1, 6)), vectors, labels, sorted(cuts)


def naive(
    distance: float, limit: int, vectors: np.ndarray, labels: list[int]
) -> list[tuple[int, int]]:
    """For each object the one that began its cluster, and how many clusters there are then."""
    active: list[list[int]] = []  # who began it, who joined last
    said = []
    for row, label in enumerate(labels):
        away = [
            (float(np.linalg.norm(vectors[begun].astype(float) - vectors[row])), place)
            for place, (begun, _) in enumerate(active)
            if labels[begun] == label
        ]
        best = min(away, default=(np.inf, -1))
        if best[0] <= distance:
            active[best[1]][1] = row
            said.append((active[best[1]][0], len(active)))
            continue
        if len(active) == limit:
            oldest = min(range(limit), key=lambda place: active[place][1])
            active[oldest] = [row, row]
        else:
            active.append([row, row])
        said.append((row, len(active)))
    return said


@given(runs())
def test_members_are_within_the_distance_and_of_the_class_of_what_began_their_cluster(
    run: tuple[float, int, np.ndarray, list[int], list[int]],
) -> None:
    distance, limit, vectors, labels, _ = run
    clusters = Clusters(distance, limit)
    for vector, label in zip(vectors, labels, strict=True):
        cluster, new = clusters.assign(vector, label)
        assert cluster.label == label
        assert np.linalg.norm(cluster.vector.astype(float) - vector) <= distance + ROUNDING
        assert not new or cluster.vector is vector
        assert len(clusters) <= limit


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 40))
def test_each_object_joins_the_nearest_there_is_else_begins_one(
    seed: int, limit: int, count: int
) -> None:
    # Corners of a cube and small steps from them: no distance is near the limit of 0.5.
    rng = np.random.default_rng(seed)
    corners = rng.choice([-1.0, 1.0], size=(count, SIZE))
    vectors = normalised(corners + rng.choice([-0.1, 0.0, 0.1], size=corners.shape))
    labels = rng.integers(0, 2, count).tolist()
    clusters = Clusters(0.5, limit)
    begun: dict[int, int] = {}
    said = []
    for row, (vector, label) in enumerate(zip(vectors, labels, strict=True)):
        cluster, new = clusters.assign(vector, label)
        if new:
            begun[id(cluster)] = row
            cluster.id = row
        said.append((cluster.id, len(clusters)))
    assert said == naive(0.5, limit, vectors, labels)


def test_it_joins_the_nearest_of_two_within_the_distance() -> None:
    angles = np.radians([0, 80, 50])
    first, second, between = normalised(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    clusters = Clusters(1.0, 4)
    clusters.assign(first, 0)
    near, new = clusters.assign(second, 0)
    assert new
    assert clusters.assign(between, 0) == (near, False)


def test_the_longest_unused_leaves() -> None:
    a, b, c = np.eye(3, dtype=np.float32)
    clusters = Clusters(0.1, 2)
    first, _ = clusters.assign(a, 0)
    clusters.assign(b, 0)
    assert clusters.assign(a, 0) == (first, False)
    clusters.assign(c, 0)  # b's leaves: a's was used after it
    assert clusters.assign(a, 0) == (first, False)
    assert clusters.assign(b, 0)[1]


def test_another_best_class_is_another_cluster_however_alike() -> None:
    clusters = Clusters(2.0, 4)
    vector = normalised(np.ones((1, SIZE)))[0]
    assert clusters.assign(vector, 0)[1]
    assert clusters.assign(vector, 1)[1]
    assert not clusters.assign(vector, 0)[1]


@given(runs())
@settings(max_examples=150)
def test_a_run_that_is_broken_off_and_rebuilt_from_the_store_assigns_the_same(
    run: tuple[float, int, np.ndarray, list[int], list[int]],
) -> None:
    distance, limit, vectors, labels, cuts = run
    ends = [0, *cuts, len(vectors)]
    whole, broken = Clusters(distance, limit), Clusters(distance, limit)
    stored: dict[int, Cluster] = {}  # whatever was ever begun, as the store has it
    for start, end in pairwise(ends):
        for vector, label in zip(vectors[start:end], labels[start:end], strict=True):
            one, new = whole.assign(vector, label)
            other, begun = broken.assign(vector, label)
            assert (new, one.used) == (begun, other.used)
            if new:
                one.id = other.id = len(stored)
            assert one.id == other.id
            stored[one.id] = Cluster(other.vector, other.label, other.used, other.id)
        whole = whole.settled()
        used_last = sorted(stored.values(), key=lambda each: each.used)[-limit:]
        again = [Cluster(c.vector.copy(), c.label, c.used, c.id) for c in used_last]
        broken = Clusters(distance, limit, again)
        assert len(whole) == len(broken)


def test_settled_goes_by_use() -> None:
    a, b, c = np.eye(3, dtype=np.float32)
    clusters = Clusters(0.1, 3)
    for vector in (a, b, c, a):
        clusters.assign(vector, 0)
    assert [int(each.vector.argmax()) for each in clusters.settled()._clusters] == [1, 2, 0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 64))
def test_distance_0_takes_the_same_features_and_no_others(seed: int, size: int) -> None:
    vector, other = normalised(np.random.default_rng(seed).normal(size=(2, size)) + 1e-9)
    clusters = Clusters(0.0, 4)
    clusters.assign(vector, 0)
    assert not clusters.assign(vector.copy(), 0)[1]
    if np.abs(vector - other).max() > 0.01:
        assert clusters.assign(other, 0)[1]


def test_distance_0_takes_the_same_features_wherever_they_lie_and_however_many_they_are() -> None:
    vectors = normalised(np.random.default_rng(0).normal(size=(50, 515)))
    clusters = Clusters(0.0, 50)
    begun = [clusters.assign(vector, 0)[0] for vector in vectors]
    assert len({id(each) for each in begun}) == 50
    assert [clusters.assign(vector.copy(), 0) for vector in vectors] == [
        (each, False) for each in begun
    ]


def test_of_more_that_are_known_the_last_used_are_kept() -> None:
    vectors = np.eye(4, dtype=np.float32)
    known = [Cluster(vector, 0, used, used) for used, vector in enumerate(vectors)]
    clusters = Clusters(0.1, 2, known)
    assert len(clusters) == 2
    assert [clusters.assign(vector, 0)[1] for vector in vectors[[2, 3]]] == [False, False]
    assert clusters.assign(vectors[0], 0)[1]


def test_objects_without_any_features_are_alike() -> None:
    zeros, one = normalised(np.array([[0, 0, 0], [0, 0, 2.0]]))
    clusters = Clusters(0.5, 4)
    clusters.assign(zeros, 0)
    assert not clusters.assign(zeros, 0)[1]
    assert clusters.assign(one, 0)[1]


@pytest.mark.parametrize("shape", [(0, 3), (2, 3), (2, 3, 1, 1)])
def test_normalised_has_length_1_in_values_of_fp16(shape: tuple[int, ...]) -> None:
    vectors = normalised(np.arange(1, 1 + np.prod(shape), dtype=np.float64).reshape(shape))
    assert vectors.dtype == np.float32
    assert vectors.shape == (shape[0], 3)
    assert np.array_equal(vectors, vectors.astype(np.float16).astype(np.float32))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
