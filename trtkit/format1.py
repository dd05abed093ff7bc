"""Manifests of format 1, whose stages had no roles: one input, one output, meaning by position."""

from __future__ import annotations

from typing import Any


def as_format_2(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of format 1 in the form of format 2. Raises ValueError when its stages are damaged.

    A stage with classes ended in the logits, one without a parent was the prefix, and one between the
    two ended in the embedding.
    """
    try:
        outputs = {stage["name"]: stage["outputs"][0]["name"] for stage in manifest["stages"]}
        stages = [_stage(stage, outputs) for stage in manifest["stages"]]
    except IndexError as error:
        raise ValueError("a stage has no outputs") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"its stages lack {error}") from error
    return {**manifest, "format": 2, "stages": stages}


def _stage(stage: dict[str, Any], outputs: dict[str, str]) -> dict[str, Any]:
    role, kind = "body", "embedding"
    if stage.get("classes") is not None:
        role, kind = "head", "logits"
    elif stage["parent"] is None:
        role, kind = "prefix", "feature_map"
    source = None if stage["parent"] is None else outputs[stage["parent"]]
    return {
        **stage,
        "role": role,
        "inputs": [{**spec, "source": source} for spec in stage["inputs"]],
        "outputs": [{**spec, "kind": kind} for spec in stage["outputs"]],
    }
