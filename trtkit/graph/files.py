"""Reading and writing ONNX files."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from trtkit.errors import TrtkitError, first_line, os_reason
from trtkit.sealing import BLANK, MARK, SealBroken, check_file, seal_file


def read_model(path: Path) -> onnx.ModelProto:
    """The checked model of an `.onnx` file, external data included.

    Raises TrtkitError when the file is missing, damaged or not a valid ONNX graph, and when it was
    sealed and is not as it was then.
    """
    if not path.is_file():
        raise TrtkitError(f"ONNX file {path} not found; give the path of an existing file.")
    try:
        check_file(path)
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except SealBroken as error:
        raise TrtkitError(
            f"{path} is not what `trtkit export` wrote: {error}; export the model again, or, if the change "
            f"is yours, remove {MARK} from the file's metadata."
        ) from error
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise TrtkitError(
            f"{path} is not a valid ONNX file ({first_line(error)}); copy or export it again."
        ) from error
    # A graph that is made from this one is another one.
    _remove_seal(model)
    return model


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
