"""Whether a file is shorter than its header states."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.video.clips import write_clip
from trtkit.video.lengths import is_cut_short


@pytest.fixture(scope="module", params=["avi", "mkv", "webm"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / f"clip.{request.param}"
    if request.param != "webm":
        return write_clip(path, [40 * n for n in range(10)])
    matroska = write_clip(path.with_suffix(".mkv"), [40 * n for n in range(10)])
    return matroska.rename(path)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30
)
@given(missing=st.integers(0, 2000))
def test_every_missing_byte_counts(whole: Path, tmp_path: Path, missing: int) -> None:
    data = whole.read_bytes()
    cut = tmp_path / whole.name
    cut.write_bytes(data[: max(200, len(data) - missing)])
    assert is_cut_short(cut) == (missing > 0)
    cut.write_bytes(data + bytes(missing))
    assert not is_cut_short(cut)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67",
        b"RIFF", b"RIFF\xff\xff\xff\xffWAVE",
        # A live recording whose length was never filled in.
        b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", b"RIFF\0\0\0\0AVI LIST",
        b"\x1a\x45\xdf\xa3\x00\x18\x53\x80\x67\x81",
    ],
)  # fmt: skip
def test_other_files_state_no_length(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert not is_cut_short(path)
