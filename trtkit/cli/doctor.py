"""trtkit doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtkit.cli.options import JsonOption, WorkspaceOption
from trtkit.cli.output import print_json, print_table
from trtkit.sizes import human_bytes

if TYPE_CHECKING:
    from trtkit.runtime.diagnosis import Diagnosis


def doctor(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Show what this machine can do: backends, versions, GPU, what is missing and how to get it."""
    from trtkit.api import doctor as api

    diagnosis = api.doctor(workspace=workspace)
    if json:
        print_json(diagnosis)
        return
    print_table(["what", "found", "to get it"], _rows(diagnosis))


def _rows(diagnosis: Diagnosis) -> list[list[str]]:
    memory = f"{human_bytes(diagnosis.memory_bytes)} of memory"
    rows = [
        ["trtkit", f"{diagnosis.trtkit} on Python {diagnosis.python}", ""],
        ["system", diagnosis.system, ""],
        ["processor", f"{diagnosis.processor}, {diagnosis.cores} usable cores, {memory}", ""],
    ]
    for gpu in diagnosis.gpus:
        details = f"compute capability {gpu.compute_capability}, driver {gpu.driver}"
        rows.append(["GPU", f"{gpu.name}, {details}, {gpu.memory_mib} MiB", ""])
    if diagnosis.gpu_problem:
        rows.append(["GPU", f"none: {diagnosis.gpu_problem}", ""])
    for backend in diagnosis.backends:
        chosen = " (what --backend auto takes)" if backend.name == diagnosis.auto else ""
        details = f"{backend.version}, {', '.join(backend.precisions)}{chosen}"
        if backend.problem:
            details = f"{details}; {backend.problem}" if backend.version else backend.problem
        elif not backend.version:
            details = "missing"
        rows.append([f"backend {backend.name}", details, backend.install or ""])
    for feature in diagnosis.features:
        installed = ", ".join(f"{name} {version}" for name, version in feature.packages.items())
        missing = f"missing: {', '.join(feature.missing)}" if feature.missing else ""
        details = "; ".join(part for part in (installed, missing) if part)
        rows.append([f"{feature.name} ({feature.purpose})", details, feature.install or ""])
    rows.append(["workspace", diagnosis.workspace, ""])
    rows.append(["exports", ", ".join(diagnosis.exports) or "none", ""])
    rows.append(["bundles", ", ".join(diagnosis.bundles) or "none", ""])
    rows.append(["cache", f"{diagnosis.cache}, {human_bytes(diagnosis.cache_free_bytes)} free", ""])
    return rows
