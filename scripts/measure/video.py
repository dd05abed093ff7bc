"""Video search: ingest, what questions find and what they take, the first answer."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

from case import Lab, case
from stock import LIGHT, RANDOM, adam

from trtkit import query, tune
from trtkit.benchmark.protocol import timed
from trtkit.reporting import message
from trtkit.video.detections import Box
from trtkit.video.footage.database import FILE, Database
from trtkit.video.footage.reading import candidates, sightings_of
from trtkit.video.footage.schema import crc
from trtkit.video.footage.settings import QuerySettings, identity
from trtkit.video.footage.writing import source_rows
from trtkit.video.judging import Judge
from trtkit.video.query import Question, Search, spans_of
from trtkit.video.tails import ExpensiveTail
from trtkit.video.tuning.tune import Targets
from trtkit.workspace import BEST

CHEAP, EXPENSIVE, BUNDLE = "cheap", "expensive", "pair"
CLASSES = tuple("0123456789")
ASK = """
import sys
from trtkit import query
label, store, workspace = sys.argv[1:]
answers = query(label, store=store, workspace=workspace, remember=False, limit=1)
list(answers)
print(answers.explanation.first_seconds)
"""
COPIED = ("segments", "clusters", "objects", "sightings", "pictures", "vectors", "ranks")
TABLES = ("sources", "gaps", *COPIED)


@case(
    "--image-size 32 --crops 20 --epochs 1 --seconds 12 --size 320x240 --density 2 --reached 0.2 "
    "--objects 500 --ingests 1 --rounds 1"
)
def video(
    lab: Lab, *, parts=("ingest", "questions", "first"), cheap="resnet18",
    expensive="resnet34", cut=2, precision="fp16", image_size=64, crops=300, epochs=8, seconds=600.0,
    size="1280x720", density=0.8, fps=30.0, top=8, sample=4000, reached=0.99, untuned=False, classes=10,
    objects=100_000, ingests=3, rounds=5, before=0,
) -> None:  # fmt: skip
    """Video search: what questions find, what they cost, how fast footage is indexed."""
    stock, store = lab.stock, lab.stock.root / "store"
    lab.data.update(cheap=cheap, expensive=expensive, cut=cut)
    data = stock.rendered(f"training-{crops}", "footage.py", "--crops", crops) / "crops"
    new = ("--image-size", image_size, *RANDOM, "--epochs", epochs, *adam(1e-3), *LIGHT)
    shared = ("--prefix-from", CHEAP, "--cut", cut, "--augment", 2)
    stock.trained(data, CHEAP, "--arch", cheap, *new)
    stock.trained(data, EXPENSIVE, "--arch", expensive, *new, *shared)
    names = [stock.exported(stock.checkpoint(name, BEST), name) for name in (CHEAP, EXPENSIVE)]
    stock.built(names, cut, precision, "--embeddings", "--bundle", BUNDLE)
    clip = footage(lab, size, seconds, density, fps)
    if "ingest" in parts:
        what = (
            f"ingest of {size}, {fps:g} frames/s, prefix of {cheap} at {image_size} x {image_size}"
        )
        ingest(lab, clip, store, what, ingests, top)
    elif not store.is_dir():
        ingested(lab, clip, store, "--top", top)
    if "questions" in parts and not untuned:
        accuracy_of_answers(lab, store, clip, sample, reached)
    if "questions" in parts:
        timed_questions(lab, store, CLASSES[:classes], cut, rounds, before, tuned=not untuned)
    if "first" in parts:
        first(lab, store, objects, rounds)


def footage(lab: Lab, size: str, seconds: float, density: float, fps: float = 30.0) -> Path:
    """A rendered clip of moving digits, `fps` frames a second."""
    options = ("--size", size, "--seconds", seconds, "--density", density, "--fps", fps)
    name = f"clip-{size}-{seconds:g}-{density:g}-{fps:g}"
    return lab.stock.rendered(name, "footage.py", *options) / "camera-0.mp4"


def ingested(lab: Lab, clip: Path, store: Path, *options: object) -> dict[str, Any]:
    """The report of `trtkit ingest` on a clip."""
    where = ("--store", store, "--bundle", BUNDLE)
    text = lab.stock.trtkit("ingest", clip, *where, "--json", *options)
    return json.loads(text)["sources"][0]


def ingest(lab: Lab, clip: Path, store: Path, what: str, turns: int, top: int) -> None:
    rates: list[float] = []
    for _ in range(turns):
        shutil.rmtree(store, ignore_errors=True)
        report = ingested(lab, clip, store, "--top", top)
        rates.append(report["times_real_time"])
    rate = f"{median(rates):.2f} times real time ({min(rates):.2f} to {max(rates):.2f})"
    counts = ", ".join(f"{report[name]:,} {name}" for name in ("frames", "objects", "sightings"))
    counts += f", {report['map_bytes'] / 2**20:,.0f} MiB of maps, {report['gaps']} gaps"
    lab.figure(what, rate, counts, "faster than real time", median(rates) > 1)
    lab.data["ingest"] = {**report, "times_real_time": rates}


def judge_of(lab: Lab, database: Database, *, remember: bool = False) -> Any:
    """The expensive model, in a `with` block."""
    tail = ExpensiveTail.of_store(database, lab.stock.workspace, BUNDLE, EXPENSIVE)
    return closing(Judge(database, tail.stage.id, tail.load, remember=remember))


def accuracy_of_answers(lab: Lab, store: Path, clip: Path, sample: int, reached: float) -> None:
    """Tune the store and compare its answers with the expensive model on everything and the truth."""
    root = lab.stock.root
    message("Tuning")
    targets = Targets(reached, reached)
    tuned = tune(store=store, workspace=root, targets=targets, sample=sample).tuned
    lab.data["tuned"] = None if tuned.chosen is None else vars(tuned.chosen.choice)
    with Database.open(store) as database:
        ids = [row[0] for row in database.rows("SELECT id FROM objects ORDER BY id")]
        with judge_of(lab, database, remember=True) as judge:
            verdicts = judge.ask(ids)
        truth = truth_of(database, clip, ids)
    returned: dict[str, set[int]] = {}
    for label in CLASSES:
        with query(label, store=store, workspace=root) as answers:
            returned[label] = {number for answer in answers for number in answer.objects}
    model = {number: CLASSES[verdict.label] for number, verdict in verdicts.items()}
    lab.data["found"] = {}
    references = {"the expensive model on everything": model, "the rendered truth": truth}
    for name, labels in references.items():
        wanted = {label: {n for n, own in labels.items() if own == label} for label in CLASSES}
        hits = sum(len(returned[label] & wanted[label]) for label in CLASSES)
        recall = hits / max(1, sum(map(len, wanted.values())))
        precision = hits / max(1, sum(len(returned[label] & {*labels}) for label in CLASSES))
        met = min(recall, precision) >= reached
        target = (f"at least {reached:g} both", met) if labels is model else ()
        values, compared = f"{recall:.4f} and {precision:.4f}", f"{len(labels):,} objects"
        lab.figure(f"recall and precision of ten classes against {name}", values, compared, *target)
        lab.data["found"][name] = {"recall": recall, "precision": precision}


def truth_of(database: Database, clip: Path, ids: list[int]) -> dict[int, str]:
    """The rendered digit of each object whose largest box shows one digit and nothing else."""
    frames, labels = defaultdict(list), {}
    for row in map(json.loads, clip.with_suffix(".truth.jsonl").read_text().splitlines()):
        frames[row["frame"]].append(row)
    for number, sightings in sightings_of(database, ids).items():
        best = max(sightings, key=lambda sighting: sighting.box.area)
        boxes = [(best.box.overlap(Box(*row["box"])), row) for row in frames[best.frame]]
        near = [(overlap, row) for overlap, row in boxes if overlap > 0]
        if len(near) == 1 and near[0][0] > 0.5 and near[0][1]["visible"] > 0.9:
            labels[number] = str(near[0][1]["label"])
    return labels


def timed_questions(
    lab: Lab, store: Path, labels: Sequence[str], cut: int, rounds: int, before: int, *, tuned: bool
) -> None:
    """Seconds of a question in each way, with its tail loaded already."""
    # Without its maps a store is answered from pictures, by the whole expensive model.
    bare = store.with_name(f"{store.name}-bare")
    shutil.rmtree(bare, ignore_errors=True)
    shutil.copytree(store, bare, ignore=shutil.ignore_patterns("maps*"))
    with ExitStack() as stack:
        database, without = (stack.enter_context(Database.open(own)) for own in (store, bare))
        from_pictures = stack.enter_context(judge_of(lab, without))
        from_maps = stack.enter_context(judge_of(lab, database))
        remembering = stack.enter_context(judge_of(lab, database, remember=True))
        ids = [row[0] for row in database.rows("SELECT id FROM objects ORDER BY id")]
        objects, ask = candidates_of(database, labels), partial(ask_all, database, labels)

        def of_candidates(judge: Judge) -> float:
            return fmean(timed(partial(judge.compute, own)) for own in objects)

        competitors: dict[str, Callable[[], float]] = {
            "candidates": partial(of_candidates, from_pictures),
            "everything": lambda: timed(partial(from_pictures.compute, ids)),
            "feature maps": partial(of_candidates, from_maps),
        }
        if tuned:
            competitors["clusters"] = partial(ask, from_maps)
            competitors["remembered"] = partial(ask, remembering)
        for judge in (from_pictures, from_maps, remembering):
            judge.compute(ids[: judge.batch])
        ask(remembering)
        if from_pictures.judged.hits or from_maps.judged.recomputed:
            raise RuntimeError("Pictures and feature maps were not told apart")
        pictures = from_pictures.judged.recomputed
        from_pictures.compute(ids)
        lab.data["counts"] = {
            "objects": len(ids), "candidates": fmean(map(len, objects)), "before": before,
            "pictures": from_pictures.judged.recomputed - pictures,
        }  # fmt: skip
        title = f"a question, mean of {len(labels)} classes, cut {cut}"
        ratios = lab.contest(title, competitors, rounds, warmup=0)
    report_questions(lab, ratios, lab.data["results"][title]["samples"], tuned=tuned)


def questions_of(database: Database, labels: Sequence[str]) -> list[Question]:
    """Each class in all footage, as the store is tuned."""
    spans = spans_of(source_rows(database), (), None, None)
    settings = QuerySettings.of(database)
    return [Question(label, spans, settings.top, settings.least) for label in labels]


def candidates_of(database: Database, labels: Sequence[str]) -> list[list[int]]:
    """For each class the ids of the objects that may show it."""
    objects = []
    for question in questions_of(database, labels):
        spans, score = question.spans, (question.top, question.least)
        label = CLASSES.index(question.label)
        rows = [row for span in spans for row in candidates(database, label, span, *score)]
        objects.append([row.object for row in rows])
    return objects


def ask_all(database: Database, labels: Sequence[str], judge: Judge) -> float:
    """Mean seconds of a question for each class, as `trtkit query` asks it."""
    ask = partial(Search, database, identity(database), judge, CLASSES)
    searches = map(ask, questions_of(database, labels))
    return fmean(timed(partial(deque, own.appearances(), maxlen=0)) for own in searches)


def report_questions(lab: Lab, ratios, samples, *, tuned: bool) -> None:
    what = "question on stored feature maps instead of the whole model"
    published = "9.6% (cut 4) and 17.5% (cut 7) published"
    lab.figure(what, f"{1 - ratios['feature maps']:.1%} saved", published)
    counts = lab.data["counts"]
    before = counts["before"]
    if before:
        # Each object had one picture, which the whole model would have seen.
        scale = before / counts["pictures"]
        samples = {**samples, "before": [scale * seconds for seconds in samples["everything"]]}
        ratios = {**ratios, "before": scale * ratios["everything"]}
    ways = [
        ("nothing remembered, against the candidates", "candidates", "clusters", 0),
        ("verdicts remembered, against the candidates", "candidates", "remembered", 5),
        ("nothing remembered, against every object", "everything", "clusters", 0),
    ]
    if before:
        what = f"nothing remembered, against the {before:,} objects before tracks, by the time of a picture"
        ways.append((what, "before", "clusters", 20))
    for what, base, way, least in ways if tuned else ():
        times, pairs = ratios[base] / ratios[way], zip(samples[base], samples[way], strict=True)
        by_round = "by round " + ", ".join(f"{slow / fast:.1f}" for slow, fast in pairs)
        target = (f"at least {least} times", times >= least) if least else ()
        what, measured = f"question with clusters, {what}", f"{times:.1f} times as fast"
        lab.figure(what, measured, by_round, *target)


def first(lab: Lab, store: Path, objects: int, rounds: int) -> None:
    """The first answer from a large store, with and without graphs that were optimised before."""
    large = lab.stock.root / f"store-{objects}"
    if not large.is_dir():
        message(f"Filling a store with {objects} objects")
        fill(store, large, objects)
    samples: dict[str, list[float]] = {"kept": [], "off": []}
    first_seconds(lab, large, CLASSES[0], optimised=True)
    for label in CLASSES * rounds:
        for graphs, seconds in samples.items():
            answer = first_seconds(lab, large, label, optimised=graphs == "kept")
            seconds += [] if answer is None else [answer]
    title = (
        f"first appearance, {objects:,} objects, {len(samples['off'])} answers, optimised graphs"
    )
    lab.compare(title, samples, under={"kept": 0.3})
    lab.data["first"] = samples


def first_seconds(lab: Lab, store: Path, label: str, *, optimised: bool) -> float | None:
    """Seconds to the first appearance in a process of its own; None for a class without any."""
    command = [sys.executable, "-c", ASK, label, str(store), str(lab.stock.root)]
    environment = {**os.environ, **({} if optimised else {"TRTKIT_GRAPHS": "off"})}
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    return None if printed.strip() == b"None" else float(printed)


def fill(store: Path, large: Path, objects: int) -> None:
    """Copy a store and repeat its objects, each copy later in time."""
    part = large.with_name(f".{large.name}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(store, part)
    with closing(sqlite3.connect(part / FILE)) as sql:
        # The triggers that seal the rows call it.
        sql.create_function("crc", 1, crc, deterministic=True)
        count, last, clusters, segments, end = sql.execute(
            "SELECT count(*), max(id), (SELECT max(id) FROM clusters), "
            "(SELECT max(number) + 1 FROM segments), (SELECT max(end_us) FROM segments) FROM objects"
        ).fetchone()
        steps = {"object": last, "representative": last, "cluster": clusters, "segment": segments}
        steps |= {"number": segments, "start_us": end + 1_000_000, "end_us": end + 1_000_000}
        sql.execute("ATTACH ? AS original", (str(store / FILE),))
        for table in COPIED:
            own = {**steps, "id": clusters if table == "clusters" else last}
            names = [row[1] for row in sql.execute(f"PRAGMA table_info({table})")]
            moved = (f"{name} + ? * {own[name]}" if name in own else name for name in names)
            moved = f"INSERT INTO {table} SELECT {', '.join(moved)} FROM original.{table}"
            for copy in range(1, -(-objects // count)):
                sql.execute(moved, (copy,) * moved.count("?"))
        sql.execute("DELETE FROM verdicts")
        sql.commit()
    part.rename(large)
