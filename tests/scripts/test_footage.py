"""scripts/footage.py: that the truth is what the clips show, and when; the crops; bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("skimage", reason="scikit-image is not installed")

import av

from scripts import footage
from scripts.cards import PARTS, card_for
from scripts.digits import scans
from scripts.footage import DigitCard, Scene, Thing, frames, part_scans, plan, render_clip
from scripts.photos import run_script

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "footage.py"
TINY: dict[str, Any] = {"seconds": 4, "size": (160, 120), "fps": 24, "density": 2.0}
RANDOM = np.random.default_rng


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=os.sep)


def truth(video: Path) -> list[dict[str, Any]]:
    text = video.with_suffix(".truth.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def decoded(video: Path) -> tuple[list[Fraction], np.ndarray, list[bool]]:
    """Each frame's time in seconds, the frames, and which are keyframes."""
    with av.open(str(video)) as container:
        all_frames = list(container.decode(video=0))
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in all_frames])
    times = [frame.pts * frame.time_base for frame in all_frames]
    return times, pictures.astype(np.int16), [bool(frame.key_frame) for frame in all_frames]


def inside(picture: np.ndarray, box: list[int]) -> np.ndarray:
    x, y, width, height = box
    return picture[y : y + height, x : x + width]


def within(time: float, span: tuple[float, float]) -> bool:
    return span[0] <= time < span[1]


@pytest.mark.parametrize("variable", [False, True])
def test_the_truth_is_what_the_file_shows(tmp_path: Path, variable: bool) -> None:
    video = tmp_path / "clip.mp4"
    scene = render_clip(video, **TINY, seed=3, variable=variable)
    times, pictures, _ = decoded(video)
    rows = truth(video)
    assert [float(time) for time in times] == scene.times
    assert all(row["time"] == float(times[row["frame"]]) for row in rows)
    assert len(rows) > 40
    alone = 0
    for frame, (picture, time) in enumerate(zip(pictures, scene.times, strict=True)):
        apart = np.abs(picture - scene.light(time) * scene.background).mean(axis=2)
        here = [row for row in rows if row["frame"] == frame]
        nothing = np.ones(apart.shape, bool)
        for row in here:
            # The codec's blocks and colours run over the edge a little.
            x, y, width, height = row["box"]
            nothing[max(y - 4, 0) : y + height + 4, max(x - 4, 0) : x + width + 4] = False
            if min(width, height) > 8:
                assert inside(apart, row["box"]).mean() > 20, row
                alone += 1
        if nothing.any():
            assert apart[nothing].mean() < 6, frame
            assert np.percentile(apart[nothing], 99) < 30, frame
    assert alone > 30


@pytest.mark.parametrize("seed", range(3))
def test_boxes_and_visible_shares_are_those_of_the_pixels(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footage, "NOISE", 0.0)
    monkeypatch.setattr(footage, "DIMMED", 0.0)

    def plain(card: DigitCard) -> np.ndarray:
        # One colour for each card, which the black background does not have.
        value = card.look % 255 + 1
        return np.full((card.side, card.side, 3), (value, 255, card.side), np.uint8)

    monkeypatch.setattr(DigitCard, "pixels", plain)
    scene = plan(**(TINY | {"density": 4.0, "fps": 8}), seed=seed)
    scene = replace(scene, background=np.zeros_like(scene.background))
    colours = {thing.number: thing.card.pixels()[0, 0] for thing in scene.things}
    assert len({tuple(colour) for colour in colours.values()}) == len(colours)
    covered = 0
    for picture, rows in frames(scene):
        assert [row["object"] for row in rows] == sorted(row["object"] for row in rows)
        by_number = {row["object"]: row for row in rows}
        for thing in scene.things:
            mine = (picture == colours[thing.number]).all(axis=2)
            row = by_number.get(thing.number)
            if row is None:
                assert not mine.any()
                continue
            assert row["visible"] == pytest.approx(mine.sum() / thing.card.side**2, abs=1e-4)
            assert row["label"] == scans()[1][thing.card.scan]
            assert mine.sum() == inside(mine, row["box"]).sum() > 0
            width, height = row["box"][2:]
            covered += int(mine.sum()) < width * height
            if mine.sum() == width * height:
                down, across = np.nonzero(mine)
                assert row["box"][:2] == [across.min(), down.min()]
    assert covered > 3


