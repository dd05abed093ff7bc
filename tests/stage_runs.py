"""How many rows each stage of a runner computes."""

from __future__ import annotations

from pytest import MonkeyPatch

from trtkit.runtime.runner import Planner


def rows_by_stage(patch: MonkeyPatch) -> dict[str, list[int]]:
    """The rows that each stage computes from now on, run by run, in a dict that grows."""
    rows: dict[str, list[int]] = {}
    plan = Planner.plan

    def recording(self, *arguments):
        work = plan(self, *arguments)
        for stage in work.stages:
            rows.setdefault(stage.name, []).append(work.rows[stage.name])
        return work

    patch.setattr(Planner, "plan", recording)
    return rows
