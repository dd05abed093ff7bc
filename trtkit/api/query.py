"""`trtkit query`: when and where a class of objects appears in ingested footage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtkit.names import names_of
from trtkit.video.answers import Query
from trtkit.video.footage.database import Database
from trtkit.video.footage.settings import QuerySettings
from trtkit.video.footage.writing import source_rows
from trtkit.video.ingest import DEFAULT_STORE
from trtkit.video.query import Question, gap_of, spans_of
from trtkit.video.tails import ExpensiveTail
from trtkit.workspace import Workspace


def query(
    label: str,
    *,
    store: str | Path = DEFAULT_STORE,
    bundle: str | Path | None = None,
    tail: str | None = None,
    camera: str | Sequence[str] = (),
    since: str | None = None,
    until: str | None = None,
    limit: int | None = None,
    min_confidence: float = 0.0,
    top: int | None = None,
    gap: float | None = None,
    seconds: float | None = None,
    remember: bool = True,
    workspace: str | Path | None = None,
) -> Query:
    """Ask when `label` can be seen in the footage of a store: an answer for each object. Close the result.

    `bundle`: by default the store's; `tail`: the expensive one, by default the other one of two.
    `camera`: only these; `since` and `until`: only then, seconds or H:MM:SS from the beginning of the
    footage, or ISO dates and times. `limit`: of answers. `min_confidence`: of the expensive tail,
    0 to 1. `top`: how many best classes of the cheap tail count, by default the choice of `tune`, else
    all that are stored. `gap`: joins objects of one source that are at most so many seconds apart into
    one answer; by default none are joined. `seconds`: after
    which no more objects are classified. `remember` False neither uses nor stores verdicts. Raises
    TrtkitError.

        with trtkit.query("car", store="video-store", limit=3) as answers:
            for answer in answers:
                print(answer.camera, answer.start, answer.end, answer.path)
    """
    database = Database.open(Path(store))
    try:
        expensive = ExpensiveTail.of_store(database, Workspace.at(workspace), bundle, tail)
        tuned = QuerySettings.of(database)
        question = Question(
            label,
            spans_of(source_rows(database), names_of(camera), since, until),
            top=tuned.top if top is None else top,
            least=tuned.least if top is None else 0.0,
            confidence=min_confidence,
            limit=limit,
            gap_us=gap_of(gap),
            seconds=seconds,
        )
        return Query(database, expensive, question, remember=remember)
    except BaseException:
        database.close()
        raise
