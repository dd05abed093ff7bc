"""Render clips of a fixed camera in which digits move about, with the true boxes of each frame.

    python scripts/footage.py OUT                     OUT/camera-0.mp4 and OUT/camera-0.truth.jsonl
    python scripts/footage.py OUT --seconds 600 --cameras 4 --classes 0-4 --variable
    python scripts/footage.py OUT --crops 200         200 photos of each class in OUT/crops/0 ...

Handwritten digits of scikit-learn, each on a card, cross a real photo; some stop for a while. The
sensor is noisy, the light sinks by a quarter and comes back, and for some seconds nothing moves. The
truth has a line for each object that can be seen in a frame: frame, time (seconds, as in the file),
object, label, box ([x, y, width, height] in pixels, clipped to the picture) and visible, the share
of its pixels that can be seen.

The crops are what a detector would cut out of such clips, as class folders for `trtkit train`, of
other digits: of each class, in scikit-learn's order, the first three of five are the part `train`,
the other two the part `test`. Nothing is downloaded. The same arguments render the same pixels.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import cv2
import numpy as np
import typer

# Run as a file, Python looks in scripts/ only.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from scripts.cards import DigitCard, Random, card_for, draw, part_scans, write_crops
from scripts.digits import CLASSES, ClassesOption, parse_classes, scans
from scripts.photos import PHOTOS, OutArgument, Pixels, crops, parse_size, run_script
from trtkit.atomic import whole_file
from trtkit.errors import TrtkitError

TICKS, KEYFRAMES = 90_000, 180_000  # per second, the time base of the files; between keyframes
# The share of frames that --variable keeps, and the longest interval, in frames.
RETAINED, LONGEST = 0.7, 12
SMALLEST, LARGEST = 64, 8192  # sides of a picture
SPEEDS = (0.07, 0.35)  # widths of the picture per second
BEND = 0.15  # of the picture's side
# Every fourth object stops, for this many seconds, after this share of its way.
STOPS, STOP, STOP_AT = 4, (2.0, 5.0), (0.3, 0.7)
DENSITY = 0.8  # objects per second
# The longest stretch without objects, and with less light: seconds, and share of the clip.
STILL, DARK = (6.0, 0.25), (12.0, 0.3)
DIMMED = 0.25  # the largest loss of light
NOISE = 2.0  # grey levels, standard deviation
FIELDS, SHIFTS = 4, 64  # fields of noise, and the pixels by which each is moved about

Row = dict[str, Any]
Part = Literal["train", "test"]


@dataclass(frozen=True)
class Thing:
    """A card that crosses the picture.

    `way`: the start and the end of its top left corner, both outside the picture, and its distance
    from the straight line halfway, as x + y j in pixels. `times` (seconds): its start, stop, restart
    and end; it stops after the share `at` of the way.
    """

    number: int
    card: DigitCard
    way: tuple[complex, complex, complex]
    at: float
    times: tuple[float, ...]

    def corner(self, time: float) -> tuple[int, int]:
        """Its top left corner, x and y, at `time`."""
        share = float(np.interp(time, self.times, (0, self.at, self.at, 1)))
        start, end, bend = self.way
        point = start + share * (end - start) + 4 * share * (1 - share) * bend
        return round(point.real), round(point.imag)


@dataclass(frozen=True)
class Scene:
    """The content of a clip; `still` and `dark` are the begin and end, seconds, of these stretches."""

    size: tuple[int, int]  # width, height
    fps: float
    pts: tuple[int, ...]  # ticks
    background: Pixels
    things: tuple[Thing, ...]
    still: tuple[float, float]
    dark: tuple[float, float]
    seed: tuple[int, int]

    @property
    def times(self) -> list[float]:
        """The time of each frame, seconds."""
        return [pts / TICKS for pts in self.pts]

    def light(self, time: float) -> float:
        """The light at `time` (seconds): 1, but in the dark stretch it sinks, stays and rises by thirds."""
        return 1 - DIMMED * float(np.interp(time, np.linspace(*self.dark, 4), (0, 1, 1, 0)))


def plan(
    *,
    seconds: float = 60,
    size: tuple[int, int] = (1280, 720),
    fps: float = 30,
    classes: Sequence[int] = CLASSES,
    seed: int = 0,
    variable: bool = False,
    part: str = "test",
    density: float = DENSITY,
    camera: int = 0,
) -> Scene:
    """The scene of a clip. `seed` and `camera` seed everything that is random.

    With `variable` the scene is the same, with frames left out. `density`: objects per second.
    """
    random = np.random.default_rng((seed, camera, 0))
    photo, crop = int(random.integers(len(PHOTOS))), int(random.integers(2**32))
    background = np.asarray(next(islice(crops(len(PHOTOS), *size, seed=crop), photo, None))[1])
    gap, dim = (min(most, share * seconds) for most, share in (STILL, DARK))
    still, dark = seconds * random.uniform(0.35, 0.6), random.uniform(0, seconds - dim)
    count = max(1, round(density * (seconds - gap))) if density else 0
    order = [label for _ in range(count) for label in random.permutation(classes).tolist()]
    things = []
    for number, label in enumerate(order[:count]):
        card = card_for(int(random.choice(part_scans(part, label))), background, random)
        time = (number + random.random()) / count * (seconds - gap)
        thing = _thing(number, card, size, random)
        # An object before the still stretch must leave before it begins; the others may stay.
        begin = time - thing.times[-1] if time < still else time + gap
        things.append(replace(thing, times=tuple(begin + moment for moment in thing.times)))
    numbers = np.arange(max(1, round(seconds * fps)))
    if variable:
        steps = np.random.default_rng((seed, camera, 1)).geometric(RETAINED, len(numbers))
        numbers = np.intersect1d(numbers, np.cumsum([0, *np.minimum(steps, LONGEST)]))
    pts = tuple(round(number * TICKS / fps) for number in numbers.tolist())
    spans = (still, still + gap), (dark, dark + dim)
    return Scene(size, fps, pts, background, tuple(things), *spans, (seed, camera))


def frames(scene: Scene) -> Iterator[tuple[Pixels, list[Row]]]:
    """Each frame, height x width x 3, RGB, with its rows of the truth."""
    random = np.random.default_rng((*scene.seed, 2))
    width, height = scene.size
    shape = (FIELDS, height + SHIFTS, width + SHIFTS, 3)
    noise = np.rint(NOISE * random.standard_normal(shape, np.float32)).astype(np.int8)
    cards: dict[DigitCard, Pixels] = {}
    for number, time in enumerate(scene.times):
        live = [thing for thing in scene.things if thing.times[0] <= time < thing.times[-1]]
        # Only the cards in the picture: a long clip has thousands.
        cards = {t.card: cards[t.card] if t.card in cards else t.card.pixels() for t in live}
        pixels = scene.background.copy()
        boxes = [draw(pixels, cards[thing.card], thing.corner(time)) for thing in live]
        if scene.light(time) < 1:
            pixels = cv2.convertScaleAbs(pixels, alpha=scene.light(time))
        layer, x, y = random.integers((FIELDS, SHIFTS, SHIFTS))
        field = noise[layer, y : y + height, x : x + width]
        noisy = cv2.add(pixels, field, dtype=cv2.CV_8U)
        rows = _rows(live, boxes, scene.size)
        yield noisy, [{"frame": number, "time": time, **row} for row in rows]


def render_clip(video: Path, **options: Any) -> Scene:
    """Write the clip `video`, an .mp4, and beside it its .truth.jsonl; `options` are those of `plan`.

    Raises TrtkitError if the files cannot be written.
    """
    scene, truth = plan(**options), video.with_suffix(".truth.jsonl")
    # The truth is moved into place first, so that a new clip never lies beside an old truth.
    with whole_file(video) as new, whole_file(truth) as rows, rows.open("w") as lines:
        _encode(new, lines, scene)
    return scene


def _thing(number: int, card: DigitCard, size: tuple[int, int], random: Random) -> Thing:
    """A random way through the picture, mostly along its width, that begins at 0 s."""
    upright = random.random() > 0.7
    length, width = reversed(size) if upright else size
    start, end = random.uniform(0, width - card.side, 2).tolist()
    # Half of the ways are straight.
    bend = random.uniform(-BEND, BEND) * width * int(random.integers(2))
    way = [complex(-card.side, start), complex(length, end)]
    way = [*(reversed(way) if random.integers(2) else way), complex(0, bend)]
    if upright:
        way = [complex(point.imag, point.real) for point in way]
    travel = abs(way[1] - way[0]) / (size[0] * math.exp(random.uniform(*np.log(SPEEDS))))
    at, stop = random.uniform(*STOP_AT), random.uniform(*STOP) * (number % STOPS == STOPS - 2)
    return Thing(number, card, (*way,), at, (0.0, at * travel, at * travel + stop, travel + stop))


def _rows(live: list[Thing], boxes: list[list[int]], size: tuple[int, int]) -> list[Row]:
    """The truth of a frame in which `live` are drawn, the later over the earlier."""
    owner = np.full(size[::-1], -1, np.int16)
    parts = [np.s_[y : y + height, x : x + width] for x, y, width, height in boxes]
    for place, part in enumerate(parts):
        owner[part] = place
    rows = []
    for place, (thing, part) in enumerate(zip(live, parts, strict=True)):
        if visible := np.count_nonzero(owner[part] == place):
            row: Row = {"object": thing.number, "label": int(scans()[1][thing.card.scan])}
            share = round(visible / thing.card.side**2, 4)
            rows.append(row | {"box": boxes[place], "visible": share})
    return rows


def _encode(video: Path, truth: TextIO, scene: Scene) -> None:
    import av

    base = Fraction(1, TICKS)
    options = {"preset": "veryfast", "crf": "20", "sc_threshold": "0"}
    with av.open(str(video), "w", format="mp4") as container:
        rate = Fraction(scene.fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=options)
        (stream.width, stream.height), stream.pix_fmt = scene.size, "yuv420p"
        codec = stream.codec_context
        stream.time_base = codec.time_base = base
        # One core is enough; even so x264 does not always write the same bytes.
        codec.thread_count, codec.gop_size = 1, math.ceil(KEYFRAMES / TICKS * scene.fps)
        codec.colorspace, codec.color_range = 5, 1  # BT.601, 16 to 235: as OpenCV converts
        ends, due = (*scene.pts[1:], scene.pts[-1] + round(TICKS / scene.fps)), 0
        for (pixels, rows), pts, end in zip(frames(scene), scene.pts, ends, strict=True):
            planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2YUV_I420)
            frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
            frame.pts, frame.time_base, frame.duration = pts, base, end - pts
            # With frames dropped, their number does not determine the next keyframe.
            if pts >= due:
                frame.pict_type = av.video.frame.PictureType.I
                due = (pts // KEYFRAMES + 1) * KEYFRAMES
            container.mux(stream.encode(frame))
            truth.writelines(json.dumps(row) + "\n" for row in rows)
        container.mux(stream.encode(None))


def main(
    out: OutArgument,
    seconds: Annotated[float, typer.Option(min=1, max=86400, help="Length of a clip.")] = 60,
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Even numbers.")] = "1280x720",
    fps: Annotated[float, typer.Option(min=1, max=240, help="Frames per second.")] = 30,
    classes: ClassesOption = "0-9",
    seed: Annotated[int, typer.Option(min=0, help="Of everything.")] = 0,
    variable: Annotated[bool, typer.Option(help="Drop frames, so that the rate varies.")] = False,
    cameras: Annotated[int, typer.Option(min=1, help="Clips.")] = 1,
    part: Annotated[Part | None, typer.Option(help="Default: test, of crops train.")] = None,
    density: Annotated[float, typer.Option(min=0, max=20, help="Objects per second.")] = DENSITY,
    photos: Annotated[int | None, typer.Option("--crops", min=1, help="Photos, no clips.")] = None,
) -> None:
    """Render clips of moving digits, with the truth."""
    if math.isnan(seconds + fps + density):
        names = "'--seconds', '--fps' or '--density'"
        raise typer.BadParameter("nan is not a number.", param_hint=names)
    # Even, as colours are stored for 2 x 2 pixels.
    rule = f"1280x720, even numbers from {SMALLEST} to {LARGEST}"
    shape = parse_size(size, range(SMALLEST, LARGEST + 1, 2), rule)
    labels = parse_classes(classes)
    try:
        if photos:
            paths = write_crops(out / "crops", photos, labels, seed, part or "train")
            print(f"{len(paths)} photos in {out / 'crops'}")
            return
        for camera in range(cameras):
            video = out / f"camera-{camera}.mp4"
            scene = render_clip(
                video, seconds=seconds, size=shape, fps=fps, classes=labels, seed=seed,
                variable=variable, part=part or "test", density=density, camera=camera,
            )  # fmt: skip
            print(f"{video}: {len(scene.pts)} frames, {len(scene.things)} objects")
    except TrtkitError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run_script(main)
