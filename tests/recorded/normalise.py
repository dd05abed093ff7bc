"""What a command printed and wrote, with a placeholder wherever two equal runs differ."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

VARIES = "<varies>"
SENTENCE = "<sentence>"
# Keys of JSON whose values are measured, or say when, where or with which versions it ran. What
# ends in `seconds` or begins with `images_per_second` is measured as well.
MEASURED = {
    "backend_version", "build_id", "costs", "created", "database_bytes", "machine", "seal",
    "times_real_time", "trtkit", "trtkit_version", "waited",
}  # fmt: skip
# Keys whose values are prose, which may be put into other words.
PROSE = {"error", "note", "notes", "problem", "problems", "reason", "unverified", "why"}
# Keys of objects whose own keys depend on what is installed.
KEYED = {"edges", "entries_by_codec", "entries_by_dtype", "packages"}
LONG = 40
# Of some files only that they are there: pictures, pages, databases, and digests by path and time.
BINARY = {".png", ".html", ".sqlite", ".seg", ".mp4", ".jpg"}
_DIGITS = re.compile(r"[0-9a-f]{16,}")


def normalised_json(value: Any, key: str = "") -> Any:
    """`value` with placeholders; of long lists the length, the first element and a digest."""
    if key in MEASURED or key.endswith("seconds") or key.startswith("images_per_second"):
        return VARIES if value is not None else None
    if key in PROSE:
        return [SENTENCE] * len(value) if isinstance(value, list) else value and SENTENCE
    if isinstance(value, dict):
        return {name: normalised_json(part, name) for name, part in value.items()}
    if isinstance(value, list):
        parts = [normalised_json(part) for part in value]
        if len(parts) <= LONG:
            return parts
        return {
            "length": len(parts),
            "first": parts[0],
            "digest": digest(json.dumps(parts).encode()),
        }
    return without_folder(value) if isinstance(value, str) else value


def without_folder(text: str) -> str:
    """`text` with a placeholder for the current folder, which is the workspace."""
    return text.replace(str(Path.cwd()), "<workspace>")


def form(value: Any, *, loose: bool = False) -> Any:
    """The keys and types of `value`, as one for all elements of a list; None fits every type.

    With `loose` the keys that are data, such as names of packages, are left out.
    """
    if isinstance(value, dict):
        forms = {plain_name(name): form(part, loose=loose) for name, part in value.items()}
        if loose:
            forms |= {
                name: [_common(list(part.values()))]
                for name, part in forms.items()
                if name in KEYED and isinstance(part, dict)
            }
        return forms
    if isinstance(value, list):
        return [_common([form(part, loose=loose) for part in value])] if value else None
    if value is None:
        return None
    return {int: "number", float: "number"}.get(type(value), type(value).__name__)


def _common(forms: list[Any]) -> Any:
    forms = [part for part in forms if part is not None]
    if not forms or not all(isinstance(part, dict) for part in forms):
        return forms[0] if forms else None
    return {
        key: _common([part[key] for part in forms if key in part])
        for key in dict.fromkeys(key for part in forms for key in part)
    }


def plain_name(name: str) -> str:
    """The name of a file or key without digests."""
    return _DIGITS.sub("<digits>", name)


def printed(text: str, *, columns: tuple[str, ...] = ()) -> Any:
    """Standard output: JSON, lines of JSON, or lines of cells without the values of `columns`."""
    parsed = _as_json(text)
    if parsed is not None:
        return parsed
    text = without_folder(text)
    rows: list[list[str]] = []
    hidden: list[int] = []
    for line in text.splitlines():
        cells = line.split("\t")
        if set(cells) & set(columns):
            hidden = [place for place, cell in enumerate(cells) if cell in columns]
        elif hidden:
            cells = [VARIES if place in hidden else cell for place, cell in enumerate(cells)]
        rows.append(cells)
    return ["\t".join(cells) for cells in rows]


def written(path: Path) -> Any:
    """The contents of a file in the form that is recorded."""
    if path.suffix in BINARY or path.name.endswith(("-wal", "-shm", "contents.json")):
        return "exists"
    if path.suffix == ".parquet":
        return _table(path)
    if path.suffix == ".csv":
        return list(csv.reader(io.StringIO(path.read_text())))
    if path.suffix == ".json":
        return normalised_json(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return _lines_of_json(path.read_text())
    return digest(path.read_bytes())


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()[:16]}"


def _as_json(text: str) -> Any:
    """A JSON document of several lines, lines of objects, or None for anything else."""
    try:
        if text.startswith("{") and not text.startswith(("{\n", "{}\n")):
            return _lines_of_json(text)
        return normalised_json(json.loads(text))
    except ValueError:
        return None


def _lines_of_json(text: str) -> Any:
    return normalised_json([json.loads(line) for line in text.splitlines()])


def _table(path: Path) -> Any:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    kinds = {field.name: str(field.type) for field in table.schema}
    rows = normalised_json(json.loads(json.dumps(table.to_pylist(), default=str)))
    return {"columns": kinds, "rows": rows}
