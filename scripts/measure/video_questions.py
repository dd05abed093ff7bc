"""Questions to a store of video: what they find, and what they take beside what others do."""

from __future__ import annotations

import argparse
import json
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from common import Outcome, Table, Target, in_turns, progress, timed
from video_subjects import BUNDLE, CLASSES, EXPENSIVE, clip, ingested

from trtkit.api.query import query
from trtkit.api.tune import tune
from trtkit.bundle import read_manifest
from trtkit.cli.progress import terminal_reporter
from trtkit.video.footage.database import Database
from trtkit.video.footage.maps import MapReader
from trtkit.video.footage.reading import Span, candidates, crop_of, keys_of, sightings_of
from trtkit.video.footage.settings import QuerySettings, identity
from trtkit.video.footage.writing import source_rows
from trtkit.video.judging import Judge
from trtkit.video.motion import Box
from trtkit.video.query import Question, Search
from trtkit.video.tails import VideoTail
from trtkit.video.tuning.tune import Targets
from trtkit.workspace import Workspace

# Times as fast as the expensive model on the candidates, and on everything.
THAN_CANDIDATES, THAN_EVERYTHING = 5.0, 20.0


def questions(options: argparse.Namespace, root: Path, outcome: Outcome) -> None:
    store = root / "store"
    if not store.is_dir():
        ingested(root, clip(options, root), store, "--top", options.top)
    if not options.untuned:
        progress("Tuning")
        targets = Targets(options.reached, options.reached)
        with terminal_reporter():
            tuned = tune(store=store, workspace=root, targets=targets, sample=options.sample).tuned
        outcome.data["tuned"] = None if tuned.chosen is None else vars(tuned.chosen.choice)
        found_of_everything(options, root, store, outcome)
    timed_questions(options, root, store, outcome)


def found_of_everything(
    options: argparse.Namespace, root: Path, store: Path, outcome: Outcome
) -> None:
    folder = Workspace(root).engines / BUNDLE
    stage = read_manifest(folder).tail(EXPENSIVE)
    with Database.open(store) as database:
        ids = [row[0] for row in database.rows("SELECT id FROM objects ORDER BY id")]
        with closing(Judge(database, stage.id, lambda: VideoTail.load(folder, EXPENSIVE))) as judge:
            said = {number: verdict.label for number, verdict in judge.ask(ids).items()}
        truth = truth_of(database, clip(options, root), ids)
    returned: dict[str, set[int]] = {}
    for label in CLASSES:
        with query(label, store=store, workspace=root) as answers:
            returned[label] = {number for answer in answers for number in answer.objects}
    classes = stage.classes or ()
    rows = []
    for name, labels in (
        ("the expensive model on everything", {n: classes[label] for n, label in said.items()}),
        ("the rendered truth", truth),
    ):
        wanted = {label: {n for n, each in labels.items() if each == label} for label in CLASSES}
        known = set(labels)
        hits = sum(len(returned[label] & wanted[label]) for label in CLASSES)
        recall = hits / max(1, sum(map(len, wanted.values())))
        precision = hits / max(1, sum(len(returned[label] & known) for label in CLASSES))
        rows.append((name, str(len(known)), f"{recall:.2%}", f"{precision:.2%}"))
        outcome.data.setdefault("found", {})[name] = {"recall": recall, "precision": precision}
        if name.startswith("the expensive"):
            outcome.targets.append(
                Target(
                    f"recall and precision against {name}, ten classes",
                    f"at least {options.reached:g} both",
                    f"{recall:.4f} and {precision:.4f}",
                    min(recall, precision) >= options.reached,
                )
            )
    columns = ("compared with", "objects", "recall", "precision")
    outcome.tables.append(Table("What questions find, all classes", columns, tuple(rows)))


def truth_of(database: Database, video: Path, ids: list[int]) -> dict[int, str]:
    """What each object shows, of those that are a single rendered one where most is seen of them."""
    frames: dict[int, list[dict[str, Any]]] = {}
    for line in video.with_suffix(".truth.jsonl").read_text().splitlines():
        row = json.loads(line)
        frames.setdefault(row["frame"], []).append(row)
    labels = {}
    for number, sightings in sightings_of(database, ids).items():
        shown = max(sightings, key=lambda each: each.box.area)
        near = [
            row for row in frames.get(shown.frame, ()) if shown.box.overlap(Box(*row["box"])) > 0
        ]
        if (
            len(near) == 1
            and near[0]["visible"] > 0.9
            and shown.box.overlap(Box(*near[0]["box"])) > 0.5
        ):
            labels[number] = str(near[0]["label"])
    return labels


