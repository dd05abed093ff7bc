"""Files damaged at random: trtkit answers as before or with a sentence, and never with anything else.

    python -m tests.fuzz [CASE ...] [--seconds 5] [--count N] [--seed 0] [--flips] [--workspace DIR]

Each case damages one file of a kind and reads it as a command would. A traceback, a hang, a crash of a
library, or another answer than that of the whole file ends the run with the seed that repeats it.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HANG_SECONDS = 120
MEMORY_BYTES = 12 * 2**30
# The largest stretch of bytes that is zeroed, doubled or cut out.
MOST_BYTES = 512


@dataclass(frozen=True)
class Target:
    """A file and what trtkit makes of it.

    `answer` reads the file anew; `exact`: whether a damaged file must not give another answer. Damage to
    pixels or weights gives other values, which nobody can notice without a digest.
    """

    file: Path
    answer: Callable[[], Any]
    exact: bool = True


def flipped(data: bytes, rng: random.Random) -> bytes:
    """One bit is the other one."""
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bits flipped, a stretch zeroed, doubled, cut out or of noise, or the end cut off."""
    start, length = rng.randrange(len(data)), rng.randint(1, MOST_BYTES)
    before, stretch, rest = data[:start], data[start : start + length], data[start + length :]
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.randint(1, 8)):
            data = flipped(data, rng)
        return data
    middles = (bytes(len(stretch)), stretch * 2, b"", rng.randbytes(len(stretch)))
    return before + middles[kind - 1] + rest if kind < 5 else before


def make_workspace(root: Path) -> None:
    """Thin exports `resnet18` and `resnet34`, two photos, and the bundle `pair` of both models."""
    import trtkit
    from tests.pictures import write_photos
    from tests.thin import thin_networks

    with thin_networks():
        for model in ("resnet18", "resnet34"):
            trtkit.export(model, weights="random", image_size=64, workspace=root)
    write_photos(root / "photos", count=2, size=(90, 70))
    options: dict[str, Any] = {"cut": 2, "precision": "fp16", "embeddings": True}
    trtkit.build(["resnet18", "resnet34"], bundle_name="pair", workspace=root, **options)


def scores(root: Path, **options: Any) -> list[Any]:
    """Labels and scores of the workspace's photos."""
    import trtkit

    with trtkit.open_bundle("pair", workspace=root, **options) as pipeline:
        results = list(pipeline.infer([root / "photos"]))
    return [(result.error, result.predictions) for result in results]


def images(root: Path) -> Iterator[Target]:
    """Photos of every format."""
    from tests.pictures import encoded, scaled
    from trtkit.photos.images import load_image, read_file
    from trtkit.preprocessing import Preprocessing

    form = Preprocessing.for_image_size(32)

    def answer(file: Path) -> Any:
        return load_image(read_file(file), form).shape

    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        file = root / f"photo.{kind.lower()}"
        file.write_bytes(encoded(scaled("china", 90, 70), kind))
        yield Target(file, partial(answer, file))


def onnx(root: Path) -> Iterator[Target]:
    """Foreign models."""
    import onnx as library

    import trtkit
    from tests.graph.onnx_graphs import classifier

    file = root / "foreign.onnx"
    library.save(classifier(classes=3), file)

    def answer() -> None:
        shutil.rmtree(root / "export", ignore_errors=True)
        trtkit.export(file, name="foreign", workspace=root)

    yield Target(file, answer)


def checkpoint(root: Path) -> Iterator[Target]:
    """A checkpoint that trtkit wrote."""
    from tests.thin import thin_networks
    from trtkit.models.architectures import create
    from trtkit.models.checkpoint import load, read_checkpoint, save_checkpoint
    from trtkit.preprocessing import Preprocessing

    file = root / "last.safetensors"
    with thin_networks():
        save_checkpoint(file, create("resnet18", 3), ["a", "b", "c"], Preprocessing())

    def answer() -> Any:
        with thin_networks():
            model = load(read_checkpoint(file))
        state = model.model.network.state_dict()
        return model.classes, {name: value.numpy().tobytes() for name, value in state.items()}

    yield Target(file, answer)


def manifest(root: Path) -> Iterator[Target]:
    """The manifest of a bundle."""
    yield Target(root / "engines" / "pair" / "bundle.json", lambda: scores(root))


def export(root: Path) -> Iterator[Target]:
    """An export of trtkit's own."""
    from trtkit.building.sources import load_model

    file = root / "export" / "resnet18.onnx"

    def answer() -> Any:
        model = load_model("resnet18", file)
        return model.card, model.graph.SerializeToString(deterministic=True)

    yield Target(file, answer)


def ranges(root: Path) -> Iterator[Target]:
    """The ranges that int8 was calibrated with."""
    from trtkit.errors import TrtkitError
    from trtkit.quantization.ranges import Ranges, ranges_path, read_ranges

    file = ranges_path(root, "m")
    names = {f"layer{number}": number / 7 for number in range(20)}
    made = ("m", "0" * 64, "1" * 64, 20, "entropy", "tool 1", "2026-01-01T00:00:00")
    Ranges(*made, ranges=names, edges={"conv": (0, 1)}).write(file)

    def answer() -> Any:
        values, reason = read_ranges(file)
        if values is None:
            raise TrtkitError(reason or "not found")
        return values

    yield Target(file, answer)


