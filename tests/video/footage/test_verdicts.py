"""Verdicts are remembered by the identity of the tail that gave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtkit.errors import TrtkitError
from trtkit.video.footage.database import Database
from trtkit.video.judging import Verdict, Verdicts


def test_a_tail_that_was_trained_again_finds_nothing(tmp_path: Path) -> None:
    said = {1: Verdict(3, 0.5), 2: Verdict(1, 0.25)}
    with Database.create(tmp_path) as database:
        before = Verdicts(database, "aa")
        assert before.known([1, 2]) == {}
        before.remember(said)
        assert before.known([2, 1, 9]) == said
        trained = Verdicts(database, "ab")
        assert trained.known([1, 2]) == {}
        trained.remember({1: Verdict(4, 1.0)})
        assert trained.known([1, 2]) == {1: Verdict(4, 1.0)}
        assert before.known([1, 2]) == said
        before.remember({2: Verdict(0, 0.75)})
        assert before.known([1, 2]) == {1: Verdict(3, 0.5), 2: Verdict(0, 0.75)}
    with Database.open(tmp_path) as database:
        assert Verdicts(database, "ab").known([1]) == {1: Verdict(4, 1.0)}
        assert len(database.rows("SELECT * FROM tails")) == 2


def test_many_at_once(tmp_path: Path) -> None:
    said = {number: Verdict(number % 7, number / 2048) for number in range(1, 1203)}
    with Database.create(tmp_path) as database:
        verdicts = Verdicts(database, "aa")
        verdicts.remember(said)
        assert verdicts.known(range(2000)) == said
        assert verdicts.known([]) == {}
        plan = database.rows(
            "EXPLAIN QUERY PLAN SELECT * FROM verdicts WHERE tail = 1 AND object IN (1, 2)"
        )
        assert [row[3] for row in plan] == [
            "SEARCH verdicts USING PRIMARY KEY (tail=? AND object=?)"
        ]


def test_all_or_none(tmp_path: Path) -> None:
    with Database.create(tmp_path) as database:
        verdicts = Verdicts(database, "aa")
        with pytest.raises(TrtkitError):
            # A score that is none: NOT NULL.
            verdicts.remember({1: Verdict(1, 0.5), 2: Verdict(1, None)})  # type: ignore[arg-type]
        assert verdicts.known([1, 2]) == {}
        assert database.rows("SELECT * FROM tails") == []


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    with Database.create(tmp_path) as database:
        database.writable = False
        with pytest.raises(
            TrtkitError, match=r"^The footage store in .* can only be read; fix its perm"
        ):
            Verdicts(database, "aa").remember({1: Verdict(1, 0.5)})
        assert database.rows("SELECT * FROM tails") == []
