"""From exported models to int8 ones: ranges, pairs, and the layers that stay float."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from trtkit.errors import listed
from trtkit.graph.boundaries import cut_points
from trtkit.graph.card import BlockBoundary
from trtkit.graph.precision import name_nodes
from trtkit.graph.quantize import Edges, Form, kernel_edges, layers_of, quantize_graph
from trtkit.graph.split import find_cut
from trtkit.graph.tree import Model, stage_tree
from trtkit.graph.values import ancestors, flops_share
from trtkit.quantization.accuracy import Accuracy, AccuracyGate
from trtkit.quantization.calibrate import RangeSource
from trtkit.quantization.photos import (
    AUTO,
    CONFIDENCE,
    CalibrationPhotos,
    Int8Options,
    calibration_photos,
)
from trtkit.quantization.ranges import METHODS, Ranges, ranges_path, read_ranges
from trtkit.quantization.search import Trial, find_kept
from trtkit.reporting import message
from trtkit.serialization import to_plain


@dataclass(frozen=True)
class Quantized:
    """int8 models, whose cards name their cuts' quantized tensors, and the record for the manifest."""

    models: tuple[Model, ...]
    record: dict[str, Any]


@dataclass(frozen=True)
class _CalibratedModel:
    """A model with its ranges. `prefix`: the nodes of its prefix, in one order for all models."""

    model: Model
    ranges: Ranges
    edges: Edges
    form: Form
    prefix: tuple[str, ...]
    boundaries: tuple[str, ...]
    gate: AccuracyGate

    def quantized(self, kept: Collection[str] = ()) -> Model:
        """The model with all but those layers int8."""
        edges = {node: places for node, places in self.edges.items() if node not in kept}
        return _quantized(self.model, self.ranges, edges, self.form, self.boundaries)

    def accuracy(self) -> Accuracy:
        """With all layers int8."""
        return self.gate.accuracy(self.quantized().graph)


def quantize_models(
    models: Sequence[Model],
    digests: Mapping[str, str],
    cut: int,
    form: Form,
    options: Int8Options,
    folder: Path,
) -> Quantized:
    """Make the models int8, with one prefix up to `cut` if they share it; none if `cut` is 0.

    `digests`: of their exports, by name; `folder`: for graphs that are tried. Ranges are reused where
    model, photos and method are the same. Raises TrtkitError when photos or ModelOpt are missing, the
    prefixes differ, or a model's accuracy cannot be kept.
    """
    named = [_named(model) for model in models]
    if cut:
        # Fails for prefixes that differ, before minutes of measuring.
        stage_tree(named, cut, "fp32")
    photos = calibration_photos(options.folder, options.images, options.needed)
    options.check_provable(photos)
    for warning in photos.warnings():
        message(warning)
    return _Quantizer(cut, form, options, folder, photos).quantize(named, digests)


def ranged_model(model: Model, digest: str, form: Form, options: Int8Options) -> Model:
    """The model in int8, all cuts possible and its accuracy not judged: to be measured.

    Raises TrtkitError when photos or ModelOpt are missing.
    """
    named = _named(model)
    photos = calibration_photos(options.folder, options.images, options.needed)
    ranges = RangeSource(named, digest, photos, options).read_or_measure()
    boundaries = [point.tensor for point in cut_points(named.graph, named.card)]
    return _quantized(named, ranges, _edges(named, ranges, form), form, boundaries)


def _named(model: Model) -> Model:
    graph = onnx.ModelProto()
    graph.CopyFrom(model.graph)
    name_nodes(graph.graph)
    return replace(model, graph=graph)


def _edges(model: Model, ranges: Ranges, form: Form) -> Edges:
    return kernel_edges(model.graph.graph) if form.own_placement else ranges.edges


def _quantized(
    model: Model, ranges: Ranges, edges: Edges, form: Form, boundaries: Sequence[str]
) -> Model:
    graph, names = quantize_graph(model.graph, ranges.ranges, edges, form, boundaries)
    blocks = [
        BlockBoundary(point.block, names.get(point.tensor, point.tensor))
        for point in cut_points(model.graph, model.card)
    ]
    return replace(model, graph=graph, card=replace(model.card, blocks=blocks))


