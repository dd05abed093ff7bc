"""What int8 costs, on a model that takes a photo for its strongest colour."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from tests.graph.onnx_graphs import make_model
from tests.pictures import encoded
from trtkit.errors import TrtkitError
from trtkit.graph.card import ModelCard
from trtkit.graph.quantize import SYMMETRIC, UNSIGNED
from trtkit.graph.tree import Model
from trtkit.preprocessing import Preprocessing
from trtkit.quantization import accuracy as module
from trtkit.quantization.accuracy import Accuracy, AccuracyGate, relative_errors
from trtkit.quantization.photos import CalibrationPhoto, CalibrationPhotos
from trtkit.runtime.models import load_graphs
from trtkit.serialization import to_plain

SIZE = 8
RED, GREEN, BLUE = (100, 40, 0), (30, 120, 0), (0, 60, 80)
RIGHT = Accuracy(
    images=200, labelled=200, agreement=1.0, top1=0.9, reference_top1=0.9, error=0.0, seconds=0.1,
    reference_seconds=0.2,
)  # fmt: skip


def colours(*bias: float) -> onnx.ModelProto:
    """Logits are the mean of red, of green and of blue, to each of which a number is added."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], "mean", axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["m", "bias"], ["y"], "add"),
    ]
    return make_model(
        nodes,
        ["N", SIZE, SIZE, 3],
        ("y", ["N", 3]),
        {"bias": np.array(bias or (0, 0, 0), np.float32)},
        dtype=TensorProto.UINT8,
    )


def model(classes=("red", "green", "blue")) -> Model:
    card = ModelCard("foreign", "none", list(classes), Preprocessing(SIZE, SIZE, SIZE), [])
    return Model("colours", colours(), card)


def photo(folder: Path, label: str | None, name: str, colour) -> CalibrationPhoto:
    """A photo that is all of one colour, so that resizing changes nothing."""
    path = (folder / label if label else folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(np.full((9, 11, 3), colour, np.uint8), "PNG"))
    return CalibrationPhoto(path, blake3(path.read_bytes()).digest(), label)


def chosen(folder: Path, held_out, measured_on=()) -> CalibrationPhotos:
    """Of (label, colour), what is held out and what is measured on."""
    sides = [
        tuple(
            photo(folder, label, f"{side}-{n:03}", colour)
            for n, (label, colour) in enumerate(colours)
        )
        for side, colours in (("chosen", measured_on or [(None, RED)]), ("held", held_out))
    ]
    labelled = any(item.label for item in sides[1])
    return CalibrationPhotos(folder, sides[0], sides[1], (), labelled)


# Three of each, more than a batch; the last red one is taken for green.
NINE = [("red", RED)] * 2 + [("red", GREEN)] + [("green", GREEN)] * 3 + [("blue", BLUE)] * 3


@pytest.fixture
def make_gate(tmp_path):
    def make(
        photos: CalibrationPhotos, form=SYMMETRIC, classes=("red", "green", "blue")
    ) -> AccuracyGate:
        folder = tmp_path / "tried"
        folder.mkdir(exist_ok=True)
        return AccuracyGate(model(classes), photos, form, folder)

    return make


@pytest.mark.parametrize("form", [SYMMETRIC, UNSIGNED])
def test_the_model_itself_agrees_with_itself(tmp_path, make_gate, form):
    accuracy = make_gate(chosen(tmp_path, NINE), form).accuracy(colours())
    assert accuracy.images == 9
    assert (accuracy.agreement, accuracy.error) == (1.0, 0.0)
    assert accuracy.top1 == accuracy.reference_top1 == 8 / 9
    assert accuracy.seconds > 0
    assert accuracy.reference_seconds > 0
    assert accuracy.shortfall(1.0) is None
    assert to_plain(accuracy)["images"] == 9


def test_another_graph_beside_it(tmp_path, make_gate):
    # 70 more of green: the reds become green, and the blues, too.
    accuracy = make_gate(chosen(tmp_path, NINE)).accuracy(colours(0, 70, 0))
    assert accuracy.agreement == 4 / 9
    assert accuracy.top1 == 3 / 9
    assert accuracy.reference_top1 == 8 / 9
    # The errors of reds, greens and blues are 0.65, 0.57 and 0.7; there are 2, 4 and 3 of them.
    assert accuracy.error == pytest.approx(70 / np.hypot(*RED[:2]))