def test_a_card_goes_straight_or_bends_and_rests() -> None:
    card = DigitCard(0, 40, (200, 200, 200), 0)
    thing = Thing(0, card, (-40 + 10j, 160 + 50j, 20j), 0.25, (1.0, 2.0, 5.0, 8.0))
    assert thing.corner(1.0) == (-40, 10)
    assert thing.corner(2.0) == thing.corner(3.7) == thing.corner(5.0) == (10, 35)
    assert thing.corner(6.0) == (60, 50)
    assert thing.corner(8.0) == (160, 50)


def test_objects_differ_and_some_stop() -> None:
    scene = plan(seconds=60, size=(640, 360), fps=1)
    rests = [thing.times[2] - thing.times[1] for thing in scene.things]
    stopping = [rest for rest in rests if rest > 0]
    assert 0.15 < len(stopping) / len(rests) < 0.35
    assert all(2 <= rest <= 5 for rest in stopping)
    assert len({thing.card.side for thing in scene.things}) > 10
    assert all(40 <= thing.card.side <= 110 for thing in scene.things)
    bent = sum(thing.way[2] != 0 for thing in scene.things) / len(rests)
    assert 0.25 < bent < 0.75
    speeds = [
        abs(thing.way[1] - thing.way[0]) / (thing.times[3] - thing.times[0] - rest)
        for thing, rest in zip(scene.things, rests, strict=True)
    ]
    assert max(speeds) / min(speeds) > 2.5
    at_once = [
        sum(within(time, (t.times[0], t.times[3])) for t in scene.things) for time in scene.times
    ]
    assert max(at_once) >= 3


@pytest.mark.parametrize("seed", range(8))
def test_nothing_moves_in_the_still_stretch(seed: int) -> None:
    scene = plan(**TINY, seed=seed)
    begin, end = scene.still
    assert end - begin == pytest.approx(1.0)
    assert begin > 0 and end < 4
    rows = [row for _, rows in frames(scene) for row in rows]
    assert not [row for row in rows if within(row["time"], scene.still)]
    assert [row for row in rows if row["time"] < begin]
    assert [row for row in rows if row["time"] >= end]


def test_the_still_stretch_of_a_long_clip_is_six_seconds() -> None:
    scene = plan(seconds=60, size=(64, 64), fps=1)
    assert scene.still[1] - scene.still[0] == pytest.approx(6)
    assert scene.dark[1] - scene.dark[0] == pytest.approx(12)


def test_the_light_goes_down_by_a_quarter_and_comes_back() -> None:
    scene = plan(**(TINY | {"density": 0}), seed=1)
    begin, end = scene.dark
    assert end - begin == pytest.approx(1.2)
    bright = scene.background.mean()
    means = np.array([picture.mean() / bright for picture, _ in frames(scene)])
    times = np.array(scene.times)
    outside = (times < begin) | (times > end)
    assert outside.any()
    np.testing.assert_allclose(means[outside], 1, atol=0.02)
    middle = np.abs(times - (begin + end) / 2) < (end - begin) / 7
    np.testing.assert_allclose(means[middle], 0.75, atol=0.02)
    assert np.abs(np.diff(means)).max() < 0.05


def test_noise_is_mild_and_differs_between_frames() -> None:
    scene = plan(**(TINY | {"density": 0}), seed=1)
    grey = replace(scene, background=np.full_like(scene.background, 128), dark=(-2.0, -1.0))
    first, second, *_ = (picture.astype(int) for picture, _ in frames(grey))
    for picture in (first, second, (first - second) / np.sqrt(2) + 128):
        assert picture.mean() == pytest.approx(128, abs=0.2)
        assert picture.std() == pytest.approx(2, abs=0.2)


