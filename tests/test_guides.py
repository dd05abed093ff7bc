"""Programs of the guides run as they are printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import trtkit
from tests.small import BUNDLE, FILES

DOCS = Path(__file__).parents[1] / "docs"
SECONDS = 60


def program(page: str, name: str) -> str:
    """The Python block of a guide behind the comment with that name."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (code,) = re.findall(rf"<!-- {re.escape(name)} -->\n```python\n(.*?)```", text, re.DOTALL)
    return code


@pytest.fixture
def service(tmp_path):
    """The address of the web service, on a free port."""
    path = tmp_path / "service.py"
    path.write_text(program("python.md", "service.py"))
    with subprocess.Popen(
        [sys.executable, str(path), str(BUNDLE), "0"], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process.stdout.readline().strip()
        finally:
            # A job in the background ignores Ctrl-C, and so do the processes that it starts.
            process.terminate()
            _, errors = process.communicate(timeout=SECONDS)
    assert "Exception occurred" not in errors, errors


def post(address: str, content: bytes) -> tuple[int, dict]:
    request = urllib.request.Request(address, data=content, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            assert answer.headers["Content-Type"] == "application/json"
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_web_service_answers_many_at_once(service):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", service)
    with trtkit.load(BUNDLE) as pipeline:
        expected = [result.to_dict() for result in pipeline(FILES, top=3)]
    numbers = [number % len(FILES) for number in range(60)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: post(service, FILES[number]), numbers))
    for number, (status, answer) in zip(numbers, answers, strict=True):
        assert status == 200
        best, wanted = answer.pop("predictions"), expected[number]["predictions"]
        assert answer == {"path": "", "tail": "resnet18"}
        assert [one["label"] for one in best] == [one["label"] for one in wanted]
        assert [one["score"] for one in best] == pytest.approx(
            [one["score"] for one in wanted], abs=2e-6
        )


def test_the_web_service_says_what_is_no_photo_and_goes_on(service):
    for content in (b"", b"no photo", FILES[0][:100]):
        status, answer = post(service, content)
        assert status == 400
        assert answer["error"].endswith(".")
        assert "predictions" not in answer
    assert post(service, FILES[0])[0] == 200
