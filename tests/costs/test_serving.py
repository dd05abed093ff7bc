"""What a pipeline itself takes for a photo."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from trtkit.costs import serving
from trtkit.costs.serving import serving_seconds
from trtkit.runtime import results


def test_no_photo_is_read_and_all_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"no photo at all: reading it would be an error")
    monkeypatch.setattr(serving, "PHOTOS", 12)
    monkeypatch.setattr(serving, "PASSES", 1)
    served = []
    best = results.best_classes

    def slow(*arguments: Any) -> Any:
        time.sleep(0.004)
        served.append(best(*arguments))
        return served[-1]

    monkeypatch.setattr(results, "best_classes", slow)
    seconds = serving_seconds([photo], ["one", "two", "three"], 5)
    # Whole batches: 2 of 5, and what naming the classes takes is in it.
    assert len(served) == 10
    assert [each.label for each in served[0]] == ["one", "two", "three"]
    assert 0.004 <= seconds < 60
