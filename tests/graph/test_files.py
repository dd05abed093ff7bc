"""Sealed ONNX files: what was changed after the export is refused, other files are read as they are."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

from tests.graph.onnx_graphs import classifier
from trtkit.errors import TrtkitError
from trtkit.graph.files import read_model, write_model, write_sealed
from trtkit.sealing import MARK


def test_a_sealed_model_is_read_as_it_was(tmp_path: Path) -> None:
    model, path = classifier(), tmp_path / "model.onnx"
    write_sealed(model, path)
    stored = onnx.load(path)
    assert [prop.key for prop in stored.metadata_props][-1] == MARK
    read = read_model(path)
    # The seal is the file's, not the graph's: another graph made from it has none.
    assert MARK not in [prop.key for prop in read.metadata_props]
    assert read.graph == model.graph
    write_sealed(read, path)
    assert read_model(path).graph == read.graph


def test_no_single_bit_of_an_export_changes_its_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_sealed(classifier(), path)
    expected, data, draw = read_model(path), path.read_bytes(), random.Random(6)
    refused = 0
    for number in range(300):
        # Where the seal is there are most ways to go wrong.
        low = max(0, len(data) - 120) if number % 2 else 0
        at, bit = draw.randrange(low, len(data)), draw.randrange(8)
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        try:
            read = read_model(path)
        except TrtkitError:
            refused += 1
            continue
        assert read.graph == expected.graph
        assert read.metadata_props[: len(expected.metadata_props)] == expected.metadata_props
    assert refused > 250


def test_an_edited_export_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_sealed(classifier(), path)
    model = onnx.load(path)
    model.graph.node[0].name = "renamed"
    onnx.save(model, path)
    with pytest.raises(TrtkitError, match=f"if the change is yours, remove {MARK} from the file's"):
        read_model(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    assert read_model(path).graph.node[0].name == "renamed"


def test_files_of_other_tools_have_no_seal(tmp_path: Path) -> None:
    write_model(classifier(), tmp_path / "model.onnx")
    assert read_model(tmp_path / "model.onnx") == classifier()
    with suppress(TrtkitError):
        (tmp_path / "model.onnx").write_bytes(b"")
        read_model(tmp_path / "model.onnx")


def with_weights_beside(path: Path, location: str = "weights.bin") -> onnx.ModelProto:
    """Write a model whose weights lie in a file beside it."""
    model = classifier()
    onnx.save(
        onnx.ModelProto.FromString(model.SerializeToString()), path, save_as_external_data=True,
        location=location, size_threshold=0,
    )  # fmt: skip
    return model


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    model = with_weights_beside(tmp_path / "model.onnx")
    stored = {weight.name: to_array(weight) for weight in model.graph.initializer}
    read = {
        weight.name: to_array(weight)
        for weight in read_model(tmp_path / "model.onnx").graph.initializer
    }
    assert stored.keys() == read.keys()
    for name, value in stored.items():
        np.testing.assert_array_equal(read[name], value)


def test_weights_beside_the_file_that_cannot_be_read(tmp_path: Path) -> None:
    path, weights = tmp_path / "model.onnx", tmp_path / "weights.bin"
    with_weights_beside(path)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(TrtkitError, match=r"^The weights of .*model.onnx .* cannot be read \("):
        read_model(path)
    weights.unlink()
    with pytest.raises(
        TrtkitError, match=r"keeps its weights in weights.bin, which is not beside it; copy"
    ):
        read_model(path)


@pytest.mark.parametrize("link", [False, True])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, link: bool) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with_weights_beside(folder / "model.onnx")
    outside = (folder / "weights.bin").rename(tmp_path / "secret.bin")
    if link:
        (folder / "weights.bin").symlink_to(outside)
    else:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        for weight in model.graph.initializer:
            for entry in weight.external_data:
                entry.value = "../secret.bin" if entry.key == "location" else entry.value
        (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(TrtkitError, match=r"^The weights of .*model.onnx .* cannot be read \("):
        read_model(folder / "model.onnx")
