"""The model card: what trtkit writes into an ONNX file's metadata and reads back from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import onnx

from trtkit.errors import TrtkitError
from trtkit.labels import clean_labels
from trtkit.preprocessing import Preprocessing
from trtkit.scores import Scoring
from trtkit.serialization import from_plain, to_plain

METADATA_KEY = "trtkit"
FORMAT = 1


class BlockBoundary(NamedTuple):
    """A block and the tensor it ends in."""

    name: str
    tensor: str


@dataclass(frozen=True)
class ModelCard:
    """What an exported model says about itself.

    `architecture` is a torchvision name or `foreign`; `weights` is their origin; `blocks` is empty for
    a foreign graph, whose cuts follow from the graph itself; `trained_on` identifies the photos of the
    training, empty where they are unknown; `scores` is how the outputs become scores.
    """

    architecture: str
    weights: str
    classes: list[str]
    preprocessing: Preprocessing
    blocks: list[BlockBoundary]
    trained_on: dict[str, Any] = field(default_factory=dict)
    scores: Scoring = "softmax"

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", list(clean_labels(self.classes)))

    def write_to(self, model: onnx.ModelProto) -> None:
        """Replace all the model's metadata by this card."""
        value = {"format": FORMAT, **to_plain(self)}
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(value, ensure_ascii=False)})

    @classmethod
    def read_from(cls, model: onnx.ModelProto, name: str) -> ModelCard:
        """The card of a model that trtkit exported. Raises TrtkitError for a model without one."""
        text = next((prop.value for prop in model.metadata_props if prop.key == METADATA_KEY), None)
        if text is None:
            raise TrtkitError(
                f"{name} was not exported by trtkit: its metadata hold no preprocessing; run "
                f"`trtkit export {name}.onnx` on the original file."
            )
        try:
            value = json.loads(text)
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']}, this trtkit reads {FORMAT}")
            return from_plain(value, cls)
        except (ValueError, KeyError, TypeError) as error:
            raise TrtkitError(
                f"The trtkit metadata of {name} cannot be read ({error!r}); export it again."
            ) from error