def test_the_same_seed_renders_the_same(tmp_path: Path) -> None:
    def pixels(**options: Any) -> list[bytes]:
        return [picture.tobytes() for picture, _ in frames(plan(**TINY, **options))]

    first = pixels(seed=5)
    assert first == pixels(seed=5)
    assert not set(first) & set(pixels(seed=6))
    assert not set(first) & set(pixels(seed=5, camera=1))
    scenes = [plan(**TINY, seed=seed, camera=camera) for seed, camera in ((5, 0), (6, 0), (5, 1))]
    for one, other in zip(scenes, scenes[1:] + scenes[:1], strict=True):
        assert one.still != other.still
        assert {thing.way for thing in one.things}.isdisjoint(thing.way for thing in other.things)
        assert (one.background != other.background).mean() > 0.5
    # The encoder's bytes may differ, what it is given may not.
    for name in ("a", "b"):
        render_clip(tmp_path / f"{name}.mp4", **TINY, seed=5)
    lines = truth(tmp_path / "a.mp4")
    assert lines == truth(tmp_path / "b.mp4")
    assert lines == [row for _, rows in frames(plan(**TINY, seed=5)) for row in rows]


def test_a_variable_clip_is_the_same_scene_with_frames_left_out() -> None:
    whole = plan(seconds=60, size=(160, 120), fps=30)
    some = plan(seconds=60, size=(160, 120), fps=30, variable=True)
    assert some.things == whole.things
    assert set(some.pts) < set(whole.pts)
    assert some.pts[0] == 0
    assert 0.5 < len(some.pts) / len(whole.pts) < 0.9
    steps = np.diff(some.pts)
    assert set(steps.tolist()) > {3000, 6000, 9000}
    assert np.diff(whole.pts).tolist() == [3000] * 1799


def test_a_frame_rate_that_ticks_do_not_divide(tmp_path: Path) -> None:
    scene = render_clip(tmp_path / "clip.mp4", **(TINY | {"fps": 29.97, "seconds": 2}))
    times, _, _ = decoded(tmp_path / "clip.mp4")
    assert [float(time) for time in times] == scene.times
    assert scene.pts[:3] == (0, 3003, 6006)
    assert len(times) == 60


@pytest.mark.parametrize("variable", [False, True])
def test_a_keyframe_every_two_seconds(tmp_path: Path, variable: bool) -> None:
    options = TINY | {"seconds": 7, "size": (64, 64)}
    render_clip(tmp_path / "clip.mp4", **options, variable=variable)
    times, _, keys = decoded(tmp_path / "clip.mp4")
    expected = [next(time for time in times if time >= second) for second in (0, 2, 4, 6)]
    assert [time for time, key in zip(times, keys, strict=True) if key] == expected


def test_train_and_test_have_different_digits() -> None:
    parts = {part: [part_scans(part, label) for label in range(10)] for part in PARTS}
    for label in range(10):
        train, test = parts["train"][label], parts["test"][label]
        assert not set(train) & set(test)
        assert sorted(train + test) == np.flatnonzero(scans()[1] == label).tolist()
        assert len(train) / len(train + test) == pytest.approx(0.6, abs=0.01)
    for part in PARTS:
        scene = plan(seconds=60, size=(64, 64), fps=1, density=2, part=part, classes=[2, 7])
        shown = {thing.card.scan for thing in scene.things}
        assert len(shown) > 40
        assert shown <= {*parts[part][2], *parts[part][7]}
        assert {scans()[1][scan] for scan in shown} == {2, 7}


