"""The user's own detector, and the options that need one."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from trtkit.errors import TrtkitError, os_reason
from trtkit.identity import file_digest
from trtkit.video.onnxdetector import OnnxDetector
from trtkit.video.options import IngestOptions


def with_detector(
    options: IngestOptions, path: Path | None
) -> tuple[IngestOptions, OnnxDetector | None]:
    """The options with the name of the ONNX detector in that file, and the detector; without a file, none.

    Raises TrtkitError for a file that is no detector, and for options of a detector without one.
    """
    if path is not None:
        chosen = replace(options, detector=detector_name(path))
        return chosen, OnnxDetector(path, options.detector_confidence, options.detector_classes)
    usual = {field.name: field.default for field in fields(IngestOptions)}
    for name, option in (
        ("detector_confidence", "--detector-confidence"),
        ("detector_classes", "--detector-class"),
    ):
        if getattr(options, name) != usual[name]:
            raise TrtkitError(
                f"{option} has no effect without --detector; give --detector an ONNX file, or leave "
                f"{option} out."
            )
    return options, None


def detector_name(path: Path) -> str:
    """The name of an ONNX detector in a store: its file's name and digest. Raises TrtkitError."""
    try:
        return f"{path.name} {file_digest(path)}"
    except OSError as error:
        raise TrtkitError(
            f"The detector {path} cannot be read ({os_reason(error)}); give --detector an ONNX file."
        ) from error
