"""Nothing changed: what trtkit computes and prints is what the record says.

Where the libraries and the processor are those of the record, values are compared bit for bit.
Elsewhere logits are compared within TOLERANCE, and of outputs the exit codes, the keys and the types. The
ids of the tests say which. A change that is meant is recorded by `python -m tests.recorded.record`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.recorded.fingerprint import fingerprint
from tests.recorded.normalise import form
from tests.recorded.record import ARRAYS, HERE, OUTPUTS

RECORDED = json.loads((HERE / OUTPUTS).read_text())
EXACT = RECORDED["fingerprint"] == fingerprint()
MODE = "bit-for-bit" if EXACT else "close"
# Of the largest value. int8 kernels round at places that differ by a step of their scale.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "int8": 2e-1}


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What this version computes and prints."""
    out = tmp_path_factory.mktemp("recorded")
    command = [sys.executable, "-m", "tests.recorded.record", str(out)]
    paths = [str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    with np.load(out / ARRAYS) as arrays:
        return json.loads((out / OUTPUTS).read_text()), dict(arrays)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [MODE])
def test_options_and_outputs_of_every_command(mode, now):
    outputs, _ = now
    assert outputs["options"] == RECORDED["options"]
    recorded, found = RECORDED["steps"], outputs["steps"]
    if EXACT:
        assert list(found) == list(recorded)
    found = {name: found[name] for name in recorded if name in found}
    assert len(found) > 100
    changes = [
        change
        for name, step in found.items()
        for change in differences(recorded[name], step, name, mode == "bit-for-bit")
    ]
    assert not changes, "\n".join([f"{len(changes)} differences:", *changes[:40]])


@pytest.mark.slow
@pytest.mark.parametrize("mode", [MODE])
def test_logits_embeddings_and_feature_maps(mode, now):
    _, arrays = now
    with np.load(HERE / ARRAYS) as file:
        recorded = dict(file)
    assert arrays.keys() == recorded.keys()
    changed = [
        name
        for name, value in recorded.items()
        if not (same_bits if mode == "bit-for-bit" else close)(name, value, arrays[name])
    ]
    assert not changed, f"{len(changed)} of {len(recorded)} arrays differ: {changed[:40]}"


def differences(old: Any, new: Any, place: str, exact: bool) -> list[str]:
    """Where two records differ. Not exact: exit codes, and the form of the rest."""
    if not exact:
        if old["code"] != new["code"] or old.get("says") != new.get("says"):
            return [f"{place}: exit code {old['code']} became {new['code']}"]
        old, new = form(old), form(new)
    return list(_differences(old, new, place))


def _differences(old: Any, new: Any, place: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        missing = [f"{place}: {key} is gone" for key in old if key not in new]
        added = [f"{place}: {key} is new" for key in new if key not in old]
        shared = [_differences(old[key], new[key], f"{place}/{key}") for key in old if key in new]
        return [*missing, *added, *(change for changes in shared for change in changes)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [c for n, (a, b) in pairs for c in _differences(a, b, f"{place}[{n}]")]
    # JSON knows no difference between 1 and 1.0, Python's reader does.
    same = old == new and type(old) is type(new)
    return [] if same else [f"{place}: {_short(old)} became {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]} ..."


def same_bits(name: str, old: np.ndarray, new: np.ndarray) -> bool:
    return old.dtype == new.dtype and old.shape == new.shape and old.tobytes() == new.tobytes()


def close(name: str, old: np.ndarray, new: np.ndarray) -> bool:
    if name.endswith("/digest"):
        return True
    if old.dtype != new.dtype or old.shape != new.shape:
        return False
    (tolerance,) = {value for kind, value in TOLERANCE.items() if f"-{kind}" in name.split("/")[0]}
    first, second = old.astype(np.float64), new.astype(np.float64)
    return bool(np.abs(first - second).max() <= tolerance * np.abs(first).max())
