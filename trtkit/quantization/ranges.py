"""The ranges of a model's values, as a readable file of `calibration/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trtkit.atomic import whole_file
from trtkit.errors import TrtkitError, os_reason

FORMAT = 1
SUFFIX = ".ranges.json"
METHODS = ("entropy", "max")


@dataclass(frozen=True)
class Ranges:
    """What was measured of one model on one set of photos.

    `digest`: of the model's export (BLAKE3, hex); `images`: of the photos' bytes; `method`: `entropy`
    or `max`; `tool`: what measured. `ranges`: the largest magnitude by tensor. `edges`: by node the
    positions of the inputs that TensorRT wants quantized. `constant`: tensors that were the same for
    all photos, which stay float. `kept`: by form of int8 the layers that have to stay float for the
    accuracy asked for. `rejected`: methods that were tried too and were no better.
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
        """Why it does not hold for that model, those photos and that method; None when it does.

        `method` None: whichever was chosen.
        """
        if self.digest != digest:
            return "the model is another one"
        if self.images != images:
            return "the photos are others"
        if method is not None and self.method != method:
            return f"they were measured by {self.method}"
        return None

    def write(self, path: Path) -> None:
        """Raises TrtkitError when the system refuses."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False)
        with whole_file(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ranges:
        """Raises AttributeError, TypeError, ValueError or OverflowError for anything but such an object."""
        if value.get("format") != FORMAT:
            raise ValueError(f"it has format {value.get('format')}, this trtkit reads {FORMAT}")
        for name in cls.__dataclass_fields__:
            if name not in value:
                raise ValueError(f"it has no {name}")
        fields = {name: value[name] for name in cls.__dataclass_fields__}
        return cls(
            **{
                **fields,
                "ranges": {name: float(each) for name, each in value["ranges"].items()},
                "edges": {name: tuple(map(int, each)) for name, each in value["edges"].items()},
                "constant": tuple(value["constant"]),
                "rejected": tuple(value["rejected"]),
                "kept": {form: tuple(names) for form, names in value["kept"].items()},
            }
        )


def ranges_path(calibration: Path, model: str) -> Path:
    """Where the ranges of that model lie."""
    return calibration / f"{model}{SUFFIX}"


def read_ranges(path: Path) -> tuple[Ranges | None, str | None]:
    """The ranges in that file and why there are none, None for both when there is no file."""
    try:
        return Ranges.from_json(json.loads(path.read_bytes())), None
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise TrtkitError(
            f"The ranges in {path} cannot be read ({os_reason(error)}); mend its permissions."
        ) from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return None, f"the file cannot be read ({error})"
