"""Measuring a model block by block, through engines of the backend it is to run on.

The backend's profiler times the layers of each block in the engine of the whole model, so that layers are
fused as they will be. A cut adds the cost of converting and passing on its feature map. That is measured
with a real prefix and tail at the first and the last cut of each shape, and interpolated between them.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import onnx

from trtkit.atomic import scratch_folder
from trtkit.costs.caching import decode_seconds, entry_bytes, reading_threads, store_costs
from trtkit.costs.profile import BlockTime, CutCost, KindTime, Profile
from trtkit.costs.serving import serving_seconds
from trtkit.costs.timed import Timed
from trtkit.costs.workbench import Workbench, repeated, rounds_for
from trtkit.cpu import usable_cores
from trtkit.engines.base import Backend, LayerTime
from trtkit.engines.options import BuildOptions
from trtkit.graph.boundaries import CutPoint, cut_points, label_segments, segment_of
from trtkit.graph.files import write_model
from trtkit.graph.tree import Model
from trtkit.graph.values import image_input, tensor_infos
from trtkit.photos.samples import SampleImages
from trtkit.reporting import advance
from trtkit.runtime.models import load_graphs
from trtkit.store.cache import CacheOptions
from trtkit.store.costs import StoreCosts, format_name, machine_of
from trtkit.tensors import Array

# Profiled runs and plain ones take turns in so many parts: loading a profiled engine takes long.
CHUNKS = 3
# Photos whose feature maps are kept to see what they take on the disk.
MAPS = 4
STORED = (
    CacheOptions(),
    CacheOptions(codec="lz4"),
    CacheOptions(codec="zstd"),
    CacheOptions(dtype="fp32"),
)


@dataclass(frozen=True)
class ProfileRequest:
    """What to measure: a model on a backend. `digest` is that of the model's export.

    The images of `samples` are repeated to fill a `batch`; `timing` is a folder for measurements that
    the next build can use.
    """

    model: Model
    digest: str
    backend: Backend
    precision: str
    options: BuildOptions
    batch: int
    samples: SampleImages
    timing: Path


def measure_profile(request: ProfileRequest) -> Profile:
    """Measure it. Takes about as long as a hundred runs of the model, and building its engines.

    Raises TrtkitError when an engine cannot be built or run.
    """
    points = cut_points(request.model.graph, request.model.card)
    with scratch_folder() as folder:
        bench = _Bench(request, folder, points)
        advance("Measuring the blocks", 0.0)
        blocks, kinds = bench.layers()
        whole = statistics.median(bench.whole_seconds)
        # Time between layers is spread over all blocks.
        shares = [whole * seconds / sum(blocks) for seconds in blocks]
        photos = request.samples.photos(folder)
        cuts = _cuts(bench, request, points, shares, photos)
        workers = reading_threads(overlaps=request.backend.on_device)
        decode = decode_seconds(photos, request.model.card.preprocessing, workers)
        return Profile(
            model=request.model.name,
            digest=request.digest,
            backend=request.backend.name,
            backend_version=request.backend.version,
            precision=request.precision,
            machine=machine_of(request.backend),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            photos=request.samples.describe(),
            batch=request.batch,
            threads=usable_cores(),
            rounds=len(bench.whole_seconds),
            whole=whole,
            decode=decode,
            serve=serving_seconds(photos, request.model.card.classes, request.batch),
            overlaps=request.backend.on_device,
            blocks=tuple(
                BlockTime(name, seconds)
                for name, seconds in zip(
                    (*(point.block for point in points), "head"), blocks, strict=True
                )
            ),
            kinds=kinds,
            cuts=cuts,
        )


def _cuts(
    bench: _Bench,
    request: ProfileRequest,
    points: Sequence[CutPoint],
    shares: Sequence[float],
    photos: Sequence[Path],
) -> tuple[CutCost, ...]:
    """All cuts, from the blocks' `shares` of the whole and what is measured for each shape."""
    maps = bench.maps()
    workers = reading_threads(overlaps=request.backend.on_device)
    costs: list[CutCost] = []
    for alike in _by_shape(points):
        first, last = alike[0], alike[-1]
        advance(f"Measuring cut {first.cut}", first.cut / (len(points) + 1))
        stored = {
            _name(options): store_costs(
                photos, maps[first.cut], request.model.card.preprocessing, options, workers
            )
            for options in STORED
        }
        ends = [bench.handing(point, shares) for point in dict.fromkeys((first, last))]
        for point in alike:
            along = (point.cut - first.cut) / max(1, last.cut - first.cut)
            handing = ends[0].towards(ends[-1], along)
            costs.append(_cut_cost(point, shares, handing, stored, maps[point.cut]))
    return tuple(sorted(costs, key=lambda cost: cost.cut))


@dataclass(frozen=True)
class Handing:
    """The time of a prefix and a tail beyond their blocks; negative when they take less."""

    prefix: float
    tail: float

    def towards(self, other: Handing, share: float) -> Handing:
        """Between the two: itself at 0, the other at 1."""
        return Handing(
            self.prefix + share * (other.prefix - self.prefix),
            self.tail + share * (other.tail - self.tail),
        )


def _by_shape(points: Sequence[CutPoint]) -> list[list[CutPoint]]:
    """The cuts that hand over the same shape, together, each in order."""
    by_shape: dict[tuple[int, ...], list[CutPoint]] = defaultdict(list)
    for point in points:
        by_shape[point.shape].append(point)
    return list(by_shape.values())


