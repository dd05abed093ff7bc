"""What lies beside a checkpoint of the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.thin import thin_networks
from trtkit.errors import TrtkitError
from trtkit.graph.card import ModelCard
from trtkit.graph.export import export_graph, reference_logits
from trtkit.models import weights
from trtkit.models.blocks import IMAGENET, copy_prefix, prefix_digest
from trtkit.models.checkpoint import load, read_checkpoint, save_checkpoint
from trtkit.models.huggingface import hub_config
from trtkit.models.weights import normalised_by
from trtkit.preprocessing import Preprocessing

HALF = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
MEAN = {"image_mean": list(HALF[0]), "image_std": list(HALF[1])}


def beside(folder: Path, **files: dict[str, Any]) -> Path:
    """The path of weights with these files beside them: `config`, `preprocessor_config`."""
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        # A ResNet of transformers: 224 is an eighth less than what the shorter side becomes.
        (
            {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875,
             "resample": 3},
            Preprocessing(224, 224, 256, resampling="bicubic"),
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
            Preprocessing(384, 384, (384, 384), crop="none"),
        ),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 2},
            Preprocessing(224, 224, 256),
        ),
        (
            {"size": {"height": 200, "width": 300}, "do_resize": True},
            Preprocessing(200, 300, (200, 300), crop="none"),
        ),
        ({"size": 224, "do_resize": False}, None),
    ],
)  # fmt: skip
def test_photos_of_transformers(
    tmp_path: Path, processor: dict[str, Any], expected: Preprocessing | None
) -> None:
    config = hub_config(beside(tmp_path, preprocessor_config={**processor, **MEAN}))
    assert (config.preprocessing, config.normalisation) == (expected, HALF)


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (
            {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic"},
            Preprocessing(224, 224, 235, resampling="bicubic"),
        ),
        (
            {"input_size": [3, 288, 288], "crop_pct": 1.0, "crop_mode": "squash"},
            Preprocessing(288, 288, (288, 288), crop="none"),
        ),
    ],
)
def test_photos_of_timm(tmp_path: Path, trained: dict[str, Any], expected: Preprocessing) -> None:
    own = {
        "label_names": ["cat", "dog"],
        "pretrained_cfg": {**trained, "mean": HALF[0], "std": HALF[1]},
    }
    config = hub_config(beside(tmp_path, config=own))
    assert (config.preprocessing, config.normalisation) == (expected, HALF)
    assert config.classes == ["cat", "dog"]


def test_nothing_is_read_beside_other_files(tmp_path: Path) -> None:
    beside(tmp_path, config={"id2label": {"0": "cat"}})
    assert hub_config(tmp_path / "best.safetensors").classes is None
    assert hub_config(tmp_path / "model.safetensors").files == ("config.json",)


def test_a_checkpoint_is_what_its_config_says(tmp_path: Path) -> None:
    with thin_networks(16):
        model = weights.random("resnet18", seed=5, classes=3).model
    path = beside(
        tmp_path,
        config={"id2label": {"0": "cat", "1": "dog", "2": "owl"}},
        preprocessor_config={"size": {"height": 64, "width": 64}, **MEAN},
    )
    save_file(model.network.state_dict(), path)
    with thin_networks(16):
        weighted = load(read_checkpoint(path))
    assert weighted.classes == ["cat", "dog", "owl"]
    image = weighted.preprocessing
    assert image == Preprocessing(64, 64, (64, 64), crop="none")
    assert "config.json, preprocessor_config.json" in " ".join(weighted.notes)
    photos = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    values = torch.from_numpy((photos / 255 - 0.5) / 0.25).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = weighted.model.network(values).numpy()
    np.testing.assert_allclose(
        reference_logits(weighted.model, photos, image), expected, rtol=1e-4, atol=1e-5
    )
    # trtkit's own checkpoints keep it.
    save_checkpoint(tmp_path / "best.safetensors", weighted.model, ["a", "b", "c"], image)
    with thin_networks(16):
        again = load(read_checkpoint(tmp_path / "best.safetensors"))
    assert again.model.normalisation == HALF != IMAGENET


def test_another_normalisation_is_another_prefix(tmp_path: Path) -> None:
    with thin_networks(16):
        usual, target = (weights.random("resnet18", seed=5, classes=3).model for _ in range(2))
    other = normalised_by(usual, *HALF)
    copy_prefix(other, target, 2)
    assert prefix_digest(other, 2) != prefix_digest(target, 2) == prefix_digest(usual, 2)
    image = Preprocessing(32, 32, 36)
    card = ModelCard("resnet18", "random", ["a", "b", "c"], image, [])
    graphs = [export_graph(model, card).graph for model in (usual, other)]
    assert graphs[0].SerializeToString() != graphs[1].SerializeToString()


@pytest.mark.parametrize(
    ("processor", "sentence"),
    [
        ({"size": {"longest_edge": 5}}, r"preprocessor_config.json beside .* cannot be understood"),
        ({"size": 224, "image_mean": [0.5], "image_std": [0.5]}, "not three numbers each"),
        (
            {"size": 224, "image_mean": [123, 116, 103], "image_std": [58, 57, 57]},
            r"preprocessor_config.json beside .* cannot be used\. .*divide it by 255",
        ),
    ],
)
def test_what_cannot_be_understood_is_one_sentence(
    tmp_path: Path, processor: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TrtkitError, match=sentence):
        hub_config(beside(tmp_path, preprocessor_config=processor))


def test_photos_that_are_not_normalised(tmp_path: Path) -> None:
    processor = {"size": 224, "do_normalize": False, **MEAN}
    config = hub_config(beside(tmp_path, preprocessor_config=processor))
    assert config.normalisation == ((0, 0, 0), (1, 1, 1))


def test_names_of_other_classes_are_not_used(tmp_path: Path) -> None:
    path = beside(tmp_path, config={"id2label": {"0": "cat", "1": "dog"}})
    with thin_networks(16):
        model = weights.random("resnet18", seed=5, classes=3).model
        save_file(model.network.state_dict(), path)
        weighted = load(read_checkpoint(path))
    assert weighted.classes is None
    assert "name 2 classes and the weights have 3" in weighted.notes[-1]


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_a_file_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TrtkitError, match="config.json is not readable JSON"):
        hub_config(tmp_path / "model.safetensors")
