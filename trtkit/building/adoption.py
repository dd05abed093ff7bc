"""Taking in an ONNX file that somebody else wrote: what it is, shown by running it, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtkit.atomic import scratch_folder
from trtkit.building.probe import try_out
from trtkit.building.verification import LIMITS, STEPS, Limits
from trtkit.engines.probe import GraphProbe
from trtkit.errors import TrtkitError, listed
from trtkit.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from trtkit.scores import Scoring
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx

    from trtkit.graph.foreign import Adopted
    from trtkit.graph.scaling import OwnScaling
    from trtkit.graph.source import SourceInput, SourceOutput

# ONNX Runtime has the operators from this opset on.
OLDEST = 7
# Two batches tell what of a graph depends on their size.
FEW, MORE = 2, 3


@dataclass(frozen=True)
class Adoption:
    """A foreign graph made ours.

    `reference` gives the original's own output, float32 N x classes, for prepared images; the two must
    agree within `limits`. `notes`: sentences that a user should read.
    """

    adopted: Adopted
    reference: Callable[[Array], Array]
    limits: Limits
    notes: tuple[str, ...] = ()


def adopt_file(
    original: onnx.ModelProto,
    name: str,
    *,
    path: Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    output: str | None = None,
    scoring: Scoring | None = None,
) -> Adoption:
    """Adopt a checked model, which messages call `name`.

    `path` is its file, which is tried in a process of its own first: some damaged files end the process.
    `mean` and `std`, per channel and in 0 to 1, are ImageNet's by default, and none for a graph that
    begins with a normalisation of its own; `image_size` is for a graph
    that leaves it open, `output` for one with several outputs, `scoring` for what its end does not say.
    Raises TrtkitError for what is no image classifier or cannot be run.
    """
    from trtkit.graph.bounds import check_sizes
    from trtkit.graph.floats import is_half
    from trtkit.graph.foreign import adopt, tidy
    from trtkit.graph.precision import has_pairs
    from trtkit.graph.scaling import own_scaling
    from trtkit.graph.source import choose_output, source_input

    opset = _checked_opset(original, name)
    model = tidy(original)
    check_sizes(model, name)
    notes: list[str] = []
    if opset < OLDEST:
        model, path = _converted(model, name), None
        notes.append(f"{name} has opset {opset}, which was converted to {OLDEST}.")
    if path is not None:
        try_out(path)
    source = source_input(model, image_size, name)
    own = None if source.raw else own_scaling(model.graph, source.name, source.channels)
    if own is not None:
        notes.append(_scaling_note(own, mean is None and std is None, name))
    if own is not None and mean is None and std is None:
        mean, std = [0.0] * source.channels, [1 / 255 if own.takes_bytes else 1.0] * source.channels
    scaling = _normalisation(source, mean, std, name)
    runs = _SourceRuns(model, source, scaling, name)
    batch = source.batch or runs.any_batch()
    scores = choose_output(model.graph, runs.outputs(batch), batch, output, name)
    one_by_one = source.batch is None and batch == 1
    runs.fold_shapes(batch, MORE if source.batch is None and not one_by_one else batch)
    if one_by_one:
        # It says that it takes any batch.
        source = replace(source, batch=1)
    adopted = adopt(model, source, scores, name, mean=scaling[0], std=scaling[1], scoring=scoring)
    _measure_sizes(adopted.model, source, name)
    limits = LIMITS["fp16" if is_half(original.graph) else "fp32"]
    if has_pairs(original.graph):
        limits = STEPS
    return Adoption(adopted, lambda images: runs.one_by_one(images, scores), limits, tuple(notes))


def _scaling_note(own: OwnScaling, applied: bool, name: str) -> str:
    """What is made of a graph that normalises photos itself; `applied`: no --mean and --std were given."""
    values = "0 to 255" if own.takes_bytes else "0 to 1"
    begins = f"{name} begins with a normalisation of its own"
    if applied:
        return f"{begins}, so it gets values of {values}; --mean and --std set others."
    divisor = "0.00392157" if own.takes_bytes else "1"
    return (
        f"{begins}, behind that of --mean and --std; without them it gets values of {values} (mean 0, std "
        f"{divisor})."
    )


def _checked_opset(model: onnx.ModelProto, name: str) -> int:
    """The opset of a graph. Raises TrtkitError for one that the installed onnx does not know."""
    from onnx.defs import onnx_opset_version

    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if opset is None or opset > onnx_opset_version():
        raise TrtkitError(
            f"{name} has opset {opset or 'none'}, and the installed onnx knows those up to "
            f"{onnx_opset_version()}; export it with opset 17."
        )
    return int(opset)


def _converted(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A graph of an older opset in that of `OLDEST`, tried out. Raises TrtkitError."""
    from trtkit.graph.files import write_model
    from trtkit.graph.precision import raise_opset

    graph = type(model.graph)(input=model.graph.input)
    # The converter takes no open batch.
    for value in model.graph.input:
        for batch in value.type.tensor_type.shape.dim[:1]:
            batch.dim_value = batch.dim_value or 1
    try:
        raise_opset(model, OLDEST)
    except TrtkitError as error:
        raise TrtkitError(f"{name} cannot be run by ONNX Runtime. {error}") from error
    del model.graph.input[:], model.graph.value_info[:]
    model.graph.input.extend(graph.input)
    with scratch_folder() as folder:
        write_model(model, folder / name)
        try_out(folder / name)
    return model


