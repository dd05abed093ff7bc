"""From exported models to int8 ones: ranges, pairs, and the layers that stay float."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from trtkit.quantization.calibrate import measure_ranges
from trtkit.quantization.judge import Judge
from trtkit.quantization.options import Int8Options
from trtkit.quantization.photos import CalibrationPhotos, calibration_photos
from trtkit.quantization.ranges import Ranges, ranges_path, read_ranges
from trtkit.quantization.search import Trial, find_kept

Progress = Callable[[str], None]
Advance = Callable[[str, float], None]


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
        ranges = _ranges_of(model, digests[model.name], photos, options, progress, advance)
        subjects.append(_subject(model, ranges, photos, cut, form, folder, subjects[:1]))
        if (only := subjects[-1].judge.one_class) is not None:
            progress(f"{model.name} takes all held-out photos of {options.folder} for {only}.")
    trials = _keep(subjects, form, cut, options, advance)
    for subject, trial in zip(subjects, trials, strict=True):
        progress(_told(subject, trial, form, options))
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
    ranges = _ranges_of(named, digest, photos, options, progress, advance)
    boundaries = [point.tensor for point in cut_points(named.graph, named.card)]
    return _quantized(named, ranges, _edges(named, ranges, form), form, boundaries)


def _named(model: Model) -> Model:
    graph = onnx.ModelProto()
    graph.CopyFrom(model.graph)
    name_nodes(graph.graph)
    return replace(model, graph=graph)


def _ranges_of(
    model: Model,
    digest: str,
    photos: CalibrationPhotos,
    options: Int8Options,
    progress: Progress,
    advance: Advance,
) -> Ranges:
    """The stored ranges where they hold, else measured ones, which are stored."""
    path = ranges_path(options.home, model.name)
    stored, why = read_ranges(path)
    if stored is not None:
        why = stored.why_stale(digest, photos.id, options.method)
        if why is None:
            progress(f"The ranges of {model.name} are those of {path}")
            return stored
    if why is not None:
        progress(f"{path} no longer holds ({why}): {model.name} is calibrated anew")
    progress(f"Calibrating {model.name} on {len(photos.chosen)} photos of {photos.folder}")
    measured = measure_ranges(model, digest, photos, options.method, advance)
    if measured.constant:
        progress(
            f"{listed(measured.constant)} of {model.name} never changed on these photos and stays "
            "float: a layer before it may be dead."
        )
    measured.write(path)
    return measured


def _subject(
    model: Model,
    ranges: Ranges,
    photos: CalibrationPhotos,
    cut: int,
    form: Form,
    folder: Path,
    first: Sequence[_Subject],
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
    def make(names: Sequence[str]) -> Model:
        edges = {node: places for node, places in subject.edges.items() if node not in names}
        return _quantized(subject.model, subject.ranges, edges, form, subject.boundaries)

    return find_kept(
        subject.model, subject.judge, make, subject.edges, sorted(kept), least, advance
    )


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


def _told(subject: _Subject, trial: Trial, form: Form, options: Int8Options) -> str:
    model, found = subject.model, trial.accuracy
    text = (
        f"{model.name} in int8: {found.agreement:.1%} of {found.images} held-out photos keep their best "
        f"class (at least {options.least:.1%})"
    )
    if found.top1 is not None and found.reference_top1 is not None:
        text += f", top-1 {found.top1:.1%} (fp32 {found.reference_top1:.1%})"
    if form.unsigned:
        # The form that this processor runs, as it ran here.
        faster = found.reference_seconds / found.seconds
        text += f", {1e3 * found.seconds:.2f} ms a photo here, {faster:.1f} times as fast as fp32"
    if trial.kept:
        text += (
            f"; {len(trial.kept)} of {len(layers_of(model.graph.graph, subject.edges))} layers stay float "
            f"for that, {flops_share(model.graph, trial.kept):.1%} of its work: {listed(trial.kept)}"
        )
    if trial.before != found:
        text += f" (without them {trial.before.agreement:.1%}, {1e3 * trial.before.seconds:.2f} ms)"
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
        "method": options.method,
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
