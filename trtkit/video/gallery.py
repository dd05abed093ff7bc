"""A page of thumbnails on a time line: what a question found, to be looked at in a browser."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Objects of one appearance that are shown; the page says how many more there are.
SHOWN = 6

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; color: #111;
  margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.line { position: relative; height: 1.6rem; background: #eee; border: 1px solid #999; }
.line a { position: absolute; top: 0; bottom: 0; min-width: 3px; background: #111; }
.ends { display: flex; justify-content: space-between; color: #555; font-size: 12px; }
ol { list-style: none; padding: 0; }
li { display: flex; gap: 1rem; align-items: center; border-top: 1px solid #ccc; padding: .5rem 0; }
li:target { background: #ffd; }
li div:first-child { min-width: 15rem; }
img { height: 72px; border: 1px solid #999; }
"""


@dataclass(frozen=True)
class Shown:
    """An appearance on the page: its times in seconds and as text, its objects' numbers.

    `camera`: what its time line is called. Times on one line count from one beginning.
    """

    camera: str
    start: float
    end: float
    when: str
    confidence: float
    objects: tuple[int, ...]


def gallery(
    label: str, shown: Sequence[Shown], crop_of: Callable[[int], bytes | None], summary: str
) -> str:
    """The page, self-contained: a time line for each camera, and its appearances with thumbnails.

    `crop_of` gives the picture of an object, JPEG. Nothing is loaded from anywhere.
    """
    name = html.escape(label)
    cameras = sorted({each.camera for each in shown})
    parts = [
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">', f"<title>{name}</title>",
        f"<style>{_STYLE}</style></head><body>", f"<h1>{name}</h1>", f"<p>{html.escape(summary)}</p>",
    ]  # fmt: skip
    for number, camera in enumerate(cameras):
        mine = sorted(
            (each for each in shown if each.camera == camera), key=lambda each: each.start
        )
        parts += [f"<h2>{html.escape(camera)}</h2>", _time_line(number, mine), "<ol>"]
        parts += [_item(number, place, each, crop_of) for place, each in enumerate(mine)]
        parts.append("</ol>")
    return "\n".join([*parts, "</body></html>", ""])


def _time_line(camera: int, shown: Sequence[Shown]) -> str:
    """Bars where the class was seen, each a link to its pictures."""
    low, high = shown[0].start, max(each.end for each in shown)
    length = max(high - low, 1e-6)
    bars = "".join(
        f'<a href="#a{camera}-{place}" title="{html.escape(each.when)}" '
        f'style="left:{100 * (each.start - low) / length:.3f}%;'
        f'width:{100 * (each.end - each.start) / length:.3f}%"></a>'
        for place, each in enumerate(shown)
    )
    ends = f"<span>{low:.1f} s</span><span>{high:.1f} s</span>"
    return f'<div class="line">{bars}</div><div class="ends">{ends}</div>'


def _item(camera: int, place: int, each: Shown, crop_of: Callable[[int], bytes | None]) -> str:
    pictures = []
    for number in each.objects[:SHOWN]:
        crop = crop_of(number)
        if crop is not None:
            data = base64.b64encode(crop).decode()
            pictures.append(f'<img alt="object {number}" src="data:image/jpeg;base64,{data}">')
    more = len(each.objects) - SHOWN
    rest = f"<span>and {more} more</span>" if more > 0 else ""
    said = f"{html.escape(each.when)}<br>confidence {each.confidence:.3f}"
    return f'<li id="a{camera}-{place}"><div>{said}</div>{"".join(pictures)}{rest}</li>'
