"""Which bundles are measured in turns with each other: those of the same models, on the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trtkit.benchmark.contest import BuiltBundle
from trtkit.benchmark.spec import ALL, SEVERAL
from trtkit.bundle import Manifest, read_manifest
from trtkit.errors import TrtkitError
from trtkit.runtime.pipeline import choose_tails
from trtkit.workspace import Workspace


@dataclass(frozen=True)
class BundleGroup:
    """Bundles that are measured in turns with each other, and the one of their models that is measured."""

    bundles: tuple[BuiltBundle, ...]
    tail: str

    @property
    def manifest(self) -> Manifest:
        """That of the first bundle. Their preprocessing is the same."""
        return self.bundles[0][1]

    @property
    def title(self) -> str:
        return ", ".join((*(manifest.name for _, manifest in self.bundles), self.tail))


def groups_of(
    place: Workspace, names: Sequence[str | Path], tails: Sequence[str]
) -> list[BundleGroup]:
    """Every model to measure with the bundles that have it. Raises TrtkitError for unknown names.

    `names`: of bundles, by default those of `_built_last`; `tails`: of models, by default all.
    """
    if names:
        folders = dict.fromkeys(place.find_bundle(name) for name in names)
        bundles = [(folder, read_manifest(folder)) for folder in folders]
    else:
        bundles = _built_last(place)
    alike: dict[object, list[BuiltBundle]] = {}
    for bundle in bundles:
        alike.setdefault(_content(bundle), []).append(bundle)
    return [
        BundleGroup(tuple(group), tail)
        for group in alike.values()
        for tail in _tails(group[0][1], tails)
    ]


def _tails(manifest: Manifest, names: Sequence[str]) -> list[str]:
    if list(names) == [ALL] and len(manifest.tails) > 1:
        return list(SEVERAL)
    chosen = choose_tails(manifest, names) if names else manifest.tails
    return [tail.name for tail in chosen]


def _content(bundle: BuiltBundle) -> object:
    """The same for bundles that compute the same: the same exports, from the same pixels."""
    folder, manifest = bundle
    if not manifest.models:
        # An earlier trtkit built it and did not write down from what.
        return folder
    return tuple(sorted(manifest.models.items())), manifest.preprocessing.digest


def _built_last(place: Workspace) -> list[BuiltBundle]:
    """The bundle built last, and the same in its other precisions, of each the one built last."""
    folder = place.find_bundle(None)
    last = (folder, read_manifest(folder))
    precisions = {last[1].precision: last}
    for other in place.bundles():
        try:
            bundle = (other, read_manifest(other))
        except TrtkitError:
            # It was not chosen by name, so it is no error.
            continue
        manifest = bundle[1]
        same_split = (manifest.cut, manifest.backend) == (last[1].cut, last[1].backend)
        if same_split and _content(bundle) == _content(last):
            precisions.setdefault(manifest.precision, bundle)
    return list(precisions.values())
