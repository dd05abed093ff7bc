"""Ranges as NVIDIA ModelOpt measures them, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import trtkit
from tests.graph.onnx_graphs import classifier
from tests.reports import recorded
from trtkit.building.adoption import adopt_file
from trtkit.errors import TrtkitError
from trtkit.extras import EXTRAS
from trtkit.graph.card import ModelCard
from trtkit.graph.precision import name_nodes
from trtkit.graph.tree import Model
from trtkit.quantization.calibrate import measure_ranges
from trtkit.quantization.photos import CalibrationPhotos, calibration_photos, prepared

pytestmark = pytest.mark.skipif(
    not all(package.installed for package in EXTRAS["quantize"].packages),
    reason="ModelOpt is not installed, which has nothing for Python 3.10",
)

SIZE = 8


def model_with(**weights: np.ndarray) -> Model:
    """Two convolutions, an addition, a pooling and a Gemm, with some weights replaced."""
    graph = classifier(size=SIZE)
    for each in graph.graph.initializer:
        if each.name in weights:
            each.CopyFrom(numpy_helper.from_array(weights[each.name].astype(np.float32), each.name))
    adopted = adopt_file(graph, mean=(0.5,) * 3, std=(0.25,) * 3, name="m").adopted
    name_nodes(adopted.model.graph)
    card = ModelCard("foreign", "unknown", list("abcde"), adopted.preprocessing, [])
    return Model("m", adopted.model, card)


@pytest.fixture
def photos(tmp_path: Path) -> CalibrationPhotos:
    random = np.random.default_rng(0)
    for number in range(10):
        pixels = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return calibration_photos(tmp_path, 512)


def measure(model: Model, photos: CalibrationPhotos, method: str = "max"):
    with recorded() as reports:
        ranges = measure_ranges(model, "d" * 64, photos, method)
    return ranges, [share for _, share in reports.phases]


def test_max_is_the_largest_magnitude_of_every_value(photos: CalibrationPhotos) -> None:
    model = model_with()
    ranges, shares = measure(model, photos)
    # 8 photos to measure on.
    assert sorted(shares) == shares
    assert shares[-1] == 1.0
    every = onnx.ModelProto()
    every.CopyFrom(model.graph)
    names = ["b", "c", "d", "e"]
    every.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    import onnxruntime

    session = onnxruntime.InferenceSession(
        every.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ((_, images),) = prepared(photos.chosen, model.card.preprocessing, 8)
    values = session.run(names, {session.get_inputs()[0].name: images})
    for name, value in zip(names, values, strict=True):
        assert ranges.ranges[name] == pytest.approx(np.abs(value).max(), rel=1e-5), name
    assert ranges.constant == ()
    # Four channels are too few for a GPU's int8 kernels.
    assert "conv2" not in ranges.edges


def test_a_dead_layer_is_named_and_left_out(photos: CalibrationPhotos) -> None:
    ranges, _ = measure(model_with(w2=np.zeros((4, 4, 3, 3))), photos)
    assert ranges.constant == ("c",)
    assert "c" not in ranges.ranges
    assert ranges.ranges["e"] > 0


@pytest.mark.parametrize("value", [3e38, np.nan])
def test_a_value_that_is_not_finite_is_named(photos: CalibrationPhotos, value: float) -> None:
    model = model_with(w2=np.full((4, 4, 3, 3), value))
    with pytest.raises(
        TrtkitError, match=r"The value c of m is infinite or NaN on .*\.png and so has no range"
    ):
        measure(model, photos)


def test_what_modelopt_says_last_is_told(photos: CalibrationPhotos) -> None:
    for photo in photos.chosen:
        photo.path.unlink()
    with pytest.raises(
        TrtkitError, match=r"NVIDIA ModelOpt could not measure the ranges of m \(.+\); build with"
    ):
        measure(model_with(), photos)


def test_without_modelopt_the_extra_is_named(
    photos: CalibrationPhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    monkeypatch.setattr("trtkit.extras.importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        TrtkitError, match=r"Calibrating for int8 needs .*pip install 'trtkit\[quantize\]'"
    ):
        measure(model_with(), photos)


def test_the_worker_ends_with_its_parent() -> None:
    launch = Path(trtkit.__file__).with_name("launch.py")
    ended = subprocess.run(
        [sys.executable, str(launch), "quantization.worker"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, b"", b"")
