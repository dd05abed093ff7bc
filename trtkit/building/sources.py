"""What a bundle is built from: the workspace's exports, or the ONNX files that a bundle keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trtkit.bundle import Manifest, check_files
from trtkit.errors import TrtkitError, os_reason
from trtkit.identity import file_digest
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.models import LoadedModel, load_graphs
from trtkit.stages import Stage

if TYPE_CHECKING:
    from trtkit.graph.tree import Model, StageGraph


@dataclass(frozen=True)
class Tree:
    """The stages to build, parents first, and what the manifest says about their models."""

    stages: list[StageGraph]
    preprocessing: Preprocessing
    weights: dict[str, str]
    trained_on: dict[str, dict[str, Any]]


class Sources(Protocol):
    """Where the graphs of a build come from."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def embeddings(self) -> bool:
        """Whether each tail is divided at its embedding."""
        ...

    def digests(self) -> dict[str, str]:
        """The digest of each model's export, by name."""
        ...

    def tree(self, cut: int, precision: str) -> Tree: ...

    def reference(self, tail: str) -> LoadedModel:
        """The model `tail` as it was exported, on ONNX Runtime."""
        ...


@dataclass(frozen=True)
class ExportSources:
    """Exported models of a workspace. `embeddings`: whether their tails are to be divided there."""

    names: tuple[str, ...]
    exports: tuple[Path, ...]
    embeddings: bool = False

    def digests(self) -> dict[str, str]:
        return {name: _digest(path) for name, path in zip(self.names, self.exports, strict=True)}

    def models(self) -> Sequence[Model]:
        return [load_model(name, path) for name, path in zip(self.names, self.exports, strict=True)]

    def tree(self, cut: int, precision: str) -> Tree:
        from trtkit.graph.tree import stage_tree

        models = self.models()
        return Tree(
            stage_tree(models, cut, precision, embeddings=self.embeddings),
            models[0].card.preprocessing,
            {model.name: model.card.weights for model in models},
            {model.name: model.card.trained_on for model in models if model.card.trained_on},
        )

    def reference(self, tail: str) -> LoadedModel:
        path = self.exports[self.names.index(tail)]
        return load_graphs(("head", path), exact=True)


@dataclass(frozen=True)
class QuantizedSources(ExportSources):
    """Exported models that were made int8. `folder`: for their files; `record`: for the manifest."""

    int8: tuple[Model, ...] = ()
    folder: Path = Path()
    record: dict[str, Any] = field(default_factory=dict)

    def models(self) -> Sequence[Model]:
        return self.int8

    def reference(self, tail: str) -> LoadedModel:
        """What the int8 graph says, computed in fp32 between its pairs."""
        from trtkit.graph.files import write_model

        path = self.folder / f"{tail}.onnx"
        write_model(self.int8[self.names.index(tail)].graph, path)
        return load_graphs(("head", path), exact=True)


@dataclass(frozen=True)
class BundleSources:
    """The stages, as exported, that a bundle keeps beside its engines."""

    folder: Path
    manifest: Manifest

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.manifest.tails)

    @property
    def embeddings(self) -> bool:
        return any(stage.ref("embedding") for stage in self.manifest.stages)

    def digests(self) -> dict[str, str]:
        return self.manifest.models

    def tree(self, cut: int, precision: str) -> Tree:
        from trtkit.graph.files import read_model
        from trtkit.graph.tree import restored_stage

        stages: dict[str, StageGraph] = {}
        for stage in self.manifest.stages:
            parent = stages[stage.parent] if stage.parent is not None else None
            graph = read_model(self._source(stage))
            stages[stage.name] = restored_stage(
                stage.name, stage.role, graph, precision, parent, stage.classes, stage.scoring
            )
        return Tree(
            list(stages.values()),
            self.manifest.preprocessing,
            dict(self.manifest.weights),
            dict(self.manifest.trained_on),
        )

    def reference(self, tail: str) -> LoadedModel:
        path = self.manifest.path_to(self.manifest.tail(tail))
        return load_graphs(*((stage.role, self._source(stage)) for stage in path), exact=True)

    def check(self) -> None:
        """Raise TrtkitError when one of the ONNX files is missing or damaged."""
        for stage in self.manifest.stages:
            self._source(stage)
        check_files(self.folder, self.manifest.stages, sources=True, engines=False)

    def _source(self, stage: Stage) -> Path:
        if stage.source is None:
            raise TrtkitError(
                f"Bundle {self.manifest.name} was built by an earlier trtkit and keeps no ONNX to build "
                "from; give the exported models and --cut."
            )
        return self.folder / stage.source


def load_model(name: str, path: Path) -> Model:
    """The exported model in that file. Raises TrtkitError for a file that trtkit did not export."""
    from trtkit.graph.card import ModelCard
    from trtkit.graph.files import read_model
    from trtkit.graph.tree import Model

    graph = read_model(path)
    card = ModelCard.read_from(graph, name)
    if len(card.classes) == 1:
        raise TrtkitError(
            f"{name} was exported by an earlier trtkit with a single class, which every photo gets; export "
            "its original again: one output is two classes now."
        )
    return Model(name, graph, card)


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise TrtkitError(
            f"{path} cannot be read ({os_reason(error)}); mend its permissions or export it again."
        ) from error