@dataclass(frozen=True)
class _Quantizer:
    """The models of one build on their way to int8."""

    cut: int
    form: Form
    options: Int8Options
    folder: Path
    photos: CalibrationPhotos

    def quantize(self, models: Sequence[Model], digests: Mapping[str, str]) -> Quantized:
        calibrated: list[_CalibratedModel] = []
        for model in models:
            source = RangeSource(model, digests[model.name], self.photos, self.options)
            calibrated.append(self._calibrated(source, calibrated[:1]))
            if (only := calibrated[-1].gate.one_class) is not None:
                message(
                    f"{model.name} takes all held-out photos of {self.options.folder} for {only}."
                )
        # A list of float layers holds for this form, cut, models and agreement.
        names = ", ".join(sorted(model.name for model in models))
        key = f"{self.form.name}, cut {self.cut} of {names}, agreement {self.options.min_agreement}"
        trials = self._trials(calibrated, key)
        for item, trial in zip(calibrated, trials, strict=True):
            message(self._describe(item, trial))
            self._store_kept(trial, key)
        record = self._record(calibrated, trials)
        return Quantized(tuple(trial.model for trial in trials), record)

    def _calibrated(
        self, source: RangeSource, first: Sequence[_CalibratedModel]
    ) -> _CalibratedModel:
        """The model with the chosen ranges; for `auto` max if entropy falls short and max is better.

        The tails that entropy cuts off can tell classes apart in networks of few or unsure classes.
        """
        ranges = source.read_or_measure()
        by_entropy = self._with_ranges(source.model, ranges, first)
        other_method = METHODS[1]
        if self.options.method != AUTO or other_method in (ranges.method, *ranges.rejected):
            return by_entropy
        accuracy = by_entropy.accuracy()
        if accuracy.shortfall(self.options.min_agreement, proved=self.options.proved) is None:
            return by_entropy
        other_ranges = source.measure(other_method)
        by_max = self._with_ranges(source.model, other_ranges, first)
        other_accuracy = by_max.accuracy()
        message(
            f"{source.model.name}: {accuracy.agreement:.1%} of the held-out photos keep their best class "
            f"calibrated by entropy, {other_accuracy.agreement:.1%} by max"
        )
        if other_accuracy.agreement > accuracy.agreement:
            source.store(other_ranges)
            return by_max
        # The next build does not measure it again.
        source.store(replace(ranges, rejected=(other_method,)))
        return by_entropy

    def _with_ranges(
        self, model: Model, ranges: Ranges, first: Sequence[_CalibratedModel]
    ) -> _CalibratedModel:
        prefix: tuple[str, ...] = ()
        boundaries: tuple[str, ...] = ()
        edges = _edges(model, ranges, self.form)
        if self.cut:
            tensor = find_cut(model.graph, model.card, self.cut, model.name).tensor
            nodes = ancestors(model.graph.graph, [tensor])
            prefix, boundaries = tuple(node.name for node in nodes), (tensor,)
            if first:
                ranges, edges = _with_prefix_of(first[0], ranges, edges, nodes)
        folder = self.folder / model.name
        folder.mkdir(parents=True, exist_ok=True)
        gate = AccuracyGate(model, self.photos, self.form, folder)
        return _CalibratedModel(model, ranges, edges, self.form, prefix, boundaries, gate)

    def _trials(self, calibrated: Sequence[_CalibratedModel], key: str) -> list[Trial]:
        """For every model the layers that stay float; those of the shared prefix stay so for all."""
        first = calibrated[0]
        kept = [
            # Unknown layer names are ignored.
            set(item.ranges.kept.get(key, ())) & item.edges.keys()
            for item in calibrated
        ]
        shared = {
            first.prefix[place]
            for item, names in zip(calibrated, kept, strict=True)
            for place, name in enumerate(item.prefix)
            if name in names
        }
        while True:
            before = set(shared)
            trials = []
            for item, names in zip(calibrated, kept, strict=True):
                own = dict(zip(first.prefix, item.prefix, strict=True))
                names |= {own[name] for name in shared}
                trial = find_kept(
                    item.model,
                    item.gate,
                    item.quantized,
                    item.edges,
                    sorted(names),
                    self.options.min_agreement,
                    proved=self.options.proved,
                )
                names |= set(trial.kept)
                shared |= {name for name, own_name in own.items() if own_name in trial.kept}
                trials.append(trial)
            # A prefix layer that a later model needs float is float in the earlier models too.
            if shared == before or len(calibrated) == 1:
                return trials

    def _store_kept(self, trial: Trial, key: str) -> None:
        path = ranges_path(self.options.home, trial.model.name)
        stored, _ = read_ranges(path)
        kept = tuple(sorted(trial.kept))
        if stored is not None and stored.kept.get(key, ()) != kept:
            replace(stored, kept={**stored.kept, key: kept}).write(path)

    def _describe(self, item: _CalibratedModel, trial: Trial) -> str:
        model, accuracy = item.model, trial.accuracy
        text = (
            f"{model.name} in int8: {accuracy.agreement:.1%} of {accuracy.images} held-out photos keep "
            f"their best class (at least {self.options.min_agreement:.1%}"
            f"{' proved' if self.options.proved else ''})"
        )
        if accuracy.ties:
            text += f", {accuracy.ties} of them up to a class of nearly equal score"
        if accuracy.top1 is not None and accuracy.reference_top1 is not None:
            text += f", top-1 {accuracy.top1:.1%} (fp32 {accuracy.reference_top1:.1%})"
        if trial.kept:
            text += (
                f"; {len(trial.kept)} of {len(layers_of(model.graph.graph, item.edges))} layers stay "
                f"float for that, {flops_share(model.graph, trial.kept):.1%} of its work: "
                f"{listed(trial.kept)}"
            )
        if trial.before != accuracy:
            text += f" (without them {trial.before.agreement:.1%})"
        return (
            f"{text}. That proves at least {accuracy.proved:.1%} for photos like these, with a "
            f"confidence of {CONFIDENCE:.0%}."
        )

    def _record(
        self, calibrated: Sequence[_CalibratedModel], trials: Sequence[Trial]
    ) -> dict[str, Any]:
        first, photos = calibrated[0], self.photos
        return {
            "form": self.form.name,
            "method": first.ranges.method,
            "tool": first.ranges.tool,
            "photos": str(self.options.folder),
            "images": photos.id,
            "calibrated_on": len(photos.chosen),
            "held_out": len(photos.held_out),
            "skipped": len(photos.skipped),
            "min_agreement": self.options.min_agreement,
            "confidence": CONFIDENCE,
            "boundary": _boundary(first, trials[0]),
            "models": {
                item.model.name: {
                    **to_plain(trial.accuracy),
                    "proved": trial.accuracy.proved,
                    "kept": list(trial.kept),
                    "kept_flops_share": flops_share(item.model.graph, trial.kept),
                    "constant": list(item.ranges.constant),
                }
                for item, trial in zip(calibrated, trials, strict=True)
            },
        }


