"""The model card: what trtkit writes into an ONNX file's metadata and reads back from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import onnx

from trtkit.errors import TrtkitError
from trtkit.preprocessing import Preprocessing

METADATA_KEY = "trtkit"
FORMAT = 1


@dataclass(frozen=True)
class BlockBoundary:
    """A block and the tensor it ends in."""

    name: str
    tensor: str


@dataclass(frozen=True)
class ModelCard:
    """What an exported model says about itself.

    `architecture` is a torchvision name or `foreign`; `weights` says where they came from;
    `blocks` is empty for a foreign graph, whose cuts are found in the graph itself; `trained_on`
    identifies the photos of the training, empty where nothing is known of them.
    """

    architecture: str
    weights: str
    classes: list[str]
    preprocessing: Preprocessing
    blocks: list[BlockBoundary]
    trained_on: dict[str, Any] = field(default_factory=dict)

    def write_to(self, model: onnx.ModelProto) -> None:
        """Replace all the model's metadata by this card."""
        value = {
            "format": FORMAT,
            "architecture": self.architecture,
            "weights": self.weights,
            "classes": self.classes,
            "preprocessing": self.preprocessing.to_json(),
            "blocks": [[block.name, block.tensor] for block in self.blocks],
            "trained_on": self.trained_on,
        }
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(value, ensure_ascii=False)})

    @classmethod
    def read_from(cls, model: onnx.ModelProto, name: str) -> ModelCard:
        """The card of a model that trtkit exported. Raises TrtkitError when there is none."""
        text = next((prop.value for prop in model.metadata_props if prop.key == METADATA_KEY), None)
        if text is None:
            raise TrtkitError(
                f"{name} was not exported by trtkit: its metadata hold no preprocessing; run "
                f"`trtkit export {name}.onnx` on the original file."
            )
        try:
            return cls._parse(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise TrtkitError(
                f"The trtkit metadata of {name} cannot be read ({error!r}); export it again."
            ) from error

    @classmethod
    def _parse(cls, value: dict[str, Any]) -> ModelCard:
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']}, this trtkit reads {FORMAT}")
        return cls(
            architecture=value["architecture"],
            weights=value["weights"],
            classes=[str(label) for label in value["classes"]],
            preprocessing=Preprocessing.from_json(value["preprocessing"]),
            blocks=[BlockBoundary(block, tensor) for block, tensor in value["blocks"]],
            # Exports of earlier versions do not say.
            trained_on=value.get("trained_on", {}),
        )