def test_what_it_makes_better_counts_too(tmp_path, make_gate):
    photos = chosen(tmp_path, [("red", RED), ("red", (50, 55, 0)), ("green", GREEN)])
    accuracy = make_gate(photos).accuracy(colours(10, 0, 0))
    assert (accuracy.agreement, accuracy.top1, accuracy.reference_top1) == (2 / 3, 1.0, 2 / 3)


def test_layers_are_ranked_on_photos_that_were_measured_on(tmp_path, make_gate):
    measured_on = [("red", (n, 0, 0)) for n in range(10, 90, 10)]
    gate = make_gate(chosen(tmp_path, NINE, measured_on))
    assert gate.error(colours()) == 0
    expected = np.mean([5 / n for n in range(10, 90, 10)])
    assert gate.error(colours(0, 0, 5)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("count", "places"), [(3, range(3)), (15, range(8)), (40, range(0, 40, 5))]
)
def test_those_ranked_on_are_few_and_come_from_all(tmp_path, make_gate, count, places):
    measured_on = [("red", (n + 1, 0, 0)) for n in range(count)]
    gate = make_gate(chosen(tmp_path, NINE, measured_on))
    expected = np.mean([5 / (n + 1) for n in places])
    assert gate.error(colours(0, 0, 5)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("classes", "right"),
    [
        (("red", "green", "blue"), 8 / 9),
        # By name, not by place.
        (("red", "blue", "green"), 2 / 9),
        (("red", "green", "blue", "black"), 8 / 9),
        # Of reds and greens alone.
        (("red", "green", "azure"), 5 / 6),
        (("rose", "green", "azure"), 3 / 3),
        (("rose", "lime", "azure"), None),
    ],
)
def test_labels_count_where_the_folder_is_a_class(tmp_path, make_gate, classes, right):
    accuracy = make_gate(chosen(tmp_path, NINE), classes=classes).accuracy(colours())
    assert (accuracy.images, accuracy.agreement) == (9, 1.0)
    assert (accuracy.top1, accuracy.reference_top1) == (right, right)


def test_a_photo_without_a_label_counts_for_agreement_alone(tmp_path, make_gate):
    gate = make_gate(chosen(tmp_path, [(None, RED), *NINE, (None, BLUE)]))
    accuracy = gate.accuracy(colours())
    assert (accuracy.images, accuracy.top1, accuracy.reference_top1) == (11, 8 / 9, 8 / 9)
    # All become green: of those with a label three are, and one is no longer taken for it.
    accuracy = gate.accuracy(colours(0, 70, 0))
    assert (accuracy.agreement, accuracy.top1, accuracy.reference_top1) == (4 / 11, 3 / 9, 8 / 9)


def test_without_any_label_there_is_no_top1(tmp_path, make_gate):
    accuracy = make_gate(chosen(tmp_path, [(None, RED), (None, BLUE)])).accuracy(colours(0, 25, 0))
    assert (accuracy.agreement, accuracy.top1, accuracy.reference_top1) == (0.5, None, None)


def test_one_class_is_told(tmp_path, make_gate):
    assert make_gate(chosen(tmp_path, NINE)).one_class is None
    assert make_gate(chosen(tmp_path, [("red", BLUE), ("green", BLUE)])).one_class == "blue"
    assert make_gate(chosen(tmp_path, [("red", BLUE), ("green", RED)])).one_class is None


def test_one_class_of_a_single_photo_says_nothing(tmp_path, make_gate):
    assert make_gate(chosen(tmp_path, [("red", BLUE)])).one_class is None
    photos = chosen(tmp_path, [("red", BLUE), ("green", BLUE)])
    photos.held_out[0].path.unlink()
    assert make_gate(photos).one_class is None


@pytest.mark.parametrize(("form", "exact"), [(SYMMETRIC, True), (UNSIGNED, False)])
def test_tensorrts_form_is_judged_without_the_processors_int8_kernels(
    tmp_path, make_gate, monkeypatch, form, exact
):
    flags = []

    def recorded(*files, exact):
        flags.append(exact)
        return load_graphs(*files, exact=exact)

    monkeypatch.setattr(module, "load_graphs", recorded)
    make_gate(chosen(tmp_path, NINE), form).accuracy(colours())
    assert set(flags) == {exact}


