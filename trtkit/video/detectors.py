"""The detector that the options of an ingest ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtkit.errors import TrtkitError, os_reason
from trtkit.identity import file_digest
from trtkit.tensors import Array
from trtkit.video.motion import MotionDetector
from trtkit.video.onnxdetector import OnnxDetector
from trtkit.video.options import IngestOptions
from trtkit.video.protocols import Detector


def detector_name(path: Path) -> str:
    """What an ONNX detector is known by: its file's name and content. Raises TrtkitError."""
    try:
        return f"{path.name} {file_digest(path)[:16]}"
    except OSError as error:
        raise TrtkitError(
            f"The detector {path} cannot be read ({os_reason(error)}); give --detector an ONNX file."
        ) from error


def make_detector(
    options: IngestOptions,
    state: bytes = b"",
    empty: Sequence[Array] = (),
    path: Path | None = None,
) -> Detector:
    """The ONNX detector in the file `path`, else a background model.

    That continues from the `state` of another one, else from pictures of the `empty` scene. Raises
    TrtkitError.
    """
    if path is not None:
        return OnnxDetector(path, options.detector_confidence, options.detector_classes)
    return MotionDetector(options, MotionDetector.empty_in(state) or empty)
