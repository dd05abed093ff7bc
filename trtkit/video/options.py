"""What `trtkit ingest` may be told about finding objects and keeping them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from trtkit.errors import TrtkitError, listed
from trtkit.video.frames import MICROSECONDS

Method = Literal["mog2", "knn", "gmg"]
KeptMaps = Literal["all", "representatives", "none"]
MapDtype = Literal["fp16", "fp32"]
MapCodec = Literal["none", "lz4", "zstd"]


@dataclass(frozen=True)
class IngestOptions:
    """How objects are found, which of them are kept, and how they are grouped.

    `motion`: the background model, OpenCV's MOG2 (Zivkovic 2004), KNN (Zivkovic and van der Heijden
    2006) or GMG (Godbehere et al. 2012). It looks at frames `motion_width` pixels wide.
    `min_size`: objects whose longer side has fewer pixels of the frame are dropped. `margin`: what is
    added around an object on each side, as a share of its longer side. `duplicate`: an object that
    differs from the one at its place in the frame before by less than this, root mean square of grey
    levels (0 to 255), is that one seen again; 0 keeps all of them. On rendered footage (scripts/footage.py)
    19 of 20 that are the same differ by less than 9, 99 of 100 that are not by more than 20.

    `segment_seconds`: of footage that is committed at once; `warmup_seconds`: of footage before a
    segment from which its background is learned. `top`: best classes of an object that go into the
    index. `cluster`: the distance (0 to 2, between features of length 1) up to which an object joins
    another's cluster; None makes no clusters. `active_clusters`: how many of a camera may still be
    joined, the longest unused left out. `maps`: whose feature maps are kept, fp32 ones as `map_dtype`,
    compressed with `map_codec`.
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
    map_dtype: MapDtype = "fp16"
    map_codec: MapCodec = "none"

    def __post_init__(self) -> None:
        _one_of("background model", self.motion, get_args(Method))
        _one_of("choice of feature maps", self.maps, get_args(KeptMaps))
        _one_of("dtype of feature maps", self.map_dtype, get_args(MapDtype))
        _one_of("codec of feature maps", self.map_codec, get_args(MapCodec))
        for name, least in (
            ("motion_width", 16), ("min_size", 1), ("top", 1), ("active_clusters", 1),
            ("margin", 0), ("duplicate", 0), ("warmup_seconds", 0), ("segment_seconds", 0.001),
        ):  # fmt: skip
            _at_least(name, getattr(self, name), least)
        if self.segment_seconds <= self.warmup_seconds:
            raise TrtkitError(
                f"Segments of {self.segment_seconds:g} s were asked for with {self.warmup_seconds:g} s "
                "to learn the background before each; make them longer than that."
            )
        if self.cluster is not None and not 0 <= self.cluster <= 2:
            raise TrtkitError(
                f"A cluster distance of {self.cluster:g} was asked for; choose 0 to 2, or off."
            )

    @property
    def segment_us(self) -> int:
        return round(self.segment_seconds * MICROSECONDS)

    @property
    def warmup_us(self) -> int:
        return round(self.warmup_seconds * MICROSECONDS)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> IngestOptions:
        return cls(**json.loads(text))


def _one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise TrtkitError(f"The {what} {given!r} was asked for; choose {listed(known)}.")


def _at_least(name: str, given: float, least: float) -> None:
    if not least <= given < math.inf:
        option = name.removesuffix("_seconds").replace("_", "-")
        raise TrtkitError(f"--{option} {given:g} was asked for; choose {least:g} or more.")
