"""Checkpoints on disk: safetensors with metadata, and foreign state dicts. No pickle is executed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trtkit.atomic import not_written, whole_file
from trtkit.errors import TrtkitError, first_line
from trtkit.labels import labels_in
from trtkit.models.architectures import create
from trtkit.models.blocks import BlockModel
from trtkit.models.names import ARCHITECTURES
from trtkit.models.weights import Weighted, two_classes
from trtkit.preprocessing import Preprocessing
from trtkit.sealing import BLANK, MARK, SealBroken, check_file, seal_file
from trtkit.serialization import from_plain, to_plain

METADATA_KEY = "trtkit"
HEADS = {"resnet": "fc.weight", "vgg": "classifier.6.weight"}


@dataclass(frozen=True)
class Checkpoint:
    """A state dict and what its file says about it; an empty `metadata` says nothing."""

    path: Path
    state: dict[str, torch.Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    model: BlockModel,
    classes: list[str],
    image: Preprocessing,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write the weights as safetensors with architecture, classes and preprocessing in its metadata.

    `about` is what else the file says of itself, as JSON values. The file appears whole or not at
    all. Raises TrtkitError when it cannot be written.
    """
    metadata = {
        "architecture": model.architecture,
        "classes": classes,
        "preprocessing": to_plain(image),
        **(about or {}),
    }
    write_tensors(path, model.network.state_dict(), metadata)


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write tensors and JSON metadata as safetensors, whole or not at all. Raises TrtkitError."""
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole_file(path) as temporary:
        # safetensors lets nobody else read its files; others of the folder have the user's own mode.
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(state, temporary, {METADATA_KEY: json.dumps(metadata), MARK: BLANK})
        except SafetensorError as error:
            raise not_written(path, first_line(error)) from error
        temporary.chmod(mode)
        seal_file(temporary)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a safetensors file, or a `.pt`/`.pth` state dict with `weights_only=True`.

    Raises TrtkitError when the file is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise TrtkitError(f"Checkpoint {path} not found; give the path of an existing file.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise TrtkitError(
            f"{path} is not a state dict that can be read without executing code "
            f"({first_line(error)}); save it with torch.save(model.state_dict(), PATH)."
        ) from error
    metadata: dict[str, Any] = {}
    if isinstance(content, dict):
        metadata = _described_classes(content)
        # Training scripts commonly wrap the state dict in a dict of their own.
        content = next(
            (content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)),
            content,
        )
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise TrtkitError(
            f"{path} holds something other than a state dict of tensors; save it with "
            "torch.save(model.state_dict(), PATH)."
        )
    state = {name.removeprefix("module."): value for name, value in content.items()}
    return Checkpoint(path, state, metadata)


def load(checkpoint: Checkpoint, architecture: str | None = None) -> Weighted:
    """The model of a checkpoint.

    `architecture` defaults to what the metadata say, else to the one whose tensors have the same
    names and shapes. Raises TrtkitError when it does not fit the tensors.
    """
    recorded = checkpoint.metadata.get("architecture")
    own = recorded if recorded in ARCHITECTURES else identify(checkpoint.state)
    wanted = architecture or own
    if wanted is None:
        raise TrtkitError(
            f"{checkpoint.path} fits no architecture of trtkit ({', '.join(ARCHITECTURES)}); export the "
            "model to ONNX yourself and give the .onnx."
        )
    classes = _head_classes(wanted, checkpoint.state)
    model = create(wanted, classes or 1000)
    _check_fits(checkpoint, model, own)
    try:
        model.network.load_state_dict(checkpoint.state)
        names = from_plain(checkpoint.metadata.get("classes"), list[str] | None)  # type: ignore[arg-type]
        image = from_plain(checkpoint.metadata.get("preprocessing"), Preprocessing | None)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        raise TrtkitError(
            f"{checkpoint.path} does not hold a whole {wanted} ({first_line(error)}); copy it "
            "again, or save it anew."
        ) from error
    if model.classes == 1:
        model = two_classes(model)
    called = checkpoint.metadata.get("name")
    source = f"{called} ({checkpoint.path.name})" if called else checkpoint.path.name
    return Weighted(
        model=model,
        source=f"checkpoint {source}",
        classes=names or None,
        preprocessing=image,
        trained_on=_trained_on(checkpoint.metadata.get("dataset")),
    )


def identify(state: dict[str, torch.Tensor]) -> str | None:
    """The architecture whose tensors have these names and shapes, the class count aside."""
    for architecture in ARCHITECTURES:
        classes = _head_classes(architecture, state)
        if classes is None:
            continue
        expected = create(architecture, classes, device="meta").network.state_dict()
        if _shapes(expected) == _shapes(state):
            return architecture
    return None


def _trained_on(dataset: Any) -> dict[str, Any]:
    """What identifies the photos of a training, without the lists of its classes and skipped files."""
    kept = ("fingerprint", "split", "seed", "train", "val")
    return (
        {key: dataset[key] for key in kept if key in dataset} if isinstance(dataset, dict) else {}
    )


def _check_fits(checkpoint: Checkpoint, model: BlockModel, own: str | None) -> None:
    expected, shapes = _shapes(model.network.state_dict()), _shapes(checkpoint.state)
    if expected == shapes:
        return
    name = next(name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name))
    hint = f"it holds a {own}" if own else "it fits no architecture of trtkit"
    raise TrtkitError(
        f"{checkpoint.path} does not fit {model.architecture}: {name} is "
        f"{shapes.get(name, 'missing')} there and {expected.get(name, 'missing')} in "
        f"{model.architecture}; {hint}."
    )


def _head_classes(architecture: str, state: dict[str, torch.Tensor]) -> int | None:
    key = next(key for family, key in HEADS.items() if architecture.startswith(family))
    return int(state[key].shape[0]) if key in state and state[key].ndim == 2 else None


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, str]:
    # num_batches_tracked counts training steps and is absent from old files: it is no weight.
    return {
        name: " x ".join(map(str, value.shape))
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        check_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SealBroken as error:
        raise TrtkitError(
            f"{path} is not the checkpoint that was saved: {error}; copy it again, or remove it and "
            "train anew."
        ) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise TrtkitError(
            f"{path} is not a readable safetensors file ({first_line(error)}); copy it again or "
            "save it anew."
        ) from error
    try:
        own = json.loads(metadata.get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise TrtkitError(
            f"The metadata of {path} are not valid JSON ({error}); save the checkpoint anew."
        ) from error
    if not isinstance(own, dict):
        raise TrtkitError(f"The metadata of {path} are no JSON object; save the checkpoint anew.")
    return Checkpoint(path, state, {**_described_classes(metadata), **own})


def _described_classes(content: Mapping[str, Any]) -> dict[str, Any]:
    """`classes`, where what was saved beside the weights, or in a dict of its own, names them."""
    parts = [content, *(value for value in content.values() if isinstance(value, Mapping))]
    labels = next(filter(None, map(labels_in, parts)), None)
    return {} if labels is None else {"classes": labels}
