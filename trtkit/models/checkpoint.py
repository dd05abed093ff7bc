"""Checkpoints on disk: safetensors with metadata, and foreign state dicts. No pickle is executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trtkit.atomic import not_written, whole_file
from trtkit.errors import TrtkitError, first_line, listed
from trtkit.labels import labels_in
from trtkit.models.blocks import IMAGENET, BlockModel, Normalisation
from trtkit.models.contents import find_states
from trtkit.models.huggingface import hub_config
from trtkit.models.matching import matched_network
from trtkit.models.naming import named_state
from trtkit.models.tensorfile import SAVE, is_safetensors, read_content
from trtkit.models.weights import Weighted, normalised_by, two_classes
from trtkit.preprocessing import Preprocessing
from trtkit.sealing import BLANK, MARK, SealBroken, check_file, seal_file
from trtkit.serialization import from_plain, to_plain

METADATA_KEY = "trtkit"


@dataclass(frozen=True)
class Checkpoint:
    """A state dict and what its file says about it; an empty `metadata` says nothing.

    `notes`: sentences that a user should read.
    """

    path: Path
    state: dict[str, torch.Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _About:
    """What the metadata of a checkpoint may say of its model."""

    classes: list[str] | None = None
    preprocessing: Preprocessing | None = None
    normalisation: Normalisation | None = None


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
        **({} if model.normalisation == IMAGENET else {"normalisation": model.normalisation}),
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
            # One entry: safetensors writes several in any order, and equal files would differ.
            save_file(state, temporary, {METADATA_KEY: json.dumps({**metadata, MARK: BLANK})})
        except SafetensorError as error:
            raise not_written(path, first_line(error)) from error
        temporary.chmod(mode)
        seal_file(temporary)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read safetensors or what `torch.save` wrote, told apart by their content; no code in it is run.

    Of several state dicts in a file the first is taken that is a ResNet's or a VGG's, averages of weights
    last. Raises TrtkitError when the file is missing, damaged, or holds no tensors.
    """
    if not path.is_file():
        raise TrtkitError(f"Checkpoint {path} not found; give the path of an existing file.")
    if is_safetensors(path):
        return _read_safetensors(path)
    content = read_content(path)
    states = find_states(content)
    if not states:
        raise TrtkitError(f"{path} holds something other than a state dict of tensors; {SAVE}.")
    networks = [held for held in states if named_state(held.state) is not None]
    best = networks[0] if networks else max(states, key=lambda held: len(held.state))
    notes: tuple[str, ...] = ()
    if len(networks) > 1:
        others = listed(repr(held.place) for held in networks[1:])
        notes = (f"{path.name} holds several networks: {best.place!r} is taken, {others} is not.",)
    metadata = _described_classes(content) if isinstance(content, Mapping) else {}
    return Checkpoint(path, best.state, metadata, notes)


def load(checkpoint: Checkpoint, architecture: str | None = None) -> Weighted:
    """The model of a checkpoint.

    `architecture` defaults to the one whose blocks have the same tensors. The layers behind the blocks are
    those that the checkpoint has. Raises TrtkitError when it does not fit.
    """
    network = matched_network(
        checkpoint.state,
        architecture,
        str(checkpoint.path),
        checkpoint.metadata.get("architecture"),
    )
    try:
        about = from_plain(checkpoint.metadata, _About)
    except (RuntimeError, ValueError) as error:
        raise TrtkitError(
            f"{checkpoint.path} does not say what it holds in a form that can be read "
            f"({first_line(error)}); copy it again, or save it anew."
        ) from error
    hub = hub_config(checkpoint.path)
    normalisation = about.normalisation or hub.normalisation or (None, None)
    model = normalised_by(network.model, *normalisation)
    if model.classes == 1:
        model = two_classes(model)
    names = about.classes
    read = [f"Read beside the weights: {listed(hub.files)}."] if hub.files else []
    if not names and hub.classes is not None:
        if len(hub.classes) == model.classes:
            names = hub.classes
        else:
            read.append(
                f"They name {len(hub.classes)} classes and the weights have {model.classes}: the names are "
                "not used."
            )
    called = checkpoint.metadata.get("name")
    source = f"{called} ({checkpoint.path.name})" if called else checkpoint.path.name
    return Weighted(
        model=model,
        source=f"checkpoint {source}",
        classes=names or None,
        preprocessing=about.preprocessing or hub.preprocessing,
        trained_on=_trained_on(checkpoint.metadata.get("dataset")),
        notes=(*checkpoint.notes, *network.notes, *read),
    )


def _trained_on(dataset: Any) -> dict[str, Any]:
    """What identifies the photos of a training, without the lists of its classes and skipped files."""
    kept = ("fingerprint", "split", "seed", "train", "val")
    return (
        {key: dataset[key] for key in kept if key in dataset} if isinstance(dataset, dict) else {}
    )


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
    own.pop(MARK, None)
    return Checkpoint(path, state, {**_described_classes(metadata), **own})


def _described_classes(content: Mapping[str, Any]) -> dict[str, Any]:
    """`classes`, where what was saved beside the weights, or in a dict of its own, names them."""
    parts = [content, *(value for value in content.values() if isinstance(value, Mapping))]
    labels = next(filter(None, map(labels_in, parts)), None)
    return {} if labels is None else {"classes": labels}
