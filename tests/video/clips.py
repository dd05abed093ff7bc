"""Tiny clips that tell their frames apart: the number of a frame is drawn into it as black and white."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 64, 48
_BITS = 8
_MILLISECOND = Fraction(1, 1000)


def pattern(number: int) -> np.ndarray:
    """Frame `number` (0 to 255): one column of 8 x 24 pixels a bit, white for 1; noise below."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(_BITS):
        image[:24, bit * 8 : bit * 8 + 8] = 255 if number >> bit & 1 else 0
    noise = np.random.default_rng(number).integers(0, 256, (6, 16, 3), np.uint8)
    image[24:] = noise.repeat(4, 0).repeat(4, 1)
    return image


def number(image: np.ndarray) -> int:
    """The number that `pattern` drew into a decoded frame."""
    bits = [image[8:16, bit * 8 + 3 : bit * 8 + 5].mean() > 127 for bit in range(_BITS)]
    return sum(1 << bit for bit, white in enumerate(bits) if white)


def write_clip(
    path: Path,
    times_ms: Sequence[int],
    *,
    gop: int = 12,
    b_frames: int = 2,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    paint: tuple[int, int, int] | None = None,
) -> Path:
    """An H.264 clip in the format of the path's ending; frame N is `pattern(N)` at `times_ms[N]`.

    `rotation`: degrees, as recordings of phones have; `paint`: one colour instead of the pattern. AVI has
    frames of equal length: multiples of 40 ms.
    """
    unit = Fraction(1, 25) if path.suffix == ".avi" else _MILLISECOND
    settings = {"g": str(gop), "bf": str(b_frames), "sc_threshold": "0", "crf": "18"}
    settings |= {"preset": "ultrafast", "threads": "1", **(options or {})}
    if b_frames:
        settings["b-adapt"] = "0"
    with av.open(str(path), "w", options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream("libx264", rate=25, options=settings)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = unit
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        if rotation:
            stream.set_display_rotation(rotation)
        for index, time_ms in enumerate(times_ms):
            image = pattern(index)
            if paint:
                image[:] = paint
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = round(time_ms * _MILLISECOND / unit), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def packets(path: Path) -> list[tuple[int, int, bool]]:
    """Where each frame's data lie in the file, in decoding order: offset, size, whether it is a key."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]


def overwrite(path: Path, offset: int, size: int, byte: int = 0xA5) -> None:
    """Damage: that stretch of the file replaced."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([byte]) * size)
