"""The ranges of a model's values, as a readable file of `calibration/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtkit.atomic import whole_file
from trtkit.errors import TrtkitError, os_reason
from trtkit.sealing import read_json_file
from trtkit.serialization import from_plain, sealed_text, to_plain

FORMAT = 1
SUFFIX = ".ranges.json"
METHODS = ("entropy", "max")


@dataclass(frozen=True)
class Ranges:
    """The ranges of one model, measured on one set of photos.

    `digest`: of the model's export (BLAKE3, hex); `images`: of the photos' bytes; `method`: `entropy`
    or `max`; `tool`: the calibrator and its version. `ranges`: the largest magnitude by tensor. `edges`:
    by node, the positions of the inputs that TensorRT wants quantized. `constant`: tensors that were the
    same for all photos and stay float. `kept`: by form of int8, the layers that stay float for the
    accuracy. `rejected`: methods that were tried too and were no better.
    """

    model: str
    digest: str
    images: str
    count: int
    method: str
    tool: str
    created: str
    ranges: Mapping[str, float]
    edges: Mapping[str, tuple[int, ...]]
    constant: tuple[str, ...] = ()
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()

    def why_stale(self, digest: str, images: str, method: str | None) -> str | None:
        """Why the ranges do not hold for that model, photos and method; None when they hold.

        `method` None accepts any method.
        """
        if self.digest != digest:
            return "the model is another one"
        if self.images != images:
            return "the photos are others"
        if method is not None and self.method != method:
            return f"they were measured by {self.method}"
        return None

    def write(self, path: Path) -> None:
        """Raises TrtkitError when the file cannot be written."""
        text = sealed_text({"format": FORMAT, **to_plain(self)}, indent=1)
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def from_json(cls, value: Any) -> Ranges:
        """Raises AttributeError, TypeError, ValueError or OverflowError for anything but such an object."""
        if value.get("format") != FORMAT:
            raise ValueError(f"it has format {value.get('format')}, this trtkit reads {FORMAT}")
        for name in cls.__dataclass_fields__:
            if name not in value:
                raise ValueError(f"it has no {name}")
        return from_plain(value, cls)


def ranges_path(calibration: Path, model: str) -> Path:
    """The file of that model's ranges."""
    return calibration / f"{model}{SUFFIX}"


def read_ranges(path: Path) -> tuple[Ranges | None, str | None]:
    """The ranges in that file, or the reason why it cannot be read; None for both without a file."""
    try:
        return Ranges.from_json(read_json_file(path)), None
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise TrtkitError(
            f"The ranges in {path} cannot be read ({os_reason(error)}); mend its permissions."
        ) from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return None, f"the file cannot be read ({error})"
