"""Measure the query time that the cache saves, beside the published figures.

A query runs the expensive model over its candidates, whose feature maps at a cut are in the cache
since they were ingested. Saved is 1 - time with / time without the cache:
compute: the tail alone on feature maps in memory, against the whole model, unsplit, in memory;
end to end: from files to the best classes, cache warm against cache off.

Every round is a pass over all candidates by each, in turns, in one process; files and cache lie in
the page cache of the system. The published figures are those of Shen, Dong and He 2022
(arXiv:2212.06905, table 1), measured on their machine. The share of the model's FLOPs that
lies before the cut is what computing alone could save.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from common import (
    Competitors,
    Outcome,
    Samples,
    Table,
    Target,
    argument_parser,
    in_turns,
    positive,
    run,
)
from subjects import (
    Subject,
    classify,
    compute,
    exported,
    in_batches,
    off,
    photos,
    trtkit,
    warm,
)

PUBLISHED = {("resnet152", 4): 0.096, ("resnet152", 7): 0.175}
SOURCE = "Shen, Dong and He 2022 (arXiv:2212.06905, table 1)"


def flops_shares(root: Path, model: str) -> dict[int, float]:
    cuts = json.loads(trtkit("cuts", exported(root, model), "--json", "--workspace", root))
    return {point["cut"]: point["flops_share"] for point in cuts}


def competitors_of(
    options: argparse.Namespace, root: Path, folder: Path, stack: ExitStack
) -> Competitors:
    whole = Subject.make(root, options.model, 0, options.precision)
    batches = in_batches(whole.images(folder), options.batch)
    competitors: dict[str, Callable[[], float]] = {}
    competitors["whole model, compute"] = compute(whole.chain.logits, batches)
    for cut in options.cut:
        subject = Subject.make(root, options.model, cut, options.precision)
        cache = stack.enter_context(tempfile.TemporaryDirectory(dir=root, prefix="saved-"))
        cached = stack.enter_context(subject.pipeline(Path(cache)))
        classify(cached, folder, options.batch)
        competitors[f"tail of cut {cut}, compute"] = compute(
            subject.chain.from_features, subject.maps(batches)
        )
        competitors[f"cut {cut}, cache off, end to end"] = partial(
            off, subject.pipeline(), folder, options.batch
        )
        competitors[f"cut {cut}, cache warm, end to end"] = partial(
            warm, cached, folder, options.batch
        )
    return competitors


def saved_at(samples: Samples, cut: int) -> dict[str, float]:
    """The shares of time saved at a cut, from the medians."""
    medians = {name: statistics.median(taken) for name, taken in samples.items()}
    tail, whole = medians[f"tail of cut {cut}, compute"], medians["whole model, compute"]
    hit = medians[f"cut {cut}, cache warm, end to end"]
    without = medians[f"cut {cut}, cache off, end to end"]
    return {"compute": 1 - tail / whole, "end to end": 1 - hit / without}


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    folder = photos(root, options.photos)
    flops = flops_shares(root, options.model)
    title = f"{options.model}, {options.precision}, {options.photos} photos, batch {options.batch}"
    with ExitStack() as stack:
        competitors = competitors_of(options, root, folder, stack)
        samples = in_turns(competitors, options.rounds, title=title)
    outcome.add_timing(f"{title}, one pass", samples, "whole model, compute")
    rows, data = [], {}
    for cut in options.cut:
        saved = saved_at(samples, cut)
        published = PUBLISHED.get((options.model, cut))
        beside = "none" if published is None else f"{published:.1%}"
        shares = [f"{share:.1%}" for share in (saved["compute"], saved["end to end"], flops[cut])]
        rows.append((str(cut), *shares, beside))
        data[str(cut)] = {**saved, "flops_share": flops[cut], "published": published}
        for kind, share in saved.items():
            what = f"Query time saved by the cache, {kind}, cut {cut}, {title}"
            outcome.targets.append(Target(what, f"beside {beside} published", f"{share:.1%}"))
    columns = ("cut", "compute", "end to end", "FLOPs before the cut", "published")
    outcome.tables.append(Table(f"Query time saved; published: {SOURCE}", columns, tuple(rows)))
    outcome.data["saved"] = data
    outcome.data["source"] = SOURCE
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=5)
    parser.add_argument("--model", default="resnet152", help="architecture, default resnet152")
    parser.add_argument("--cut", type=positive, nargs="+", default=[4, 7], help="default 4 7")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="fp16")
    parser.add_argument("--photos", type=positive, default=32, help="default 32")
    parser.add_argument("--batch", type=positive, default=8, help="default 8")
    run(parser, measure)


if __name__ == "__main__":
    main()