def index(root: Path) -> Iterator[Target]:
    """The index of the feature cache."""
    import trtkit
    from trtkit.store.cache import CacheOptions

    options = CacheOptions("always", folder=root / "cache")
    scores(root, cache=options)
    shutil.copytree(root / "cache", root / "whole")

    def answer() -> Any:
        shutil.rmtree(root / "cache")
        shutil.copytree(root / "whole", root / "cache")
        shutil.copy(file, root / "cache")
        for command in (trtkit.cache_info, trtkit.cache_verify):
            command(root / "cache")
        result = scores(root, cache=options)
        trtkit.cache_clear(root / "cache")
        return result

    file = Path(shutil.copy(root / "whole" / "index.sqlite", root))
    yield Target(file, answer)


def footage(root: Path) -> Iterator[Target]:
    """The database of a store of footage."""
    import trtkit
    from scripts.footage import render_clip
    from trtkit.video.footage.database import FILE
    from trtkit.video.options import IngestOptions

    render_clip(root / "gate.mp4", seconds=4.0, size=(256, 192), fps=12.0, density=1.5, seed=3)
    options = IngestOptions(segment_seconds=2, min_size=12, top=1000)
    trtkit.ingest(str(root / "gate.mp4"), store=root / "store", options=options, workspace=root)
    shutil.copytree(root / "store", root / "whole")
    (_, predictions), *_ = scores(root)
    label = predictions[0].label

    def answer() -> Any:
        shutil.rmtree(root / "store")
        shutil.copytree(root / "whole", root / "store")
        shutil.copy(file, root / "store")
        with trtkit.query(label, store=root / "store", workspace=root, remember=False) as answers:
            rows = list(answers)
        trtkit.store_verify(root / "store")
        return rows

    file = Path(shutil.copy(root / "whole" / FILE, root))
    yield Target(file, answer)


def video(root: Path) -> Iterator[Target]:
    """Video files of several containers."""
    from tests.video.clips import write_clip
    from trtkit.video.sources import open_source, parse_source

    def read(file: Path) -> None:
        deque(open_source(parse_source(str(file))).read(), maxlen=0)

    for suffix in ("mp4", "mkv", "avi", "ts"):
        file = root / f"clip.{suffix}"
        write_clip(file, [number * 40 for number in range(24)])

        yield Target(file, partial(read, file))


CASES: dict[str, Callable[[Path], Iterator[Target]]] = {
    own.__name__: own
    for own in (images, onnx, checkpoint, manifest, export, ranges, index, footage, video)
}


def run(
    name: str,
    place: Path,
    *,
    seconds: float,
    count: int | None = None,
    seed: int = 0,
    flips: bool = False,
) -> Counter[str]:
    """Damage the files of a case in turns; how often the answer was `same` or a `sentence`.

    `place`: a workspace, which is copied. Raises RuntimeError with the seed of the damage for anything
    else.
    """
    from trtkit.errors import TrtkitError
    from trtkit.reporting import Silent, reporting

    outcomes: Counter[str] = Counter()
    with TemporaryDirectory() as folder, reporting(Silent()):
        root = Path(folder) / "workspace"
        shutil.copytree(place, root)
        targets = list(CASES[name](root))
        whole = [(target, target.file.read_bytes(), target.answer()) for target in targets]
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end if count is None else number < count:
            target, data, expected = whole[number % len(whole)]
            rng = random.Random(f"{name} {seed} {number}")
            what = f"{target.file.name}, damage {number} of seed {seed}"
            target.file.write_bytes((flipped if flips else damaged)(data, rng))
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            try:
                answer = target.answer()
            except TrtkitError as error:
                outcomes["sentence"] += 1
                if "\n" in str(error):
                    raise RuntimeError(f"{name}: {what}: several lines: {error}") from error
            except BaseException as error:
                raise RuntimeError(f"{name}: {what}: a traceback") from error
            else:
                if target.exact and answer != expected:
                    raise RuntimeError(f"{name}: {what}: another answer")
                outcomes["same"] += 1
            finally:
                faulthandler.cancel_dump_traceback_later()
            number += 1
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--seconds", type=float, default=5.0, help="for each case")
    parser.add_argument("--count", type=int, help="files to damage, instead of --seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flips", action="store_true", help="flip single bits alone")
    parser.add_argument("--workspace", type=Path, help="one that was made before")
    settings = vars(parser.parse_args())
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    names, place = settings.pop("cases") or [*CASES], settings.pop("workspace")
    with TemporaryDirectory() as folder:
        if place is None:
            make_workspace(place := Path(folder))
        for name in names:
            outcomes = run(name, place, **settings)
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            sys.stdout.write(f"{name}: {counts}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
