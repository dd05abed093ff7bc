"""trtkit doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtkit.cli.options import JsonOption, WorkspaceOption
from trtkit.cli.output import print_json, print_table
from trtkit.sizes import human_bytes

if TYPE_CHECKING:
    from trtkit.api.doctor import Diagnosis


def doctor(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Show what this machine can do: backends, versions, GPU, what is missing and how to get it."""
    from trtkit.api import doctor as api

    found = api.doctor(workspace=workspace)
    if json:
        print_json(found.to_json())
        return
    print_table(["what", "found", "to get it"], _rows(found))


def _rows(found: Diagnosis) -> list[list[str]]:
    rows = [
        ["trtkit", f"{found.trtkit} on Python {found.python}", ""],
        ["system", found.system, ""],
        [
            "processor",
            f"{found.processor}, {found.cores} usable cores, "
            f"{human_bytes(found.memory_bytes)} of memory",
            "",
        ],
    ]
    for gpu in found.gpus:
        about = f"compute capability {gpu.compute_capability}, driver {gpu.driver}"
        rows.append(["GPU", f"{gpu.name}, {about}, {gpu.memory_mib} MiB", ""])
    if found.gpu_problem:
        rows.append(["GPU", f"none: {found.gpu_problem}", ""])
    for backend in found.backends:
        chosen = " (what --backend auto takes)" if backend.name == found.auto else ""
        about = f"{backend.version}, {', '.join(backend.precisions)}{chosen}"
        if backend.problem:
            about = f"{about}; {backend.problem}" if backend.version else backend.problem
        elif not backend.version:
            about = "missing"
        rows.append([f"backend {backend.name}", about, backend.install or ""])
    for feature in found.features:
        have = ", ".join(f"{name} {version}" for name, version in feature.packages.items())
        lacking = f"missing: {', '.join(feature.missing)}" if feature.missing else ""
        rows.append(
            [
                f"{feature.name} ({feature.purpose})",
                "; ".join(part for part in (have, lacking) if part),
                feature.install or "",
            ]
        )
    rows.append(["workspace", found.workspace, ""])
    rows.append(["exports", ", ".join(found.exports) or "none", ""])
    rows.append(["bundles", ", ".join(found.bundles) or "none", ""])
    rows.append(["cache", f"{found.cache}, {human_bytes(found.cache_free_bytes)} free", ""])
    return rows
