"""From exported models to int8 ones: ranges, pairs, and the layers that stay float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from trtkit.errors import listed
from trtkit.graph.boundaries import cut_points
from trtkit.graph.card import BlockBoundary
from trtkit.graph.flops import flops_share
from trtkit.graph.precision import name_nodes
from trtkit.graph.quantize import Edges, Form, kernel_edges, layers_of, quantize_graph
from trtkit.graph.split import find_cut
from trtkit.graph.tree import Model, stage_tree
from trtkit.graph.values import ancestors
from trtkit.quantization.found import Advance, FoundRanges, Progress
from trtkit.quantization.judge import Accuracy, Judge
from trtkit.quantization.options import AUTO, Int8Options
from trtkit.quantization.photos import CalibrationPhotos, calibration_photos
from trtkit.quantization.ranges import METHODS, Ranges, ranges_path, read_ranges
from trtkit.quantization.search import Trial, find_kept


@dataclass(frozen=True)
class Quantized:
    """int8 models, whose cards name their cuts' quantized tensors, and what the manifest says of them."""

    models: tuple[Model, ...]
    record: dict[str, Any]


@dataclass(frozen=True)
class _Subject:
    """One model on its way: its ranges, its prefix's nodes in the order of all models', its judge."""

    model: Model
    ranges: Ranges
    edges: Edges
    prefix: tuple[str, ...]
    boundaries: tuple[str, ...]
    judge: Judge

    def quantized(self, form: Form, kept: Collection[str] = ()) -> Model:
        """The model with all but those layers int8."""
        edges = {node: places for node, places in self.edges.items() if node not in kept}
        return _quantized(self.model, self.ranges, edges, form, self.boundaries)

    def accuracy(self, form: Form) -> Accuracy:
        """With all layers int8."""
        return self.judge.accuracy(self.quantized(form).graph)


def is_quantized(model: Model) -> bool:
    """Whether it came with pairs."""
    return any(node.op_type == "DequantizeLinear" for node in model.graph.graph.node)


def quantize_models(
    models: Sequence[Model],
    digests: Mapping[str, str],
    cut: int,
    form: Form,
    options: Int8Options,
    folder: Path,
    progress: Progress,
    advance: Advance,
) -> Quantized:
    """Make the models int8, with one prefix up to `cut` where they share it; none where `cut` is 0.

    `digests`: of their exports, by name; `folder`: for graphs that are tried. Ranges are reused where
    model, photos and method are the same. Raises TrtkitError when photos or ModelOpt are missing, the
    prefixes differ, or a model's accuracy cannot be kept.
    """
    named = [_named(model) for model in models]
    if cut:
        # Where the prefixes differ this says so, before minutes of measuring.
        stage_tree(named, cut, "fp32")
    photos = calibration_photos(options.folder, options.images)
    for warning in photos.warnings():
        progress(warning)
    subjects: list[_Subject] = []
    for model in named:
        found = FoundRanges(model, digests[model.name], photos, options, progress, advance)
        make = partial(_subject, model, photos, cut, form, folder, subjects[:1])
        subjects.append(_chosen(found, make, form))
        if (only := subjects[-1].judge.one_class) is not None:
            progress(f"{model.name} takes all held-out photos of {options.folder} for {only}.")
    trials = _keep(subjects, form, cut, options, advance)
    for subject, trial in zip(subjects, trials, strict=True):
        progress(_told(subject, trial, options))
        _remember(subject, trial, _key(subjects, form, cut, options), options)
    return Quantized(
        tuple(trial.model for trial in trials), _record(subjects, trials, photos, form, options)
    )


def ranged_model(
    model: Model,
    digest: str,
    form: Form,
    options: Int8Options,
    progress: Progress,
    advance: Advance,
) -> Model:
    """The model in int8, all cuts possible and its accuracy not judged: to be measured.

    Raises TrtkitError when photos or ModelOpt are missing.
    """
    named = _named(model)
    photos = calibration_photos(options.folder, options.images)
    ranges = FoundRanges(named, digest, photos, options, progress, advance).stored_or_measured()
    boundaries = [point.tensor for point in cut_points(named.graph, named.card)]
    return _quantized(named, ranges, _edges(named, ranges, form), form, boundaries)


def _named(model: Model) -> Model:
    graph = onnx.ModelProto()
    graph.CopyFrom(model.graph)
    name_nodes(graph.graph)
    return replace(model, graph=graph)


def _chosen(found: FoundRanges, make: Callable[[Ranges], _Subject], form: Form) -> _Subject:
    """The model with the ranges asked for; for `auto` by max, where entropy is not enough and max better.

    What entropy cuts off can be what tells classes apart, in networks of few or unsure ones.
    """
    ranges = found.stored_or_measured()
    first = make(ranges)
    least = found.options.least
    other_method = METHODS[1]
    if found.options.method != AUTO or other_method in (ranges.method, *ranges.rejected):
        return first
    by_entropy = first.accuracy(form)
    if by_entropy.misses(least) is None:
        return first
    other = found.measured(other_method)
    second = make(other)
    by_max = second.accuracy(form)
    found.progress(
        f"{found.model.name}: {by_entropy.agreement:.1%} of the held-out photos keep their best class "
        f"calibrated by entropy, {by_max.agreement:.1%} by max"
    )
    if by_max.agreement > by_entropy.agreement:
        found.store(other)
        return second
    # Not to be measured again by the next build.
    found.store(replace(ranges, rejected=(other_method,)))
    return first


