"""What lies beside a checkpoint of the Hugging Face hub: class names and how photos are prepared.

`config.json` has the names (transformers: `id2label`, timm: `label_names`) and, of timm, the photos
(`pretrained_cfg`); `preprocessor_config.json` has the photos of transformers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trtkit.errors import TrtkitError, listed
from trtkit.labels import labels_in
from trtkit.models.blocks import Normalisation
from trtkit.preprocessing import Preprocessing, Resampling
from trtkit.units import check_units

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# The names that the hub's libraries give to a file of weights.
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin", "pytorch_model.safetensors")
_LARGEST: Final = 16 * 2**20
# By Pillow's number, which transformers writes, and by timm's name; others come close to bilinear.
_RESAMPLING: Final[Mapping[Any, Resampling]] = {3: "bicubic", "bicubic": "bicubic"}
# Values of 0 to 1 that are not normalised.
_AS_THEY_ARE: Final[Normalisation] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# From this size on transformers' ConvNext processor, which its ResNets have, squashes photos.
_SQUASHED_FROM: Final = 384


@dataclass(frozen=True)
class HubConfig:
    """What the hub's files say, None where they do not say it; `files`: their names."""

    classes: list[str] | None = None
    preprocessing: Preprocessing | None = None
    normalisation: Normalisation | None = None
    files: tuple[str, ...] = ()


def hub_config(weights: Path) -> HubConfig:
    """The hub's files beside a file of weights; empty unless it has one of the hub's names.

    Raises TrtkitError for a file that is no JSON object, or whose values cannot be understood.
    """
    if weights.name not in WEIGHTS:
        return HubConfig()
    config, processor = (_read(weights.with_name(name)) for name in (CONFIG, PROCESSOR))
    files = tuple(
        name for name, content in ((CONFIG, config), (PROCESSOR, processor)) if content is not None
    )
    config, processor = config or {}, processor or {}
    own = config.get("pretrained_cfg")
    trained = own if isinstance(own, Mapping) else config
    classes = labels_in({"id2label": config.get("id2label"), "names": config.get("label_names")})
    try:
        if processor:
            image = _of_transformers(processor)
            values: Normalisation | None = _AS_THEY_ARE
            if processor.get("do_normalize") is not False:
                values = _normalisation(processor.get("image_mean"), processor.get("image_std"))
        else:
            image, values = (
                _of_timm(trained),
                _normalisation(trained.get("mean"), trained.get("std")),
            )
    except TrtkitError as error:
        raise TrtkitError(f"{listed(files)} beside {weights} cannot be used. {error}") from error
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise TrtkitError(
            f"{listed(files)} beside {weights} cannot be understood ({error!r}); correct it, or move "
            "the weights to another folder and give --image-size, --resize, --mean and --std."
        ) from error
    return HubConfig(classes, image, values, files)


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None where there is no file."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST // 2**20} MiB")
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise TrtkitError(
            f"{path} is not readable JSON ({error}); copy it again, or remove it."
        ) from error
    return content


def _of_transformers(processor: Mapping[str, Any]) -> Preprocessing | None:
    """The photos of an image processor; None if it does not resize them."""
    size = processor.get("size")
    if not size or processor.get("do_resize") is False:
        return None
    resampling = _RESAMPLING.get(processor.get("resample"), "bilinear")
    if isinstance(size, Mapping) and "height" in size:
        squashed = int(size["height"]), int(size["width"])
    else:
        side = int(size["shortest_edge"] if isinstance(size, Mapping) else size)
        squashed = side, side
    kind = str(processor.get("image_processor_type") or processor.get("feature_extractor_type"))
    if kind.startswith("ConvNext") and squashed[0] < _SQUASHED_FROM:
        share = float(processor.get("crop_pct") or 224 / 256)
        return Preprocessing(*squashed, int(squashed[0] / share), resampling=resampling)
    crop = processor.get("crop_size")
    if crop and processor.get("do_center_crop") is not False:
        sides = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop, crop)
        exact = isinstance(size, Mapping) and "height" in size
        resize = squashed if exact else squashed[0]
        return Preprocessing(int(sides[0]), int(sides[1]), resize, resampling=resampling)
    return Preprocessing(*squashed, squashed, crop="none", resampling=resampling)


def _of_timm(config: Mapping[str, Any]) -> Preprocessing | None:
    """The photos of a timm model: `input_size` is 3 x height x width."""
    size = config.get("input_size")
    if not size:
        return None
    height, width = (int(side) for side in size[1:])
    resampling = _RESAMPLING.get(config.get("interpolation"), "bilinear")
    if config.get("crop_mode") == "squash":
        return Preprocessing(height, width, (height, width), crop="none", resampling=resampling)
    share = float(config.get("crop_pct") or 0.875)
    return Preprocessing(
        height, width, math.floor(max(height, width) / share), resampling=resampling
    )


def _normalisation(mean: Any, std: Any) -> Normalisation | None:
    """Three numbers each, in 0 to 1; None without any. Raises TrtkitError for other units."""
    if mean is None or std is None:
        return None
    values = tuple(tuple(float(value) for value in channel) for channel in (mean, std))
    if [len(channel) for channel in values] != [3, 3]:
        raise ValueError(f"mean {mean} and std {std} are not three numbers each")
    check_units(*values)
    return values[0], values[1]
