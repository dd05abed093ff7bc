"""Who is compared with whom, what a stored feature map stands for, and the median of errors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from trtkit.bundle import Manifest
from trtkit.evaluation.compared import middle, side_by_side
from trtkit.evaluation.subjects import FeatureMap, Pace, Subject
from trtkit.preprocessing import Preprocessing
from trtkit.stages import Stage, StageInput, StageOutput

MAP = FeatureMap(2, (3, 4))
IMAGES = np.zeros((2, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1])


@dataclass
class Fixed:
    """A subject that gives the same logits and feature maps whatever it is shown."""

    name: str
    tail: str | None = None
    feature_map: FeatureMap | None = None
    rows: tuple[tuple[float, ...], ...] = ((3.0, 4.0), (0.0, 2.0))
    maps: np.ndarray | None = None
    classes: tuple[str, ...] = ("cat", "dog")
    place: str = ""
    kind: str = "bundle"
    checkpoint: str | None = None
    bundle: str | None = None
    precision: str = "fp32"
    backend: str = "none"
    scoring: str = "softmax"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    notes: tuple[str, ...] = ()
    trained_on: dict = field(default_factory=dict)
    bytes: int = 0
    pace: Pace = field(default_factory=Pace)
    features_requested: bool | None = None

    boundary = Subject.boundary

    def compute(self, images, *, features=False):
        self.features_requested = features
        return np.array(self.rows, np.float32), self.maps if features else None

    def close(self) -> None:
        return None


def after(*subjects: Fixed):
    """The runs of the subjects after one batch of two photos."""
    runs = side_by_side(subjects, ["cat", "dog"])
    for run in runs:
        run.add(IMAGES, LABELS)
    return runs


def test_the_error_of_logits_is_that_of_the_median_photo():
    first, second = after(Fixed("one"), Fixed("two", rows=((3.0, 5.0), (0.0, 2.5))))
    assert first.logits_error is None
    # Norms of 1 to 5 and of 0.5 to 2.
    assert second.logits_error == pytest.approx((1 / 5 + 0.5 / 2) / 2)
    second.add(IMAGES, LABELS)
    assert len(second.logits_errors) == 4


def test_logits_are_compared_class_by_class():
    turned = Fixed("turned", classes=("dog", "cat"), rows=((4.0, 3.0), (2.0, 0.0)))
    _, second = after(Fixed("one"), turned)
    assert second.logits_error == 0.0
    assert second.agreeing == 2


def test_logits_of_other_classes_are_not_compared():
    rows = ((3.0, 4.0, 0.0), (0.0, 2.0, 0.0))
    _, cow, two = after(
        Fixed("emu", classes=("cat", "dog", "emu"), rows=rows),
        Fixed("cow", classes=("cat", "dog", "cow"), rows=rows),
        Fixed("two"),
    )
    assert (cow.logits_error, two.logits_error) == (None, None)
    assert (cow.agreeing, two.agreeing) == (2, 2)


def test_names_that_two_classes_have_are_compared_in_their_order_alone():
    rows = ((3.0, 4.0, 1.0, 2.0), (0.0, 2.0, 1.0, 1.0))
    twice, turned = ("cat", "dog", "emu", "emu"), ("dog", "cat", "emu", "emu")
    _, same, other = after(
        Fixed("one", classes=twice, rows=rows),
        Fixed("two", classes=twice, rows=rows),
        Fixed("three", classes=turned, rows=rows),
    )
    assert same.logits_error == 0.0
    assert other.logits_error is None


def test_maps_are_compared_with_the_first_of_the_same_tail_cut_and_shape():
    ones = np.ones((2, 3, 4), np.float32)
    subjects = [
        Fixed("checkpoint t"),
        Fixed("unsplit", "t"),
        Fixed("other tail", "u", MAP, maps=ones),
        Fixed("other cut", "t", FeatureMap(1, (3, 4)), maps=ones),
        Fixed("other shape", "t", FeatureMap(2, (4, 3)), maps=ones.reshape(2, 4, 3)),
        Fixed("fp32", "t", MAP, maps=ones),
        Fixed("fp16", "t", MAP, maps=np.float16(1.25) * ones.astype(np.float16)),
        Fixed("int8", "t", FeatureMap(2, (3, 4), 0.5, 7), maps=np.full((2, 3, 4), 10, np.uint8)),
    ]
    runs = after(*subjects)
    assert [run.boundary and run.boundary.subject.name for run in runs] == [
        None, None, None, None, None, None, "fp32", "fp32",
    ]  # fmt: skip
    assert [run.boundary_error for run in runs] == [None] * 6 + [0.25, 0.5]
    # Maps that nobody is compared with are not asked for.
    assert [subject.features_requested for subject in subjects] == [False] * 5 + [True] * 3
    # Those that nobody will be compared with are not kept.
    assert [run.latest.features is not None for run in runs] == [False] * 5 + [True, False, False]


def test_a_tail_is_compared_with_the_checkpoint_of_its_name():
    runs = after(Fixed("u"), Fixed("t"), Fixed("b/t", "t"), Fixed("b/x", "x"))
    assert [run.reference and run.reference.subject.name for run in runs] == [None, "u", "t", "u"]


@pytest.mark.parametrize("stored", [np.uint8, np.int8])
def test_what_the_integers_of_a_map_stand_for(stored):
    low, high = np.iinfo(stored).min, np.iinfo(stored).max
    zero = low + 5
    values = FeatureMap(2, (3,), 0.25, zero).values(np.array([[low, zero, high]], stored))
    # 5 below the zero point and 250 above it: neither wraps around.
    assert values.tolist() == [[-1.25, 0.0, 62.5]]
    assert values.dtype == np.float64


def test_maps_of_numbers_are_what_they_hold():
    stored = np.array([1.5, -65504.0], np.float16)
    assert FeatureMap(2, (2,)).values(stored).tolist() == stored.tolist()


def split(dtype: str, quantized, shape: tuple[int | None, ...] = (None, 3, 4)) -> Manifest:
    image = StageInput("images", "uint8", (None, 8, 8, 3))
    maps = StageOutput("maps", dtype, shape, "feature_map")
    scores = StageOutput("logits", "float32", (None, 1), "logits")
    return Manifest(
        name="b", build_id="", cut=2, precision="", computes="", backend="", backend_version="",
        trtkit_version="", created="", batch=(1, 1, 1), preprocessing=Preprocessing(),
        stages=(
            Stage(
                name="prefix", id="", role="prefix", parent=None, file="p", digest="",
                inputs=(image,), outputs=(maps,),
            ),
            Stage(
                name="t", id="", role="head", parent="prefix", file="t", digest="",
                inputs=(StageInput("maps", dtype, shape, "maps"),), outputs=(scores,),
                classes=("cat",),
            ),
        ),
        quantized=quantized,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "quantized", "expected"),
    [
        ("float32", None, MAP),
        ("float16", {"boundary": None}, MAP),
        # A map that stays float in an int8 bundle holds the numbers, whatever the record says.
        ("float32", {"boundary": {"scale": 0.5, "zero": 7}}, MAP),
        ("uint8", {"boundary": {"scale": 0.5, "zero": 7}}, FeatureMap(2, (3, 4), 0.5, 7)),
        ("int8", {"boundary": None}, None),
        ("int8", None, None),
    ],
)
def test_the_map_that_a_manifest_says(dtype, quantized, expected):
    manifest = split(dtype, quantized)
    assert FeatureMap.of(manifest, manifest.tail()) == expected


def test_no_map_without_a_cut_or_of_no_fixed_shape():
    halves = split("float32", None)
    alone = replace(halves.tail(), parent=None, inputs=halves.stages[0].inputs)
    whole = replace(halves, cut=0, stages=(alone,))
    assert FeatureMap.of(whole, whole.tail()) is None
    open_ended = split("float32", None, (None, 3, None))
    assert FeatureMap.of(open_ended, open_ended.tail()) is None


def test_the_median_of_errors():
    assert middle([0.3, 0.1, 0.2]) == 0.2
    assert middle([]) is None
    assert middle([0.1, float("inf"), float("inf")]) is None
    assert middle([0.1, 0.1, float("inf")]) == 0.1


def test_independent_labels_agree_where_all_of_them_do():
    reference = Fixed("one", scoring="sigmoid", rows=((3.0, 4.0), (-1.0, 2.0)))
    # The best label is the same for both photos, and the first label no longer holds for one.
    other = Fixed("two", scoring="sigmoid", rows=((-3.0, 4.0), (-1.0, 2.0)))
    turned = Fixed(
        "three", scoring="sigmoid", classes=("dog", "cat"), rows=((4.0, 3.0), (2.0, -1.0))
    )
    first, second, third = after(reference, other, turned)
    assert (first.agreement, second.agreement, third.agreement) == (None, 0.5, 1.0)


def test_independent_labels_of_other_classes_cannot_agree():
    rows = ((3.0, 4.0, 0.0), (0.0, 2.0, 0.0))
    _, emu = after(
        Fixed("one"), Fixed("emu", scoring="sigmoid", classes=("cat", "dog", "emu"), rows=rows)
    )
    assert emu.agreement is None
