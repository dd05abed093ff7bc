"""Reading and writing ONNX files."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from trtkit.errors import TrtkitError, first_line, listed, os_reason
from trtkit.filekind import check_content
from trtkit.sealing import BLANK, MARK, SealBroken, check_file, seal_file


def read_model(path: Path) -> onnx.ModelProto:
    """The checked model of an `.onnx` file, external data included.

    Raises TrtkitError when the file is missing, damaged or not a valid ONNX graph, and when it was
    sealed and is not as it was then.
    """
    if not path.is_file():
        raise TrtkitError(f"ONNX file {path} not found; give the path of an existing file.")
    check_content(path)
    try:
        check_file(path)
        model = onnx.load(path, load_external_data=False)
    except SealBroken as error:
        raise TrtkitError(
            f"{path} is not what `trtkit export` wrote: {error}; export the model again, or, if the change "
            f"is yours, remove {MARK} from the file's metadata."
        ) from error
    except (DecodeError, OSError, ValueError) as error:
        raise TrtkitError(
            f"{path} is cut short or damaged, or no ONNX file ({first_line(error)}); copy or export it "
            "again."
        ) from error
    _load_external_data(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise TrtkitError(
            f"{path} is not a valid ONNX file ({first_line(error)}); copy or export it again."
        ) from error
    # A graph that is made from this one is another one.
    _remove_seal(model)
    return model


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Read the weights that lie in files beside `path`, in place."""
    files = {
        entry.value
        for weight in model.graph.initializer
        if uses_external_data(weight)
        for entry in weight.external_data
        if entry.key == "location"
    }
    missing = sorted(file for file in files if not (path.parent / file).is_file())
    if missing:
        raise TrtkitError(
            f"{path} keeps its weights in {listed(missing)}, which is not beside it; copy that file "
            "into the same folder, under that name."
        )
    try:
        load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise TrtkitError(
            f"The weights of {path} that lie in files beside it cannot be read "
            f"({first_line(error)}); copy them again."
        ) from error


def write_sealed(model: onnx.ModelProto, path: Path) -> None:
    """Write a model with a seal in its metadata, which `read_model` checks. Raises as `write_model`."""
    _remove_seal(model)
    model.metadata_props.add(key=MARK, value=BLANK)
    write_model(model, path)
    seal_file(path)


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as one file. Raises TrtkitError past ONNX's 2 GB limit or when it cannot be written."""
    try:
        path.write_bytes(model.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise TrtkitError(
            f"{path.name} is larger than the 2 GB an ONNX file may have; use a smaller model."
        ) from error
    except OSError as error:
        raise TrtkitError(
            f"{path} cannot be written ({os_reason(error)}); free space there or choose another "
            "--workspace."
        ) from error


def _remove_seal(model: onnx.ModelProto) -> None:
    others = [prop for prop in model.metadata_props if prop.key != MARK]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