def test_a_photo_that_cannot_be_read_from_the_start_is_left_out(tmp_path, make_gate):
    photos = chosen(tmp_path, NINE, [("red", RED), ("red", (10, 0, 0))])
    photos.held_out[2].path.unlink()
    content = photos.chosen[0].path.read_bytes()
    photos.chosen[0].path.unlink()
    gate = make_gate(photos)
    # That it comes back must not move the others.
    photos.chosen[0].path.write_bytes(content)
    assert gate.accuracy(colours()).images == 8
    assert gate.accuracy(colours()).top1 == 1.0
    assert gate.error(colours(0, 0, 5)) == 0.5


def test_photos_are_read_once(tmp_path, make_gate):
    photos = chosen(tmp_path, NINE, [("red", RED), ("red", (10, 0, 0))])
    gate = make_gate(photos)
    for item in photos.held_out:
        item.path.unlink()
    for item in photos.chosen:
        item.path.write_bytes(encoded(np.full((9, 11, 3), BLUE, np.uint8), "PNG"))
    for _ in range(2):
        accuracy = gate.accuracy(colours(0, 70, 0))
        assert (accuracy.images, accuracy.agreement, accuracy.top1) == (9, 4 / 9, 3 / 9)
        expected = np.mean([5 / np.hypot(*RED[:2]), 0.5])
        assert gate.error(colours(0, 0, 5)) == pytest.approx(expected)


@pytest.mark.parametrize("gone", ["held_out", "chosen"])
def test_photos_that_have_all_gone_are_an_error(tmp_path, make_gate, gone):
    photos = chosen(tmp_path, NINE, [("red", RED), ("blue", BLUE)])
    for item in getattr(photos, gone):
        item.path.unlink()
    with pytest.raises(
        TrtkitError, match=rf"^No photo of {tmp_path} can be read any more; build again"
    ):
        make_gate(photos)


@pytest.mark.parametrize("share", [0.9, 0.95, 0.97, 0.985, 0.99, 1.0])
def test_agreement_may_be_as_low_as_asked(share):
    same = replace(RIGHT, agreement=float(np.mean(np.arange(200) < round(share * 200))))
    assert same.shortfall(share) is None
    worse = replace(RIGHT, agreement=float(np.mean(np.arange(200) < round(share * 200) - 1)))
    assert worse.shortfall(share) == (
        f"{round(share * 200) - 1} of 200 held-out photos have the same best class as in fp32 "
        f"(at least {share:.1%})"
    )


@given(st.integers(1, 5000), st.data())
def test_agreement_is_told_in_photos(images, data):
    same = data.draw(st.integers(0, images - 1))
    agreement = float((np.arange(images) < same).mean())
    accuracy = replace(RIGHT, images=images, agreement=agreement)
    assert str(accuracy.shortfall(1.0)).startswith(
        f"{same} of {images} held-out photos have the same "
    )


def test_agreement_that_falls_is_told():
    assert replace(RIGHT, images=480, agreement=475 / 480).shortfall(0.99) == (
        "475 of 480 held-out photos have the same best class as in fp32 (at least 99.0%)"
    )
    assert replace(RIGHT, images=480, agreement=476 / 480).shortfall(0.99) is None


@given(st.integers(1, 2000), st.data())
def test_top1_may_fall_by_one_point_exactly(images, data):
    before = data.draw(st.integers(0, images))
    after = data.draw(st.integers(0, before))
    accuracy = replace(RIGHT, images=images, top1=after / images, reference_top1=before / images)
    lost_too_much = 100 * (before - after) > images
    assert (accuracy.shortfall(0.99) is not None) == lost_too_much


def test_a_proof_needs_the_bound():
    assert RIGHT.proved == pytest.approx(0.05 ** (1 / 200))
    assert RIGHT.shortfall(0.985, proved=True) is None
    assert RIGHT.shortfall(0.99, proved=True) == (
        "200 of 200 held-out photos have the same best class as in fp32, which proves 98.5% "
        "(at least 99.0%)"
    )
    tied = replace(RIGHT, agreement=0.9, ties=3)
    assert "as in fp32 (3 of them one of nearly equal score) (at least" in str(tied.shortfall(0.99))


