"""The detector that the options of an ingest ask for."""

from __future__ import annotations

from collections.abc import Sequence

from trtkit.tensors import Array
from trtkit.video.motion import MotionDetector
from trtkit.video.options import IngestOptions
from trtkit.video.protocols import Detector


def make_detector(
    options: IngestOptions, state: bytes = b"", empty: Sequence[Array] = ()
) -> Detector:
    """A detector that continues from the `state` of another one, else from pictures of the empty scene."""
    return MotionDetector(options, MotionDetector.empty_in(state) or empty)
