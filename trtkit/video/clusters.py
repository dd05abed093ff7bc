"""Clusters of objects that look alike to the cheap model, so that one stands for all of them.

Incremental, as in Focus (Hsieh et al., OSDI 2018, section 4.2): an object joins the nearest cluster
within a distance, or starts one; the least recently used clusters can no longer be joined. The distance
to a cluster is the distance to its first object, so it never moves. Objects with different best classes
never share a cluster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trtkit.tensors import Array

# The rounding error of a float32 squared distance, so that distance 0 still matches equal vectors.
_ROUNDING = 1e-6


@dataclass
class Cluster:
    """`vector`: the features, of length 1, of its first object; `label`: that object's best class.

    `used`: the number of the object that joined it last. `id`: its id in the store, None before that.
    """

    vector: Array
    label: int
    used: int = 0
    id: int | None = None


class Clusters:
    """The clusters of one camera that can still be joined, at most `limit`.

    `distance`: up to which an object joins, 0 to 2. `stored`: the existing clusters, the least recently
    used first. Which cluster an object joins depends only on these and on the objects since.
    """

    def __init__(self, distance: float, limit: int, stored: Sequence[Cluster] = ()) -> None:
        self._distance = distance
        self._limit = limit
        self._clusters = list(stored)[-limit:]
        self._count = max((cluster.used for cluster in stored), default=0)
        self._labels = np.full(limit, -1, np.int64)
        self._lengths = np.zeros(limit, np.float32)
        self._vectors: Array | None = None
        for row, cluster in enumerate(self._clusters):
            self._place(row, cluster)

    def __len__(self) -> int:
        return len(self._clusters)

    def settled(self) -> Clusters:
        """The same clusters in the order in which a store returns them.

        The last bit of a sum of products depends on a row's place, so a run that is interrupted and
        resumed has to compare in the same order as one that is not.
        """
        by_use = sorted(self._clusters, key=lambda cluster: cluster.used)
        return Clusters(self._distance, self._limit, by_use)

    def assign(self, vector: Array, label: int) -> tuple[Cluster, bool]:
        """The cluster of an object with features `vector` (float32 D, length 1), and whether it is new."""
        self._count += 1
        row = self._nearest(vector, label)
        if row is not None:
            joined = self._clusters[row]
            joined.used = self._count
            return joined, False
        cluster = Cluster(vector, label, self._count)
        if len(self._clusters) < self._limit:
            row = len(self._clusters)
            self._clusters.append(cluster)
        else:
            row = min(range(self._limit), key=lambda place: self._clusters[place].used)
            self._clusters[row] = cluster
        self._place(row, cluster)
        return cluster, True

    def _nearest(self, vector: Array, label: int) -> int | None:
        if self._vectors is None:
            return None
        count = len(self._clusters)
        # |a - b|^2 = |a|^2 + |b|^2 - 2ab; rounded to fp16, the lengths are 1 only to three digits.
        lengths = self._lengths[:count] + _square(vector)
        squares = np.maximum(0.0, lengths - 2.0 * (self._vectors[:count] @ vector))
        squares[self._labels[:count] != label] = np.inf
        row = int(np.argmin(squares))
        return row if squares[row] <= self._distance**2 + _ROUNDING else None

    def _place(self, row: int, cluster: Cluster) -> None:
        if self._vectors is None:
            self._vectors = np.zeros((self._limit, len(cluster.vector)), np.float32)
        self._vectors[row] = cluster.vector
        self._lengths[row] = _square(cluster.vector)
        self._labels[row] = cluster.label


def _square(vector: Array) -> np.float32:
    return np.float32(np.dot(vector, vector))


def normalised(vectors: Array) -> Array:
    """Rows scaled to length 1 and rounded to fp16 values, float32; a row of zeros stays zeros."""
    wide = vectors.reshape(len(vectors), math.prod(vectors.shape[1:])).astype(np.float32)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    # Rounded like the stored vectors, so that reading them back compares equal.
    return np.asarray((wide / np.maximum(lengths, 1e-12)).astype(np.float16).astype(np.float32))
