"""Nothing changed: what trtkit computes and prints is what the record says.

Where the libraries and the processor are those of the record, values are compared bit for bit.
Elsewhere logits are compared within TOLERANCE, and of outputs the exit codes, the keys and the types. The
ids of the tests say which. A change that is meant is recorded by `python -m tests.recorded.record`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from tests.recorded.commands import PARTS
from tests.recorded.fingerprint import fingerprint
from tests.recorded.normalise import form
from tests.recorded.record import ARRAYS, HERE, OUTPUTS, part_of_record

RECORDED = json.loads((HERE / OUTPUTS).read_text())
EXACT = RECORDED["fingerprint"] == fingerprint()
MODE = "bit-for-bit" if EXACT else "close"
# Of the norm. Kernels of int8 differ in where they round, each time by a step of the scale.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "int8": 2e-1}


@pytest.fixture(scope="session")
def now(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """A part of what this version computes and prints; the processes of a run of pytest share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder.resolve() / "recorded"
    folder.mkdir(exist_ok=True)

    def part(name: str) -> dict[str, Any]:
        with FileLock(folder / "lock"):
            return part_of_record(name, folder)

    return part


@pytest.mark.parametrize("mode", [MODE])
def test_options_of_every_command(mode, now):
    assert now("options") == RECORDED["options"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [MODE])
@pytest.mark.parametrize("part", PARTS)
def test_outputs_of_every_command(part, mode, now):
    steps, recorded = now(part), RECORDED["parts"][part]
    measured = {step.name for step in PARTS[part] if step.measured}
    if not EXACT:
        missing = {step.name for step in PARTS[part] if step.needs is not None} - steps.keys()
        recorded = {name: step for name, step in recorded.items() if name not in missing}
    assert list(steps) == list(recorded)
    changes = [
        change
        for name, step in recorded.items()
        for change in differences(step, steps[name], name, exact=EXACT, measured=name in measured)
    ]
    assert not changes, "\n".join([f"{len(changes)} differences:", *changes[:40]])


@pytest.mark.slow
@pytest.mark.parametrize("mode", [MODE])
def test_logits_embeddings_and_feature_maps(mode, now):
    arrays = now("arrays")
    with np.load(HERE / ARRAYS) as file:
        recorded = dict(file)
    assert arrays.keys() == recorded.keys()
    compare = same_bits if mode == "bit-for-bit" else close
    changed = [name for name in recorded if not compare(name, recorded[name], arrays[name])]
    assert not changed, f"{len(changed)} of {len(recorded)} arrays differ: {changed[:40]}"


def differences(
    old: Any, new: Any, place: str, *, exact: bool, measured: bool = False
) -> list[str]:
    """Where two records of a step differ. Not exact: exit codes, and the form of the rest.

    Where a form is compared, that of `measured` steps always, None fits everything.
    """
    if not exact:
        if (old["code"], old.get("says")) != (new["code"], new.get("says")):
            return [f"{place}: {_ended(old)} became {_ended(new)}"]
        old, new = form(old, loose=True), form(new, loose=True)
    return _differences(old, new, place, none_fits=measured or not exact)


def _differences(old: Any, new: Any, place: str, none_fits: bool) -> list[str]:
    if none_fits and (old is None or new is None):
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        missing = [f"{place}: {key} is gone" for key in old if key not in new]
        added = [f"{place}: {key} is new" for key in new if key not in old]
        pairs = [(f"{place}/{key}", old[key], new[key]) for key in old if key in new]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        missing, added = [], []
        pairs = [(f"{place}[{n}]", a, b) for n, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        # JSON knows no difference between 1 and 1.0, Python's reader does.
        same = old == new and type(old) is type(new)
        return [] if same else [f"{place}: {_short(old)} became {_short(new)}"]
    inner = [change for where, a, b in pairs for change in _differences(a, b, where, none_fits)]
    return [*missing, *added, *inner]


def _ended(step: dict[str, Any]) -> str:
    return f"exit code {step['code']} ({step.get('says', 'done')})"


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
    return bool(np.linalg.norm(first - second) <= tolerance * np.linalg.norm(first))