def _with_prefix_of(
    first: _CalibratedModel, ranges: Ranges, edges: Edges, nodes: Sequence[onnx.NodeProto]
) -> tuple[Ranges, Edges]:
    """The ranges and edges with those of `first` in the shared prefix, whose `nodes` are in one order."""
    by_name = {node.name: node for node in first.model.graph.graph.node}
    shared = dict(ranges.ranges)
    placed = dict(edges)
    for node, name in zip(nodes, first.prefix, strict=True):
        for own, other in zip(node.output, by_name[name].output, strict=True):
            if other in first.ranges.ranges:
                shared[own] = first.ranges.ranges[other]
            else:
                shared.pop(own, None)
        placed.pop(node.name, None)
        if name in first.edges:
            placed[node.name] = first.edges[name]
    return replace(ranges, ranges=shared), placed


def _boundary(item: _CalibratedModel, trial: Trial) -> dict[str, float] | None:
    """Scale and zero point of the feature map; None where it is not quantized."""
    weights = {weight.name: weight for weight in trial.model.graph.graph.initializer}
    for node in trial.model.graph.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in item.boundaries:
            scale, zero = (numpy_helper.to_array(weights[name]) for name in node.input[1:3])
            return {"scale": float(scale), "zero": float(zero)}
    return None
