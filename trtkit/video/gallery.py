"""A page of thumbnails on time lines: the answers to a question, to look at in a browser."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

# Objects of one appearance that the page shows; it tells how many more there are.
MOST_THUMBNAILS = 6

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<title>{{ label }}</title>
<style>
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
</style></head><body>
<h1>{{ label }}</h1>
<p>{{ summary }}</p>
{% for name, entries, low, high in lines %}
{% set line = loop.index0 %}
{% set length = [high - low, 1e-6] | max %}
<h2>{{ name }}</h2>
<div class="line">
{%- for entry in entries -%}
<a href="#a{{ line }}-{{ loop.index0 }}" title="{{ entry.when }}" style="left:
{{- "%.3f" | format(100 * (entry.start - low) / length) }}%;width:
{{- "%.3f" | format(100 * (entry.end - entry.start) / length) }}%"></a>
{%- endfor -%}
</div><div class="ends"><span>{{ "%.1f" | format(low) }} s</span>
{{- "" }}<span>{{ "%.1f" | format(high) }} s</span></div>
<ol>
{% for entry in entries %}
<li id="a{{ line }}-{{ loop.index0 }}"><div>{{ entry.when }}<br>confidence
{{- " %.3f" | format(entry.confidence) }}</div>
{%- for number in entry.objects[:most] %}{% set jpeg = crop(number) %}
{%- if jpeg %}<img alt="object {{ number }}" src="data:image/jpeg;base64,{{ jpeg }}">{% endif %}
{%- endfor %}
{%- set more = entry.objects | length - most %}
{%- if more > 0 %}<span>and {{ more }} more</span>{% endif %}</li>
{% endfor %}
</ol>
{% endfor %}
</body></html>
"""


@dataclass(frozen=True)
class GalleryEntry:
    """An appearance on the page: its times in seconds and as text, its objects' numbers.

    `time_line`: the name of the line that it is on. Times on one line count from one beginning.
    """

    time_line: str
    start: float
    end: float
    when: str
    confidence: float
    objects: tuple[int, ...]


def gallery(
    label: str,
    entries: Sequence[GalleryEntry],
    crop_of: Callable[[int], bytes | None],
    summary: str,
) -> str:
    """The page, self-contained: every time line with its appearances and their thumbnails.

    `crop_of` gives the picture of an object, JPEG. Nothing is loaded from elsewhere.
    """
    import jinja2

    ordered = sorted(entries, key=lambda entry: (entry.time_line, entry.start))
    lines = []
    for name, group in groupby(ordered, key=lambda entry: entry.time_line):
        on_line = list(group)
        lines.append((name, on_line, on_line[0].start, max(entry.end for entry in on_line)))
    page = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    ).from_string(_PAGE)  # fmt: skip
    return page.render(
        label=label,
        summary=summary,
        lines=lines,
        most=MOST_THUMBNAILS,
        crop=lambda number: base64.b64encode(crop_of(number) or b"").decode(),
    )
