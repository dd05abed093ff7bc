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

Method = Literal["mog2", "knn", "gmg"]
KeptMaps = Literal["all", "representatives", "none"]


@dataclass(frozen=True)
class IngestOptions:
    """How objects are found, grouped and stored.

    `motion`: the background model, OpenCV's MOG2 (Zivkovic 2004), KNN (Zivkovic and van der Heijden
    2006) or GMG (Godbehere et al. 2012). It looks at frames `motion_width` pixels wide.
    `min_size`: objects whose longer side is shorter, in pixels of the frame, are dropped. `margin`:
    added around an object on each side, as a share of its longer side. `duplicate`: an object that
    differs by less than this from the one at its place in the frame before, root mean square of grey
    levels (0 to 255), is the same one; 0 keeps every sighting. On rendered footage (scripts/footage.py)
    19 of 20 equal ones differ by less than 9, and 99 of 100 others by more than 20.

    `segment_seconds`: length of a chunk, which is committed at once; `warmup_seconds`: footage before a
    chunk from which its background is learned. `top`: best classes of an object that go into the
    index. `cluster`: the distance (0 to 2, between features of length 1) up to which an object joins
    a cluster; None makes no clusters. `active_clusters`: how many of a camera can be joined, the most
    recently used ones. `maps`: whose feature maps are stored, fp32 ones as `map_dtype`, compressed with
    `map_codec`.
    """

    motion: Method = "mog2"
    motion_width: int = 480
    min_size: int = 20
    margin: float = 0.2
    duplicate: float = 12.0
    segment_seconds: float = 60.0
    warmup_seconds: float = 5.0
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
            ("margin", 0), ("duplicate", 0), ("warmup_seconds", 0), ("segment_seconds", 0.001),
        ):  # fmt: skip
            _at_least(name, getattr(self, name), least)
        if self.segment_seconds <= self.warmup_seconds:
            raise TrtkitError(
                f"--segment {self.segment_seconds:g} is not longer than --warmup "
                f"{self.warmup_seconds:g}; make it longer than that."
            )
        if self.cluster is not None and not 0 <= self.cluster <= 2:
            raise TrtkitError(
                f"A cluster distance of {self.cluster:g} is out of range; choose 0 to 2, or off."
            )

    @property
    def segment_us(self) -> int:
        return round(self.segment_seconds * MICROSECONDS)

    @property
    def warmup_us(self) -> int:
        return round(self.warmup_seconds * MICROSECONDS)

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