def _cut_cost(
    point: CutPoint,
    blocks: Sequence[float],
    handing: Handing,
    stored: dict[str, StoreCosts],
    maps: Sequence[Array],
) -> CutCost:
    own = {
        _name(options): statistics.fmean(entry_bytes(feature, options) for feature in maps)
        for options in STORED
    }
    return CutCost(
        cut=point.cut,
        block=point.block,
        tensor=point.tensor,
        shape=point.shape,
        flops_share=point.flops_share,
        prefix=max(0.0, sum(blocks[: point.cut]) + handing.prefix),
        tail=max(0.0, sum(blocks[point.cut :]) + handing.tail),
        stored={form: replace(costs, bytes=round(own[form])) for form, costs in stored.items()},
    )


class _Bench:
    """The engine of the whole model, loaded, and what is measured beside it."""

    def __init__(self, request: ProfileRequest, folder: Path, points: Sequence[CutPoint]) -> None:
        self._request = request
        self._points = points
        self._images = repeated(request.samples.images, request.batch)
        self._bench = Workbench(
            request.backend, request.precision, request.options, folder, request.timing
        )
        labelled = onnx.ModelProto()
        labelled.CopyFrom(request.model.graph)
        label_segments(labelled, points)
        self._file = self._bench.build(labelled, "whole", root=True, leaf=True)
        self._whole = Timed(self._bench.load([("head", self._file)]), self._images)
        self.whole_seconds: list[float] = []

    def layers(self) -> tuple[list[float], tuple[KindTime, ...]]:
        """Seconds per photo of every segment, the head last, and of every type of layer."""
        backend, batch = self._request.backend, self._request.batch
        feed = {image_input(self._request.model.graph).name: self._images}
        count = -(-rounds_for(self._whole.computed()) // CHUNKS)
        runs: list[list[LayerTime]] = []
        for _ in range(CHUNKS):
            # In turns with the plain engine, so that other load slows down both.
            self.whole_seconds += [self._whole.computed() / batch for _ in range(count)]
            runs.append(backend.layer_times(self._file.path, self._file.record, feed, count))
        return by_segment(runs, len(self._points) + 1, batch), by_kind(runs, batch)

    def maps(self) -> dict[int, list[Array]]:
        """A few photos' feature maps at every cut, in the dtype that the engines hand over."""
        graph = onnx.ModelProto()
        graph.CopyFrom(self._request.model.graph)
        infos = tensor_infos(graph)
        outputs = [
            onnx.helper.make_tensor_value_info(point.tensor, infos[point.tensor].dtype, None)
            for point in self._points
        ]
        graph.graph.output.extend(outputs)
        path = self._bench.folder / "maps.onnx"
        write_model(graph, path)
        model = load_graphs(("head", path), exact=True)
        dtype = "float32" if self._request.precision == "fp32" else "float16"
        maps: dict[int, list[Array]] = {point.cut: [] for point in self._points}
        for image in self._request.samples.images[:MAPS]:
            values = model.values((point.tensor for point in self._points), image[None])
            for point in self._points:
                (value,) = values[point.tensor]
                # Quantized maps keep their dtype.
                maps[point.cut].append(value.astype(dtype) if value.dtype.kind == "f" else value)
        return maps

    def handing(self, point: CutPoint, blocks: Sequence[float]) -> Handing:
        """The time of engines split there beyond their blocks, measured in turns with the whole one."""
        halves = Timed(self._bench.split_model(self._request.model, point), self._images)
        before, behind = [], []
        for _ in range(rounds_for(3 * self._whole.computed())):
            whole, computed, hit = self._whole.computed(), halves.computed(), halves.hit()
            before.append((computed - hit) / whole)
            behind.append(hit / whole)
        usual = statistics.median(self.whole_seconds)
        return Handing(
            prefix=statistics.median(before) * usual - sum(blocks[: point.cut]),
            tail=statistics.median(behind) * usual - sum(blocks[point.cut :]),
        )


def by_segment(chunks: Sequence[Sequence[LayerTime]], segments: int, batch: int) -> list[float]:
    """Seconds per photo of each segment: the median over the runs of the sum of its layers.

    Layers that the backend added (a change of layout) count for the layer before them.
    """
    runs: list[list[float]] = []
    for layers in chunks:
        first = len(runs)
        runs += [[0.0] * segments for _ in layers[0].seconds]
        segment = 1
        for layer in layers:
            segment = segment_of(layer.name) or segment
            for place, seconds in enumerate(layer.seconds, start=first):
                runs[place][segment - 1] += seconds
    return [statistics.median(seconds) / batch for seconds in zip(*runs, strict=True)]


def by_kind(chunks: Sequence[Sequence[LayerTime]], batch: int) -> tuple[KindTime, ...]:
    """Seconds per photo of each type of layer, the longest first."""
    medians: dict[str, list[float]] = defaultdict(list)
    for layers in zip(*chunks, strict=True):
        seconds = [seconds for layer in layers for seconds in layer.seconds]
        medians[layers[0].kind].append(statistics.median(seconds) / batch)
    kinds = (KindTime(kind, len(layers), sum(layers)) for kind, layers in medians.items())
    return tuple(sorted(kinds, key=lambda kind: -kind.seconds))


def _name(options: CacheOptions) -> str:
    return format_name(options.dtype, options.codec)
