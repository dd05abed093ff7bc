"""Which models a store belongs to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from tests.video.fakes import IDENTITY
from trtkit.bundle import Manifest
from trtkit.errors import TrtkitError
from trtkit.preprocessing import Preprocessing
from trtkit.stages import Role, Stage
from trtkit.video.footage.database import Database
from trtkit.video.footage.settings import Identity, check_readable, claim, identity


def test_claimed_once(tmp_path: Path) -> None:
    with Database.create(tmp_path) as database:
        with pytest.raises(
            TrtkitError, match=r"The footage store in .* is empty; fill it with `trtkit"
        ):
            identity(database)
        claim(database, IDENTITY)
        claim(database, IDENTITY)
        assert identity(database) == IDENTITY
    with Database.open(tmp_path) as database:
        assert identity(database) == IDENTITY


def test_the_same_models_in_another_folder(tmp_path: Path) -> None:
    with Database.create(tmp_path) as database:
        claim(database, IDENTITY)
        claim(database, replace(IDENTITY, bundle="/elsewhere/moved"))
        assert identity(database).bundle == IDENTITY.bundle


@pytest.mark.parametrize(
    "other",
    [
        {"prefix": "00" * 32}, {"tail_id": "00" * 32}, {"tail": "larger"},
        {"classes": ("other", *IDENTITY.classes[1:])}, {"classes": IDENTITY.classes[::-1]},
        {"preprocessing": Preprocessing(height=28, width=28, resize=33)},
    ],
)  # fmt: skip
def test_other_models_are_refused(tmp_path: Path, other: dict) -> None:
    with Database.create(tmp_path) as database:
        claim(database, IDENTITY)
        mine = replace(IDENTITY, bundle="engines/mine", **other)
        with pytest.raises(
            TrtkitError,
            match=rf"The footage store in {tmp_path} was indexed by fake of engines/fake, not by "
            rf"{mine.tail} of engines/mine as it is now; use that bundle, or another --store\.",
        ):
            claim(database, mine)
        assert identity(database) == IDENTITY


def stage(
    name: str, role: Role, parent: str | None, classes: tuple[str, ...] | None = None
) -> Stage:
    number = blake3(name.encode()).hexdigest()
    return Stage(
        name=name, id=number, role=role, parent=parent, file=f"{name}.onnx", digest=number,
        inputs=(), outputs=(), classes=classes,
    )  # fmt: skip


def test_of_a_bundle(tmp_path: Path) -> None:
    cheap = stage("cheap", "head", "cheap-body", ("a", "b"))
    expensive = stage("expensive", "head", "prefix", ("b", "c"))
    prefix = stage("prefix", "prefix", None)
    manifest = Manifest(
        name="pair", build_id="00", cut=2, precision="fp32", computes="fp32", backend="onnxruntime",
        backend_version="1", trtkit_version="1", created="", batch=(1, 8, 16),
        preprocessing=Preprocessing(height=28, width=28, resize=32),
        stages=(prefix, stage("cheap-body", "body", "prefix"), cheap, expensive),
    )  # fmt: skip
    mine = Identity.of(manifest, cheap, tmp_path / "pair")
    assert mine == Identity(
        prefix.id,
        manifest.preprocessing,
        manifest.preprocessing.digest,
        "cheap",
        cheap.id,
        ("a", "b"),
        str(tmp_path / "pair"),
    )
    with Database.create(tmp_path) as database:
        claim(database, mine)
        assert identity(database) == mine
    # The other tail may go on from the same feature maps.
    check_readable(mine, manifest, expensive, tmp_path)
    for other in (
        replace(mine, prefix="00" * 32),
        # Other pixels, or the same prepared by other code.
        replace(mine, preprocessing_digest=Preprocessing(height=64, width=64, resize=99).digest),
    ):
        with pytest.raises(
            TrtkitError, match=r"whose prefix differs from that of .*; use that bundle, or"
        ):
            check_readable(other, manifest, expensive, tmp_path)
