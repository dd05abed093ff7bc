"""The options of ingest: how objects are found, grouped and stored."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal, get_args

from trtkit.errors import TrtkitError, listed
from trtkit.serialization import from_plain, to_plain
from trtkit.store.codec import CodecName, DtypeName
from trtkit.video.frames import MICROSECONDS
from trtkit.video.tracking.options import TrackingOptions

Method = Literal["mog2", "knn", "gmg"]
KeptMaps = Literal["all", "representatives", "none"]


@dataclass(frozen=True)
class IngestOptions:
    """How objects are found, grouped and stored.

    `motion`: the background model, OpenCV's MOG2 (Zivkovic 2004), KNN (Zivkovic and van der Heijden
    2006) or GMG (Godbehere et al. 2012). It looks at frames `motion_width` pixels wide.
    `min_size`: detections whose longer side is shorter, in pixels of the frame, are dropped.
    `lost_seconds`, `least_seconds` and `least_travel`: see TrackingOptions. `pictures`: how many are kept
    of a track, at most `picture_side` pixels wide and high; `margin`: around the object on each side, as a
    share of its longer side.

    `detector`: the user's detector in the place of a background model, its file's name and digest; `motion`
    if empty. `detector_confidence`: its least score, 0 to 1; `detector_classes`: only these, all if empty.

    `segment_seconds`: length of a chunk, which is committed at once. `top`: best classes of an object that
    go into the index. `cluster`: the distance (0 to 2, between features of length 1) up to which an object
    joins a cluster; None makes no clusters. `active_clusters`: how many of a camera can be joined, the most
    recently used ones. `maps`: whose feature maps are stored, fp32 ones as `map_dtype`, compressed with
    `map_codec`.
    """

    motion: Method = "mog2"
    motion_width: int = 480
    detector: str = ""
    detector_confidence: float = 0.3
    detector_classes: tuple[str, ...] = ()
    min_size: int = 20
    lost_seconds: float = 2.0
    least_seconds: float = 0.5
    least_travel: float = 0.5
    pictures: int = 3
    picture_side: int = 320
    margin: float = 0.2
    segment_seconds: float = 60.0
    top: int = 4
    cluster: float | None = 0.3
    active_clusters: int = 1000
    maps: KeptMaps = "all"
    map_dtype: DtypeName = "fp16"
    map_codec: CodecName = "none"

    def __post_init__(self) -> None:
        _one_of("background model", self.motion, get_args(Method))
        _one_of("choice of feature maps", self.maps, get_args(KeptMaps))
        _one_of("map dtype", self.map_dtype, get_args(DtypeName))
        _one_of("map codec", self.map_codec, get_args(CodecName))
        for name, least in (
            ("motion_width", 16), ("min_size", 1), ("top", 1), ("active_clusters", 1),
            ("margin", 0), ("pictures", 1), ("picture_side", 16), ("segment_seconds", 0.001),
            ("lost_seconds", 0), ("least_seconds", 0), ("least_travel", 0),
            ("detector_confidence", 0),
        ):  # fmt: skip
            _at_least(name, getattr(self, name), least)
        if self.cluster is not None and not 0 <= self.cluster <= 2:
            raise TrtkitError(
                f"A cluster distance of {self.cluster:g} is out of range; choose 0 to 2, or off."
            )

    @property
    def tracking(self) -> TrackingOptions:
        return TrackingOptions(self.lost_seconds, self.least_seconds, self.least_travel)

    @property
    def segment_us(self) -> int:
        return round(self.segment_seconds * MICROSECONDS)

    def to_json(self) -> str:
        return json.dumps(to_plain(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> IngestOptions:
        return from_plain(json.loads(text), cls)


def _one_of(what: str, value: str, available: tuple[str, ...]) -> None:
    if value not in available:
        raise TrtkitError(f"Unknown {what} {value!r}; available: {listed(available)}.")


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        option = name.removesuffix("_seconds").replace("_", "-")
        raise TrtkitError(f"--{option} {value:g} is too small; choose {least:g} or more.")