def timed_questions(options: argparse.Namespace, root: Path, store: Path, outcome: Outcome) -> None:
    folder = Workspace(root).engines / BUNDLE
    with closing(Questions(store, folder, CLASSES[: options.asked])) as asked:
        competitors: dict[str, Callable[[], float]] = {
            "everything": asked.everything,
            "candidates": asked.of_candidates,
            "feature maps": asked.of_maps,
        }
        if not options.untuned:
            competitors |= {
                "clusters": partial(asked.asked, False),
                "remembered": partial(asked.asked, True),
            }
        asked.warm_up()
        title = f"A question, mean of {options.asked} classes, cut {options.cut}"
        samples = in_turns(competitors, options.rounds, title=title, warmups=0)
        counts = asked.counts
    ratios = outcome.add_timing(title, samples, "candidates")
    outcome.data["counts"] = counts
    outcome.targets.append(
        Target(
            f"question on stored feature maps instead of the whole model, cut {options.cut}",
            "beside 9.6% and 17.5% published",
            f"{1 - ratios['feature maps']:.1%} saved",
        )
    )
    if not options.untuned:
        outcome.targets += faster_with_clusters(ratios)


def faster_with_clusters(ratios: dict[str, float]) -> list[Target]:
    than_candidates = 1 / ratios["remembered"]
    than_everything = ratios["everything"] / ratios["clusters"]
    return [
        Target(
            "question with clusters and nothing remembered, against the candidates",
            "beside the next",
            f"{1 / ratios['clusters']:.1f} times as fast",
        ),
        Target(
            "question with clusters and remembered verdicts, against the candidates",
            f"at least {THAN_CANDIDATES:g} times as fast",
            f"{than_candidates:.1f} times",
            than_candidates >= THAN_CANDIDATES,
        ),
        Target(
            "question with clusters, nothing remembered, against every object",
            f"at least {THAN_EVERYTHING:g} times as fast",
            f"{than_everything:.1f} times",
            than_everything >= THAN_EVERYTHING,
        ),
    ]


class Questions:
    """The ways to answer, each with the expensive tail loaded; seconds of one question on average."""

    def __init__(self, store: Path, folder: Path, labels: Sequence[str]) -> None:
        self._labels = labels
        self._database = Database.open(store)
        self._tail = VideoTail.load(folder, EXPENSIVE)
        self._maps = MapReader(self._database)
        self._known = known = identity(self._database)
        self._settings = settings = QuerySettings.of(self._database)
        self._spans = spans = tuple(Span(row.id) for row in source_rows(self._database))
        self._judges = {
            remember: Judge(
                self._database,
                self._tail.tail.id,
                lambda: VideoTail.load(folder, EXPENSIVE),
                remember=remember,
            )
            for remember in (True, False)
        }
        self._ids = [row[0] for row in self._database.rows("SELECT id FROM objects ORDER BY id")]
        self._candidates = [
            [
                each.object
                for span in spans
                for each in candidates(self._database, place, span, settings.top, settings.least)
            ]
            for place in map(known.classes.index, labels)
        ]
        self.counts: dict[str, Any] = {
            "objects": len(self._ids),
            "candidates": statistics.fmean(map(len, self._candidates)),
        }

    def close(self) -> None:
        for judge in self._judges.values():
            judge.close()
        self._maps.close()
        self._tail.close()
        self._database.close()

    def warm_up(self) -> None:
        """A batch by each way, and everything that is asked below once remembered."""
        few = self._ids[: self._tail.batch]
        for judge in self._judges.values():
            judge.compute(few)
        self._from_pictures(few)
        self._from_maps(few)
        self.asked(True)

    def everything(self) -> float:
        return timed(partial(self._from_pictures, self._ids))

    def of_candidates(self) -> float:
        return self._mean(self._from_pictures)

    def of_maps(self) -> float:
        return self._mean(self._from_maps)

    def asked(self, remember: bool) -> float:
        """What `trtkit query` does for each class, with its tail loaded already."""
        judge, taken = self._judges[remember], []
        said = judge.judged
        before = said.hits + said.recomputed
        for label in self._labels:
            asked = Question(label, self._spans, self._settings.top, self._settings.least)
            search = Search(self._database, self._known, judge, self._tail.classes, asked)
            taken.append(timed(partial(exhaust, search.appearances())))
        if not remember:
            self.counts["asked"] = (said.hits + said.recomputed - before) / len(self._labels)
        return statistics.fmean(taken)

    def _mean(self, answer: Callable[[list[int]], None]) -> float:
        return statistics.fmean(timed(partial(answer, each)) for each in self._candidates)

    def _from_pictures(self, ids: list[int]) -> None:
        for start in range(0, len(ids), self._tail.batch):
            part = ids[start : start + self._tail.batch]
            crops = [crop_of(self._database, number) for number in part]
            self._tail.scores([self._tail.prepared(crop) for crop in crops if crop], [])

    def _from_maps(self, ids: list[int]) -> None:
        for start in range(0, len(ids), self._tail.batch):
            part = ids[start : start + self._tail.batch]
            places = keys_of(self._database, part)
            maps = [self._maps.get(*places[number]) for number in part]
            self._tail.scores([], [each for each in maps if each is not None])


def exhaust(items: Iterable[object]) -> None:
    deque(items, maxlen=0)
