"""The fixed workspace that the recorder works in: thin networks, photos, digits and a clip.

python -m tests.recorded.workspace FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scripts.digits import write_digits
from scripts.footage import render_clip
from scripts.photos import write_photos
from tests.bench_reports import usual
from tests.quantized import quantize

SIZE = 32
LABELS = ("0", "1", "2", "3")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
# Both thin networks have the same layers up to this cut.
CUT = 4


def make_inputs(root: Path) -> None:
    """Write everything that the commands read into `root`."""
    write_photos(root / "photos", count=6, size=(90, 70))
    (root / "broken.jpg").write_bytes(b"this is no picture")
    write_digits(root / "digits", size=64, classes=range(4), count=8)
    write_digits(root / "calibration", size=64, classes=range(4), count=3, seed=1)
    render_clip(root / "gate.mp4", seconds=6.0, size=(480, 360), fps=10.0, density=1.5, seed=3)
    (root / "labels.txt").write_text("\n".join(LABELS) + "\n")
    for name, widths in (("a", (16, 32)), ("b", (24, 32))):
        network = thin(name, widths)
        onnx.save(network, root / f"thin-{name}.onnx")
        quantize(network, root / f"ready-{name}.onnx", _normalised(root / "calibration"))
    report = usual()
    (root / "bench.json").write_text(json.dumps(report))
    for contest in report["contests"]:
        contest["figures"][-1]["images_per_second"] /= 2
    (root / "slow.json").write_text(json.dumps(report))


def _normalised(folder: Path) -> list[np.ndarray]:
    """The photos of `folder` as the thin networks take them."""
    images = []
    for path in sorted(folder.glob("*/*.jpg")):
        image = cv2.resize(cv2.imread(str(path)), (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
        normalised = (image[..., ::-1] / 255 - MEAN) / STD
        images.append(normalised.transpose(2, 0, 1).astype(np.float32))
    return images


def thin(name: str, widths: tuple[int, ...]) -> onnx.ModelProto:
    """A small residual classifier as another tool exports it: float N x 3 x 32 x 32 to N x 4 logits.

    The stem and the first residual block are the same in all of them; `widths` are the channels of
    the blocks after it, and `name` seeds their weights. No exporter is involved, so that the names
    of tensors depend on no version of one.
    """
    network = _Network()
    value = network.relu("stem", network.conv("stem", "x", 3, 16, stride=2))
    value = network.block("shared", value, 16, 16)
    before = 16
    for number, width in enumerate(widths):
        value = network.block(f"{name}{number}", value, before, width, stride=2)
        before = width
    network.add("GlobalAveragePool", [value], "pool")
    network.add("Flatten", ["pool"], "embedding")
    network.weight(f"{name}.weight", (len(LABELS), before), before)
    network.weight(f"{name}.bias", (len(LABELS),), 1)
    network.add("Gemm", ["embedding", f"{name}.weight", f"{name}.bias"], "logits", transB=1)
    graph = helper.make_graph(
        network.nodes,
        "thin",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)])],
        network.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class _Network:
    """Nodes and weights; a weight's values depend on its name alone."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def weight(self, name: str, shape: tuple[int, ...], fan_in: int) -> str:
        random = np.random.default_rng(list(name.encode()))
        values = random.standard_normal(shape) * np.sqrt(2 / fan_in)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, name: str, value: str, before: int, width: int, stride: int = 1) -> str:
        shape = (width, before, 3, 3)
        weights = [
            self.weight(f"{name}.weight", shape, before * 9),
            self.weight(f"{name}.bias", (width,), 100),
        ]
        attributes = {"pads": [1, 1, 1, 1], "strides": [stride, stride]}
        return self.add("Conv", [value, *weights], f"{name}.conv", **attributes)

    def relu(self, name: str, value: str) -> str:
        return self.add("Relu", [value], f"{name}.relu")

    def block(self, name: str, value: str, before: int, width: int, stride: int = 1) -> str:
        branch = self.relu(f"{name}.1", self.conv(f"{name}.1", value, before, width, stride))
        branch = self.conv(f"{name}.2", branch, width, width)
        skip = value if stride == 1 else self.conv(f"{name}.skip", value, before, width, stride)
        return self.relu(name, self.add("Add", [branch, skip], f"{name}.add"))


if __name__ == "__main__":
    make_inputs(Path(sys.argv[1]))