def _subject(
    model: Model,
    photos: CalibrationPhotos,
    cut: int,
    form: Form,
    folder: Path,
    first: Sequence[_Subject],
    ranges: Ranges,
) -> _Subject:
    prefix: tuple[str, ...] = ()
    boundaries: tuple[str, ...] = ()
    edges = _edges(model, ranges, form)
    if cut:
        tensor = find_cut(model.graph, model.card, cut, model.name).tensor
        nodes = ancestors(model.graph.graph, [tensor])
        prefix, boundaries = tuple(node.name for node in nodes), (tensor,)
        if first:
            ranges, edges = _as_first(model, ranges, edges, nodes, first[0])
    own = folder / model.name
    own.mkdir(parents=True, exist_ok=True)
    judge = Judge(model, photos, form, own)
    return _Subject(model, ranges, edges, prefix, boundaries, judge)


def _as_first(
    model: Model, ranges: Ranges, edges: Edges, nodes: Sequence[onnx.NodeProto], first: _Subject
) -> tuple[Ranges, Edges]:
    """The first model's ranges and edges in the shared prefix, whose nodes come in the same order."""
    by_name = {node.name: node for node in first.model.graph.graph.node}
    shared = dict(ranges.ranges)
    placed = dict(edges)
    for node, name in zip(nodes, first.prefix, strict=True):
        theirs = by_name[name]
        for mine, other in zip(node.output, theirs.output, strict=True):
            if other in first.ranges.ranges:
                shared[mine] = first.ranges.ranges[other]
            else:
                shared.pop(mine, None)
        placed.pop(node.name, None)
        if name in first.edges:
            placed[node.name] = first.edges[name]
    return replace(ranges, ranges=shared), placed


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


def _keep(
    subjects: Sequence[_Subject], form: Form, cut: int, options: Int8Options, advance: Advance
) -> list[Trial]:
    """For every model the layers that stay float; those of the shared prefix stay so for all."""
    key = _key(subjects, form, cut, options)
    first = subjects[0]
    kept = [
        # What the file names that the model has not is nobody's.
        set(subject.ranges.kept.get(key, ())) & subject.edges.keys()
        for subject in subjects
    ]
    shared = {
        first.prefix[place]
        for subject, names in zip(subjects, kept, strict=True)
        for place, name in enumerate(subject.prefix)
        if name in names
    }
    while True:
        before = set(shared)
        trials = []
        for subject, names in zip(subjects, kept, strict=True):
            own = dict(zip(first.prefix, subject.prefix, strict=True))
            names |= {own[name] for name in shared}
            trial = _trial_of(subject, names, form, options.least, advance)
            names |= set(trial.kept)
            shared |= {theirs for theirs, mine in own.items() if mine in trial.kept}
            trials.append(trial)
        # What a later model needs float in the prefix is float in the earlier ones' too.
        if shared == before or len(subjects) == 1:
            return trials


def _trial_of(
    subject: _Subject, kept: set[str], form: Form, least: float, advance: Advance
) -> Trial:
    return find_kept(
        subject.model, subject.judge, partial(subject.quantized, form), subject.edges, sorted(kept),
        least, advance,
    )  # fmt: skip


def _key(subjects: Sequence[_Subject], form: Form, cut: int, options: Int8Options) -> str:
    """What a list of float layers holds for."""
    names = ", ".join(sorted(subject.model.name for subject in subjects))
    return f"{form.name}, cut {cut} of {names}, agreement {options.least}"


def _remember(subject: _Subject, trial: Trial, key: str, options: Int8Options) -> None:
    """Store the list beside the ranges."""
    path = ranges_path(options.home, subject.model.name)
    stored, _ = read_ranges(path)
    kept = tuple(sorted(trial.kept))
    if stored is not None and stored.kept.get(key, ()) != kept:
        replace(stored, kept={**stored.kept, key: kept}).write(path)


def _told(subject: _Subject, trial: Trial, options: Int8Options) -> str:
    model, found = subject.model, trial.accuracy
    text = (
        f"{model.name} in int8: {found.agreement:.1%} of {found.images} held-out photos keep their best "
        f"class (at least {options.least:.1%})"
    )
    if found.top1 is not None and found.reference_top1 is not None:
        text += f", top-1 {found.top1:.1%} (fp32 {found.reference_top1:.1%})"
    if trial.kept:
        text += (
            f"; {len(trial.kept)} of {len(layers_of(model.graph.graph, subject.edges))} layers stay float "
            f"for that, {flops_share(model.graph, trial.kept):.1%} of its work: {listed(trial.kept)}"
        )
    if trial.before != found:
        text += f" (without them {trial.before.agreement:.1%})"
    return f"{text}."


def _record(
    subjects: Sequence[_Subject],
    trials: Sequence[Trial],
    photos: CalibrationPhotos,
    form: Form,
    options: Int8Options,
) -> dict[str, Any]:
    return {
        "form": form.name,
        "method": subjects[0].ranges.method,
        "tool": subjects[0].ranges.tool,
        "photos": str(options.folder),
        "images": photos.id,
        "calibrated_on": len(photos.chosen),
        "held_out": len(photos.held_out),
        "skipped": len(photos.skipped),
        "min_agreement": options.least,
        "boundary": _boundary(subjects[0], trials[0]),
        "models": {
            subject.model.name: {
                **trial.accuracy.to_json(),
                "kept": list(trial.kept),
                "kept_flops_share": flops_share(subject.model.graph, trial.kept),
                "constant": list(subject.ranges.constant),
            }
            for subject, trial in zip(subjects, trials, strict=True)
        },
    }


def _boundary(subject: _Subject, trial: Trial) -> dict[str, float] | None:
    """Scale and zero point of the feature map; None where it is not quantized."""
    weights = {weight.name: weight for weight in trial.model.graph.graph.initializer}
    for node in trial.model.graph.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in subject.boundaries:
            scale, zero = (numpy_helper.to_array(weights[name]) for name in node.input[1:3])
            return {"scale": float(scale), "zero": float(zero)}
    return None