def test_a_digit_is_read_from_its_card() -> None:
    card = DigitCard(int(np.flatnonzero(scans()[1] == 1)[0]), 80, (230, 200, 180), 0)
    pixels = card.pixels()
    scan = scans()[0][card.scan]
    fields = 255 - pixels.mean(axis=2)[8:72, 8:72].reshape(8, 8, 8, 8).mean(axis=(1, 3))
    assert np.corrcoef(fields.ravel(), scan.ravel())[0, 1] > 0.6
    assert (pixels[1:4, 1:79] == card.paper).all()
    assert (pixels[0] == np.array(card.paper) // 2).all()


def test_the_command_line(tmp_path: Path) -> None:
    small = ("--seconds", 2, "--size", "160x120", "--fps", 10, "--density", 2)
    done = run(
        tmp_path, *small, "--cameras", 2, "--classes", "3-4", "--variable", "--part", "train"
    )
    assert done.returncode == 0, done.stderr
    names = ["camera-0.mp4", "camera-0.truth.jsonl", "camera-1.mp4", "camera-1.truth.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert len(done.stdout.splitlines()) == 2
    options: dict[str, Any] = {"seconds": 2, "size": (160, 120), "fps": 10, "density": 2}
    for camera in range(2):
        scene: Scene = plan(**options, classes=[3, 4], variable=True, part="train", camera=camera)
        rows = truth(tmp_path / f"camera-{camera}.mp4")
        assert rows == [row for _, rows in frames(scene) for row in rows]
        assert {row["label"] for row in rows} <= {3, 4}


@pytest.mark.parametrize(("part", "shown"), [([], "train"), (["--part", "test"], "test")])
def test_the_command_line_writes_crops(tmp_path: Path, part: list[str], shown: str) -> None:
    done = run(tmp_path, "--crops", 2, "--classes", 6, *part)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 photos in {tmp_path / 'crops'}\n"
    expected = [f"crops/6/{n:04}-{i:04}.jpg" for n, i in enumerate(part_scans(shown, 6)[:2])]
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert found == expected
    assert [path.name for path in tmp_path.iterdir()] == ["crops"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ([f"--size={size}"], f"Invalid value for --size: {size} is not a size such as")
            for size in ("1280", "161x120", "160x121", "62x64", "8194x64", "axb", "-64x64", "")
        ),
        (
            ["--classes=0-10"],
            "Invalid value for --classes: 0-10 is not a list of digits such as 0-4 or",
        ),
        (["--classes=x"], "Invalid value for --classes: x is not a list of digits such as 0-4 or"),
        (["--seconds=0"], "Invalid value for '--seconds': "),
        (
            ["--seconds=nan"],
            "Invalid value for '--seconds'",
        ),
        (["--fps=241"], "Invalid value for '--fps': "),
        (["--density=-1"], "Invalid value for '--density': "),
        (["--cameras=0"], "Invalid value for '--cameras': "),
        (["--crops=0"], "Invalid value for '--crops': "),
        (["--seed=-1"], "Invalid value for '--seed': "),
        (["--part=all"], "Invalid value for '--part': "),
    ],
)
def test_bad_arguments(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["footage.py", str(tmp_path / "out"), *arguments])
    with pytest.raises(SystemExit) as stopped:
        run_script(footage.main)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--seconds", "1", "--size", "64x64"], ["--crops", "1"]])
def test_a_folder_that_cannot_be_written(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = run(tmp_path / "file", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(str(tmp_path / "file"))
    assert " cannot be written (" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_clip_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = tmp_path / "clip.mp4"
    render_clip(video, **TINY)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(card: DigitCard) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(DigitCard, "pixels", fail)
    with pytest.raises(MemoryError):
        render_clip(video, **TINY, seed=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_paper_differs_from_what_is_behind_it() -> None:
    behind = np.full((80, 80, 3), 200, np.uint8)
    for seed in range(30):
        paper = card_for(0, behind, RANDOM(seed)).paper
        assert np.linalg.norm(np.array(paper) - 200) > 45, seed
