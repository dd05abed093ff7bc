"""The names of classes, in one form wherever they come from, so that equal names are equal."""

from __future__ import annotations

import ast
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from trtkit.errors import TrtkitError, listed

# Under which keys checkpoints and ONNX files of others keep the names of their classes.
NAME_KEYS = (
    "names", "class_names", "classes", "labels", "categories", "id2label", "idx_to_class",
    "class_to_idx", "label2id",
)  # fmt: skip
# Characters of a list of names; ImageNet's 21,841 take 400,000.
MOST_TEXT = 4_000_000
# A dict or list of names holds nothing deeper.
MOST_BRACKETS = 1


def clean_label(name: str) -> str:
    """A name in Unicode's composed form (NFC), without a byte order mark and ends of lines.

    macOS writes folder names decomposed, Windows a mark at the beginning of text files.

    >>> clean_label("cafe\u0301") == clean_label("\ufeffcaf\u00e9\\r")
    True
    """
    if name.isascii() and not name.endswith(("\r", "\n")):
        return name
    return unicodedata.normalize("NFC", name).strip("\ufeff\r\n") or name


def clean_labels(names: Iterable[str]) -> tuple[str, ...]:
    """`clean_label` of each."""
    return tuple(map(clean_label, names))


def checked_labels(names: Sequence[str], where: str) -> tuple[str, ...]:
    """`clean_labels`; raises TrtkitError, which names `where`, when two different names become one.

    Names that are equal to begin with stay: ImageNet has two classes called crane.
    """
    labels = clean_labels(names)
    spellings = Counter(labels[position] for position in _first_places(names))
    twice = [label for label, count in spellings.items() if count > 1]
    if twice:
        raise TrtkitError(
            f"{where} spells {listed(twice)} in two Unicode forms, which are one class; rename one of the "
            "two, or put both together."
        )
    return labels


def _first_places(names: Sequence[str]) -> Iterable[int]:
    return {name: place for place, name in reversed(list(enumerate(names)))}.values()


def labels_in(values: Mapping[str, Any]) -> list[str] | None:
    """The names of classes, in the order of their indices, in what a file says of itself; else None.

    Under one of NAME_KEYS, as a list of names, as names by index, as indices by name, or as text of one of
    these in JSON or Python's notation. What is none of these is no list of names.

    >>> labels_in({"names": "{0: 'cat', 1: 'dog'}"}), labels_in({"class_to_idx": {"dog": 1, "cat": 0}})
    (['cat', 'dog'], ['cat', 'dog'])
    """
    for key in NAME_KEYS:
        labels = _labels(values.get(key))
        if labels is not None:
            return [clean_label(label) for label in labels]
    return None


def _labels(value: Any) -> list[str] | None:
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, Mapping):
        return _by_index(value)
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return [str(one) for one in value]
    return None


def _by_index(value: Mapping[Any, Any]) -> list[str] | None:
    """Names by index or indices by name, which must be 0, 1, 2 and so on."""
    if all(isinstance(one, str) for one in value.values()):
        pairs = [(_index(key), str(name)) for key, name in value.items()]
    else:
        pairs = [(_index(index), str(key)) for key, index in value.items()]
    names = {index: name for index, name in pairs if index is not None}
    if not names or len(names) != len(value) or sorted(names) != list(range(len(names))):
        return None
    return [names[index] for index in range(len(names))]


def _index(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else None


def _parsed(text: str) -> Any:
    """The value of a text in JSON or Python's notation; None for another one, or one too long."""
    text = text.strip()
    if len(text) > MOST_TEXT or not text.startswith(("{", "[", "(")):
        return None
    # What is no JSON may be Python's notation.
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    if not _is_flat(text):
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _is_flat(text: str) -> bool:
    """Whether nothing is nested outside the quotes, which Python's parser would go down into."""
    depth, quote, escaped = 0, "", False
    for letter in text:
        if escaped:
            escaped = False
        elif quote:
            escaped = letter == "\\"
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
            if depth > MOST_BRACKETS:
                return False
        elif letter in ")]}":
            depth -= 1
        elif letter in "+-~":
            # Of no name and no index, and each a level of its own.
            return False
    return True