def _normalisation(
    source: SourceInput, mean: Sequence[float] | None, std: Sequence[float] | None, name: str
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each channel, ImageNet's where they are not given."""
    if source.raw and (mean is not None or std is not None):
        raise TrtkitError(
            f"{name} takes pixels of 0 to 255 and normalises them itself; leave --mean and --std out."
        )
    count = source.channels
    if count == 1:
        # ImageNet's, of all its channels.
        mean = mean or [float(np.mean(IMAGENET_MEAN))]
        std = std or [float(np.mean(IMAGENET_STD))]
    mean, std = mean or IMAGENET_MEAN, std or IMAGENET_STD
    if len(mean) != count or len(std) != count or not all(value > 0 for value in std):
        channels = "one channel" if count == 1 else "three channels"
        raise TrtkitError(
            f"--mean {listed(map(str, mean))} and --std {listed(map(str, std))} do not describe "
            f"{channels}; give {'one number' if count == 1 else 'three numbers'} for each option, "
            "those of --std above 0."
        )
    return mean, std


class _SourceRuns:
    """Runs of the file as its author wrote it."""

    def __init__(
        self,
        model: onnx.ModelProto,
        source: SourceInput,
        scaling: tuple[Sequence[float], Sequence[float]],
        name: str,
    ) -> None:
        self._model = model
        self._source = source
        self._scaling = scaling
        self._name = name
        self._probe = GraphProbe(model, name)

    def any_batch(self) -> int:
        """A batch that a file takes which says it takes any: FEW, or else 1."""
        try:
            self.outputs(FEW)
        except TrtkitError:
            return 1
        return FEW

    def outputs(self, batch: int) -> dict[str, Array]:
        """All outputs for grey images."""
        names = [value.name for value in self._model.graph.output]
        return self._run(self._probe, _grey(self._source, batch), names)

    def fold_shapes(self, few: int, more: int) -> None:
        """Make constants of what the graph computes from shapes alone, by two batches, in place."""
        from trtkit.graph.folding import fold, shape_tensors

        names = shape_tensors(self._model)
        if not names:
            return
        probe = GraphProbe(self._model, self._name, names)
        values = [self._run(probe, _grey(self._source, batch), names) for batch in (few, more)]
        fold(self._model, *values)

    def one_by_one(self, images: Array, output: SourceOutput) -> Array:
        """The output, float32 N x classes, for prepared images, each in the batch that the file takes."""
        batch = self._source.batch or 1
        rows = []
        for image in images:
            values = self._run(self._probe, np.repeat(image[None], batch, axis=0), [output.name])
            rows.append(values[output.name][:1].reshape(1, -1))
        scores = np.concatenate(rows).astype(np.float32)
        if not np.isfinite(scores).all():
            raise TrtkitError(
                f"{self._name} itself gives NaN or infinite values; export it from weights of before "
                "the training diverged, or check --mean and --std."
            )
        return np.asarray(scores)

    def _run(self, probe: GraphProbe, images: Array, names: Sequence[str]) -> dict[str, Array]:
        return probe.run({self._source.name: self._source.prepare(images, *self._scaling)}, names)


def _grey(source: SourceInput, batch: int) -> Array:
    return np.full((batch, source.height, source.width, 3), 128, np.uint8)


def _measure_sizes(model: onnx.ModelProto, source: SourceInput, name: str) -> None:
    """Run the adopted graph in two batches, and write the sizes that only a run shows into it."""
    from trtkit.graph.folding import note_shapes, unknown_tensors
    from trtkit.graph.front import IMAGE
    from trtkit.graph.values import tensor_infos

    names = unknown_tensors(model, tensor_infos(model))
    wanted = [model.graph.output[0].name, *names]
    probe = GraphProbe(model, name, names)
    few, more = (probe.run({IMAGE: _grey(source, batch)}, wanted) for batch in (FEW, MORE))
    note_shapes(model, {name: few[name] for name in names}, more)
