"""Which detection belongs to which track: overlaps, distances and the cheapest assignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtkit.tensors import Array


def shared_areas(first: Array, second: Array) -> Array:
    """The area in pixels that each of N boxes shares with each of M, float64 N x M.

    Both float64 rows of x, y, width, height.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    ends = first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:]
    high = np.minimum(ends[0][:, None], ends[1][None])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=2))


def areas(boxes: Array) -> Array:
    return np.asarray(boxes[:, 2] * boxes[:, 3])


def overlaps(first: Array, second: Array) -> Array:
    """Intersection over union of each of N boxes with each of M, 0 to 1."""
    both = shared_areas(first, second)
    return np.asarray(both / np.maximum(areas(first)[:, None] + areas(second)[None] - both, 1e-9))


def inside(first: Array, second: Array) -> Array:
    """The share of each of N boxes that lies in each of M, 0 to 1."""
    return np.asarray(shared_areas(first, second) / np.maximum(areas(first)[:, None], 1e-9))


def centres(boxes: Array) -> Array:
    return np.asarray(boxes[:, :2] + boxes[:, 2:] / 2)


def assigned(costs: Array) -> list[tuple[int, int]]:
    """Pairs of row and column with the lowest sum of costs; an infinite cost forbids a pair."""
    from scipy.optimize import linear_sum_assignment

    allowed = np.isfinite(costs)
    if not allowed.any():
        return []
    # More than any sum of allowed ones, so that as many pairs as possible are made.
    most = float(np.abs(costs[allowed]).sum()) + 1.0
    rows, columns = linear_sum_assignment(np.where(allowed, costs, most))
    return [
        (int(row), int(column))
        for row, column in zip(rows, columns, strict=True)
        if allowed[row, column]
    ]


def union(boxes: Sequence[Array]) -> Array:
    """The smallest box around boxes."""
    stacked = np.stack(boxes)
    low = stacked[:, :2].min(axis=0)
    high = (stacked[:, :2] + stacked[:, 2:]).max(axis=0)
    return np.concatenate([low, high - low])


def side_by_side(boxes: Sequence[Array], least: float) -> list[Array]:
    """Boxes that do not overlap across, each the union of those above one another, from left to right.

    Only those whose height is at least the share `least` of all.
    """
    columns: list[list[Array]] = []
    for box in sorted(boxes, key=lambda box: float(box[0])):
        if columns and box[0] < max(own[0] + own[2] for own in columns[-1]):
            columns[-1].append(box)
        else:
            columns.append([box])
    height = union(boxes)[3]
    unions = [union(column) for column in columns]
    return [box for box in unions if box[3] >= least * height]