def test_ties_are_no_errors_and_are_counted(tmp_path):
    photos = chosen(tmp_path, [(None, (80, 81, 0)), (None, RED), (None, BLUE), (None, GREEN)])
    reference = replace(model(), graph=colours(0.96, 0, 0))
    gate = AccuracyGate(reference, photos, SYMMETRIC, tmp_path)
    # The first alone changes, from green to red, between which fp32 has a difference of 0.04.
    accuracy = gate.accuracy(colours(1.05, 0, 0))
    assert (accuracy.agreement, accuracy.ties) == (1.0, 1)
    accuracy = gate.accuracy(colours(100, 0, 0))
    assert (accuracy.agreement, accuracy.ties) == (0.5, 1)


def test_independent_labels_are_judged_one_by_one(tmp_path):
    def gate(scoring):
        folder = tmp_path / scoring
        folder.mkdir()
        own = model()
        # A label holds for colours from 50 on.
        card = replace(own.card, scores=scoring)
        photos = chosen(
            folder, [("red", (100, 20, 0)), ("green", (70, 100, 0)), ("red", (20, 0, 30))]
        )
        return AccuracyGate(
            replace(own, graph=colours(-50, -50, -50), card=card), photos, SYMMETRIC, folder
        )

    # Green falls below 50 nowhere as the best class, but red's label goes from the second photo.
    accuracy = gate("sigmoid").accuracy(colours(-75, -50, -50))
    assert (accuracy.agreement, accuracy.top1, accuracy.reference_top1) == (2 / 3, 2 / 3, 2 / 3)
    accuracy = gate("softmax").accuracy(colours(-75, -50, -50))
    assert (accuracy.agreement, accuracy.top1, accuracy.reference_top1) == (1.0, 2 / 3, 2 / 3)


def test_top1_that_falls_is_told():
    assert replace(RIGHT, top1=0.89).shortfall(0.99) is None
    assert replace(RIGHT, top1=0.885).shortfall(0.99) == (
        "top-1 on 200 held-out photos falls from 90.0% to 88.5% (at most 1.0% less)"
    )
    # Who lets one in twenty change lets as many become wrong.
    assert replace(RIGHT, top1=0.85).shortfall(0.95) is None
    assert replace(RIGHT, top1=0.845).shortfall(0.95) is not None
    assert replace(RIGHT, top1=0.95).shortfall(0.99) is None
    # Agreement comes first.
    assert "same best class" in (replace(RIGHT, agreement=0.9, top1=0.5).shortfall(0.99) or "")


def test_without_labels_agreement_alone_counts():
    assert replace(RIGHT, top1=None, reference_top1=None).shortfall(0.99) is None
    missed = replace(RIGHT, agreement=0.985, top1=None, reference_top1=None).shortfall(0.99)
    assert missed is not None


def test_relative_errors_by_hand():
    values = np.array([[3, 4], [1, 1], [0, 5], [2, 0]], np.float32)
    reference = np.array([[3, 4], [0, 1], [3, 1], [0, 0]], np.float32)
    # A row of zeros has no norm to divide by.
    expected = [0, 1, 5 / np.sqrt(10), 2]
    np.testing.assert_allclose(relative_errors(values, reference), expected, rtol=1e-12)


def test_relative_errors_do_not_overflow():
    large = np.full((1, 4), 1e30, np.float32)
    assert relative_errors(2 * large, large) == pytest.approx([1.0])
    half = np.full((1, 4), 60000, np.float16)
    assert relative_errors(half, half / 2) == pytest.approx([1.0])


@given(
    arrays.arrays(np.float32, (3, 2, 4), elements=st.floats(-100, 100, width=32)),
    arrays.arrays(np.float32, (3, 2, 4), elements=st.floats(1, 100, width=32)),
    st.floats(0.5, 100),
)
def test_relative_errors_of_rows_of_any_shape(values, reference, scale):
    errors = relative_errors(values, reference)
    for row in range(3):
        difference = (values[row].astype(np.float64) - reference[row]).ravel()
        expected = np.sqrt((difference**2).sum() / (reference[row].astype(np.float64) ** 2).sum())
        assert errors[row] == pytest.approx(expected, rel=1e-9)
    # Whatever the unit.
    scaled = relative_errors(
        values.astype(np.float64) * scale, reference.astype(np.float64) * scale
    )
    np.testing.assert_allclose(scaled, errors, rtol=1e-9, atol=1e-12)
