"""Every cut of a model, measured and predicted."""

import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

from case import Lab, case
from stock import cached, classify, photo_files, prepared

from trtkit import Pipeline, load, profile
from trtkit.benchmark.protocol import timed
from trtkit.building.cut import choose_cut
from trtkit.building.request import BuildSettings
from trtkit.costs.choice import DEFAULT_HIT_RATE
from trtkit.costs.profile import Profile
from trtkit.serialization import to_plain

CLOSE = 0.1


@case("--models resnet18 --image-size 64 --photos 2 --rounds 2")
def cuts(
    lab: Lab, *, models=("resnet50", "resnet152", "vgg16"), precision="fp16", photos=6,
    image_size=224, batch=1, rounds=5,
) -> None:  # fmt: skip
    """Every cut of a model, beside what its profile predicts and what `--cut auto` takes."""
    stock, folder = lab.stock, lab.stock.photos(photos)
    for model in models:
        name = stock.exported(model, image_size=image_size)
        measure = partial(profile, name, precision=precision, batch=batch, workspace=stock.root)
        predicted = measure()
        settings = BuildSettings(precision=precision, backend="onnxruntime")
        choice = choose_cut(stock.workspace, [name], settings)
        whole = load(stock.built([name], 0, precision))
        bundles = {c.cut: stock.split(name, c.cut, precision) for c in predicted.cuts}
        classify(whole, folder, batch=batch)
        with stock.scratch() as scratch:
            # All cuts of a model do not fit into memory: each is loaded for its turn.
            competitors = {
                cut: partial(shares_of_whole, bundle, Path(scratch), whole, folder, batch)
                for cut, bundle in bundles.items()
            }
            samples = lab.rounds(name, competitors, rounds)
        for bundle in bundles.values():
            shutil.rmtree(bundle)
        rounds_of = {cut: {kind: own[cut] for kind, own in samples.items()} for cut in bundles}
        lab.data[name] = {"chosen": choice.cut, "why": list(choice.why), "rounds": rounds_of}
        report(lab, name, predicted, measure(), choice.cut, rounds_of)


def shares_of_whole(
    bundle: Path, cache: Path, whole: Pipeline, folder: Path, batch: int
) -> Mapping[str, float]:
    """Times of a cut, warm and cold, as shares of the unsplit model's before and after it."""
    shutil.rmtree(cache, ignore_errors=True)
    unsplit = partial(classify, whole, folder, batch=batch)
    with cached(bundle, cache) as pipeline:
        # A session allocates in its first run.
        pipeline.logits(prepared(folder, pipeline.manifest.preprocessing)[:batch])
        before = timed(unsplit)

        def fill() -> None:
            classify(pipeline, folder, batch=batch)
            pipeline.cache.store.flush()

        cold, hits = timed(fill), partial(classify, pipeline, batch=batch, hits=True)
        # A pass of the deepest cuts takes as long as starting its threads: one stream of several.
        passes = max(1, round(before / timed(partial(hits, folder))))
        warm = timed(partial(hits, *photo_files(folder) * passes)) / passes
    without = (before + timed(unsplit)) / 2
    return {"warm": warm / without, "cold": cold / without}


def report(lab: Lab, name: str, predicted: Profile, again: Profile, chosen: int, rounds) -> None:
    """`rounds`: warm and cold shares of the unsplit model's time, by cut."""
    rate, rows, measured = DEFAULT_HIT_RATE, {}, {}
    foreseen, repeated = warm_shares(predicted), warm_shares(again)
    for cut in predicted.cuts:
        number, share = cut.cut, predicted.expected(cut, rate) / predicted.computed
        warm, cold = (median(rounds[number][kind]) for kind in ("warm", "cold"))
        measured[number] = {"warm": warm, "cold": cold}
        measured[number]["expected"] = expected = rate * warm + (1 - rate) * cold
        rows[number] = {"block": cut.block, "warm": foreseen[number], "expected": share}
        lab.figure(
            f"{name}, cut {number} ({cut.block}){', `--cut auto`' if number == chosen else ''}",
            f"warm {warm:.3f}, expected {expected:.3f}",
            f"predicted {foreseen[number]:.3f} ({warm / foreseen[number] - 1:+.1%}), {share:.3f}",
        )
    lab.data[name] |= {"profile": to_plain(predicted), "predicted": rows, "measured": measured}
    total = sum(block.seconds for block in predicted.blocks) / predicted.whole - 1
    what = "sum of the blocks' times against the whole model"
    lab.figure(f"{name}: {what}", f"{total:+.1%}", "", "within 10%", abs(total) <= CLOSE)
    text, close = within(measured[cut]["warm"] / foreseen[cut] - 1 for cut in measured)
    lab.figure(f"{name}: warm time, predicted against measured", text, "", "within 10%", close)
    text, _ = within(repeated[cut] / foreseen[cut] - 1 for cut in measured)
    lab.figure(f"{name}: a second profile against the first (control)", text)
    warms = [own["warm"] for own in rounds.values()]
    if len(warms[0]) > 1:
        text, _ = within(median(own[1::2]) / median(own[::2]) - 1 for own in warms)
        lab.figure(f"{name}: odd rounds against even rounds (control)", text)
    least = min(measured, key=lambda cut: measured[cut]["expected"])
    best = measured[least]["expected"]
    slower = measured[chosen]["expected"] / best if chosen else float("nan")
    what = f"{name}: `--cut auto` (cut {chosen}) against the best measured (cut {least})"
    lab.figure(what, f"{slower:.3f} times", "", "at most 1.03 times", slower <= 1.03)


def warm_shares(predicted: Profile) -> dict[int, float]:
    """For each cut, what a hit is predicted to take of the unsplit model's time."""
    return {cut.cut: predicted.warm(cut) / predicted.computed for cut in predicted.cuts}


def within(off: Iterable[float]) -> tuple[str, bool]:
    """How many are within the target, and the worst; whether all are."""
    off = list(off)
    close = sum(abs(value) <= CLOSE for value in off)
    return f"{close} of {len(off)} cuts, the worst {max(off, key=abs):+.1%}", close == len(off)
