"""Two reports side by side: what is a change, what is noise, and what counts against the new one."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench_reports import MACHINE, OWN, contest, figure, report, typed, usual
from trtkit import TrtkitError
from trtkit.benchmark import compare as comparing
from trtkit.benchmark.compare import Change, slower
from trtkit.benchmark.results import read_report
from trtkit.benchmark.statistics import Summary, ratio_interval

TORCH = figure("torch", 200.0)


def compare(new: dict[str, Any], old: dict[str, Any]) -> tuple[Change, ...]:
    return comparing.compare(typed(new), typed(old))


def warnings(new: dict[str, Any], old: dict[str, Any]) -> tuple[str, ...]:
    return comparing.warnings(typed(new), typed(old))


def one(new: dict[str, Any], old: dict[str, Any], **changed: Any) -> Change:
    """How the one trtkit figure changed, beside a torch that did not."""
    changes = compare(report(contest(TORCH, new, **changed)), report(contest(TORCH, old)))
    return next(change for change in changes if change.competitor.startswith("trtkit"))


def verdicts(new: dict[str, Any], old: dict[str, Any]) -> dict[str, str]:
    return {change.competitor: change.verdict for change in compare(new, old)}


def test_a_ratio_whose_interval_is_apart_has_changed():
    change = one(figure(OWN, 250.0, 1.25), figure(OWN, 300.0, 1.5))
    assert (change.verdict, change.problem, change.unit) == ("slower", True, "times the baseline")
    assert (change.bundle, change.tail, change.measure, change.batch, change.competitor) == (
        "flowers", "resnet50", "compute", 8, OWN,
    )  # fmt: skip
    assert (change.old, change.new) == (1.5, 1.25)
    assert change.change == pytest.approx(-1 / 6)
    change = one(figure(OWN, 300.0, 1.5), figure(OWN, 250.0, 1.25))
    assert (change.verdict, change.problem) == ("faster", False)
    assert change.change == pytest.approx(0.2)


def test_overlapping_intervals_are_noise_however_far_apart_the_medians():
    change = one(figure(OWN, 200.0, 1.0, wide=0.2), figure(OWN, 300.0, 1.3, wide=0.2))
    assert change.verdict == "same" and change.change == pytest.approx(-0.2308, abs=1e-4)


def test_less_than_three_percent_is_the_luck_of_a_start():
    narrow = {"wide": 0.001}
    assert one(figure(OWN, 1, 1.029, **narrow), figure(OWN, 1, 1.0, **narrow)).verdict == "same"
    assert one(figure(OWN, 1, 1.031, **narrow), figure(OWN, 1, 1.0, **narrow)).verdict == "faster"
    assert one(figure(OWN, 1, 1.0, **narrow), figure(OWN, 1, 1.031, **narrow)).verdict == "slower"


def test_a_slow_day_of_the_whole_machine_is_none_of_trtkit():
    then = report(contest(TORCH, figure(OWN, 300.0, 1.5)))
    now = report(contest(figure("torch", 100.0), figure(OWN, 150.0, 1.5)))
    assert verdicts(now, then) == {"torch": "slower", OWN: "same"}
    assert not slower(compare(now, then))
    torch = compare(now, then)[0]
    assert (torch.unit, torch.old, torch.new, torch.problem) == ("images/s", 200.0, 100.0, False)
    assert torch.why == "a baseline, which does not count"


def test_without_a_common_ratio_the_spread_of_the_rounds_decides():
    # 250 +- 5 % and 300 +- 5 % are apart, +- 15 % are not.
    apart = one(figure(OWN, 250.0, 1.0), figure(OWN, 300.0, 1.5), baseline="onnxruntime")
    assert (apart.unit, apart.verdict, apart.problem) == ("images/s", "slower", True)
    assert (apart.old, apart.new) == (300.0, 250.0)
    wide = {"spread": 0.15}
    near = one(figure(OWN, 250.0, 1, **wide), figure(OWN, 300.0, 1.5, **wide), baseline="x")
    assert near.verdict == "same"


def test_trtkit_as_its_own_baseline_counts():
    """As on a board without torch."""
    then = report(contest(figure(OWN, 300.0), baseline=OWN))
    now = report(contest(figure(OWN, 200.0), baseline=OWN))
    assert slower(compare(now, then)) and not slower(compare(then, now))
    # On another machine it says nothing, so that nothing was compared.
    now["machine"]["processor"] = "Another"
    assert verdicts(now, then) == {OWN: "unclear"} and slower(compare(now, then))
    assert warnings(now, then)[-1].startswith("Nothing could be compared")


@pytest.mark.parametrize(
    ("rounds", "verdict"), [(1, "unclear"), (3, "unclear"), (4, "slower"), (20, "slower")]
)
def test_few_rounds_tell_nothing(rounds, verdict):
    change = one(figure(OWN, 100.0, 0.5, rounds=rounds), figure(OWN, 300.0, 1.5))
    assert change.verdict == verdict and bool(change.why) == (verdict == "unclear")


def test_what_worked_and_fails_now_counts_when_it_is_trtkit():
    then = report(contest(TORCH, figure("openvino", 1.0, 1.0), figure(OWN, 300.0, 1.5)))
    broken = report(contest(TORCH, figure("openvino", 1.0, 1.0), figure(OWN, problem="No plan.")))
    failed = compare(broken, then)[2]
    assert (failed.verdict, failed.problem, failed.why) == ("missing", True, "No plan.")
    assert (failed.old, failed.new, failed.change) == (300.0, None, None)
    assert slower(compare(broken, then))
    gone = report(contest(TORCH, figure(OWN, 300.0, 1.5), figure("tensorrt", 1.0, 1.0)))
    assert verdicts(gone, then) == {
        "torch": "same", OWN: "same", "tensorrt": "new", "openvino": "missing",
    }  # fmt: skip
    assert not slower(compare(gone, then))
    renamed = report(contest(TORCH, figure("trtkit int8 on onnxruntime", 400.0, 2.0)))
    assert slower(compare(renamed, then))


def test_a_contest_that_was_not_asked_for_is_told_and_does_not_count():
    own = figure(OWN, 300.0, 1.5)
    then = report(contest(TORCH, own), contest(own, batch=1))
    now = report(then["contests"][0])
    changes = compare(now, then)
    assert [(c.batch, c.verdict) for c in changes] == [(8, "same"), (8, "same"), (1, "missing")]
    assert changes[2].why == "the contest was not measured" and not slower(changes)
    assert warnings(now, then) == (
        "Not measured now, but then: flowers, resnet50: compute, batch 1.",
    )


def test_bundles_measured_together_are_found_in_whatever_order():
    """The bundle built last comes first, and gives the contest its name."""
    fp16, fp32 = figure(OWN, 300.0, 1.5), figure("trtkit fp32 on onnxruntime", 210.0, 1.05)
    both = ["flowers", "flowers-fp32"]
    then = report(contest(TORCH, fp16, fp32, bundles=both))
    now = report(contest(TORCH, fp32, fp16, bundle="flowers-fp32", bundles=both[::-1]))
    assert verdicts(now, then) == dict.fromkeys(("torch", fp32["competitor"], OWN), "same")
    assert warnings(now, then) == () and not slower(compare(now, then))
    # Only one of the two now, under either name: the other is missing, not the contest.
    now = report(contest(TORCH, fp32, bundle="flowers-fp32"))
    assert verdicts(now, then)[OWN] == "missing" and slower(compare(now, then))
    now["contests"][0]["tail"] = "other"
    assert not any(change.verdict == "same" for change in compare(now, then))


def test_nothing_in_common_is_no_pass():
    then = report(contest(TORCH, figure(OWN, 300.0, 1.5)))
    now = report(contest(TORCH, figure(OWN, 300.0, 1.5), bundle="other"))
    assert slower(compare(now, then)) and slower(compare(now, report()))
    assert not slower(compare(report(), report()))


def test_wrong_now_counts_however_fast():
    fast = figure(OWN, 900.0, 4.5, agreement=0.98)
    right = figure(OWN, 300.0, 1.5)
    change = one(fast, right)
    assert (change.verdict, change.problem) == ("wrong", True)
    assert change.why == "98.0% of its best classes are the reference's"
    # A speed that meant nothing is not compared with.
    assert (one(right, fast).verdict, one(right, fast).problem) == ("new", False)
    assert (one(fast, fast).verdict, one(fast, fast).problem) == ("wrong", False)
    assert one(figure(OWN, 300, 1.5, agreement=0.99), right).verdict == "same"


def test_warnings_name_what_differs():
    then, now = report(), report()
    assert warnings(now, then) == ()
    gpu = {"name": "NVIDIA H200", "driver": "580"}
    now["machine"] = {**MACHINE, "cores": 4, "gpus": [gpu], "backends": [], "trtkit": "9"}
    now["machine"]["features"] = [{"packages": {"torch": "2.10.0"}}]
    now["threads"] = 4
    machine, versions, threads = warnings(now, then)
    assert "cores: 2 then, 4 now; gpus: none then, NVIDIA H200 now" in machine
    assert "(torch: 2.9.1 then, 2.10.0 now)" in versions
    assert "(threads: 2 then, 4 now)" in threads
    again = copy.deepcopy(now)
    again["machine"]["gpus"][0]["driver"] = "590"
    assert warnings(again, now) == ()
    photos = (report(contest(TORCH, photos=count)) for count in (8, 32))
    assert warnings(*photos) == ("Another number of photos made a round then.",)


def test_a_report_without_a_machine_can_be_compared():
    old = report(contest(TORCH, figure(OWN, 300.0, 1.5)))
    for name in ("machine", "threads", "settings", "notes", "command", "created"):
        del old[name]
    new = report(contest(TORCH, figure(OWN, 200.0, 1.0)))
    assert verdicts(new, old) == {"torch": "same", OWN: "slower"} and warnings(new, old) == ()


@st.composite
def figures(draw, name):
    if draw(st.booleans()) and draw(st.booleans()):
        return figure(name)
    rates = st.floats(1, 1e4)
    return figure(
        name, draw(rates), draw(st.none() | st.floats(0.1, 10)), wide=draw(st.floats(0, 0.5)),
        spread=draw(st.floats(0, 0.5)), rounds=draw(st.integers(1, 30)),
        agreement=draw(st.sampled_from([None, 1.0, 0.99, 0.5])),
    )  # fmt: skip


@st.composite
def reports(draw):
    names = ["torch", "onnxruntime", OWN, f"{OWN}, cache warm"]
    contests = []
    for batch in draw(st.lists(st.sampled_from([1, 2, 8]), unique=True)):
        chosen = draw(st.lists(st.sampled_from(names), unique=True))
        made = [draw(figures(name)) for name in chosen]
        contests.append(
            contest(*made, batch=batch, baseline=draw(st.sampled_from(["torch", "onnxruntime"])))
        )
    cores = draw(st.sampled_from([2, 2, 4]))
    return report(*contests, machine={**MACHINE, "cores": cores})


@settings(deadline=None)
@given(reports())
def test_a_report_beside_itself_has_no_change(made):
    changes = compare(made, json.loads(json.dumps(made)))
    assert {change.verdict for change in changes} <= {"same", "unclear", "wrong"}
    assert not any(change.problem for change in changes)
    assert not any(change.change for change in changes)


@settings(deadline=None)
@given(reports(), reports())
def test_the_other_way_round_slower_is_faster(new, old):
    there = {(c.batch, c.competitor): c for c in compare(new, old)}
    back = {(c.batch, c.competitor): c for c in compare(old, new)}
    assert there.keys() == back.keys()
    for key, change in there.items():
        other = back[key]
        if change.change is not None and other.change is not None:
            turned = {"slower": "faster", "faster": "slower"}.get(change.verdict, change.verdict)
            assert other.verdict == turned
            assert (1 + change.change) * (1 + other.change) == pytest.approx(1)
            assert (change.old, change.new) == (other.new, other.old)
        else:
            assert {change.verdict, other.verdict} <= {"missing", "new", "wrong"}


def test_the_same_program_measured_again_is_seldom_called_slower():
    """Of 400 pairs of runs with a tenth of noise; a tenth less speed is nearly always seen."""
    chance = random.Random(5)

    def run(speed: float) -> dict[str, Any]:
        base = [chance.lognormvariate(0, 0.05) for _ in range(25)]
        own = [chance.lognormvariate(0, 0.05) / speed for _ in range(25)]
        ratio, seconds = ratio_interval(base, own), Summary.of(own)
        made = figure(OWN, 32 / seconds.median, 1.0)
        made["ratio"] = {"low": ratio.low, "median": ratio.median, "high": ratio.high}
        return made

    same = [one(run(1.5), run(1.5)).verdict for _ in range(400)]
    assert sum(verdict != "same" for verdict in same) <= 4
    less = [one(run(1.3), run(1.5)).verdict for _ in range(100)]
    assert less.count("slower") > 90 and "faster" not in less


def test_reading_a_report_back(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({**usual(), "clocks": {"mhz": 1}}))
    saved = read_report(path)
    assert saved.plain == {**usual(), "clocks": {"mhz": 1}} and saved.report == typed(usual())


# Where a figure is in the file.
FIGURE = "`$.contests[0].figures[0]"


def broken(**changed: Any) -> dict[str, Any]:
    return report(contest({**figure(OWN, 300.0, 1.5), **changed}))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "Expected `object`, got `array`"),
        ({"medians": 3}, "Object missing required field `contests`"),
        (report(3), "Expected `object`, got `int` - at `$.contests[0]`"),
        (
            report(contest(TORCH), contest(batch="8")),
            "Expected `int`, got `str` - at `$.contests[1].batch`",
        ),
        (report(contest(photos=0)), "Expected `int` >= 1 - at `$.contests[0].photos`"),
        (report(contest(bundles="a")), "Expected `array`, got `str` - at `$.contests[0].bundles`"),
        (
            report(contest(figures=None)),
            "Expected `array`, got `null` - at `$.contests[0].figures`",
        ),
        (report(contest({})), f"Object missing required field `competitor` - at {FIGURE}`"),
        (broken(images_per_second="fast"), f"got `str` - at {FIGURE}.images_per_second`"),
        (
            broken(images_per_second=float("nan")),
            f"Expected `float` > 0.0 - at {FIGURE}.images_per_second`",
        ),
        (broken(images_per_second=float("inf")), f" - at {FIGURE}.images_per_second`"),
        (broken(images_per_second=0), f"Expected `float` > 0.0 - at {FIGURE}.images_per_second`"),
        (broken(seconds=None), f"`images_per_second` comes without `seconds` - at {FIGURE}`"),
        (
            broken(seconds={**TORCH["seconds"], "p10": 3, "median": 2, "p90": 3, "p99": 3}),
            f"Percentiles are not in order - at {FIGURE}.seconds`",
        ),
        (
            broken(seconds={**TORCH["seconds"], "p10": 0}),
            f"Percentiles are not in order - at {FIGURE}.seconds`",
        ),
        (
            broken(seconds={**TORCH["seconds"], "count": 0}),
            f"Expected `int` >= 1 - at {FIGURE}.seconds.count`",
        ),
        (broken(seconds={"count": 1}), f"missing required field `median` - at {FIGURE}.seconds`"),
        (
            broken(ratio={"low": 2, "median": 1, "high": 3}),
            f"from 2 to 3 does not contain its median 1. - at {FIGURE}.ratio`",
        ),
        (
            broken(ratio={"low": -1, "median": 1, "high": 3}),
            f"A ratio is not above 0 and finite - at {FIGURE}.ratio`",
        ),
        (broken(agreement="all"), f"got `str` - at {FIGURE}.agreement`"),
        (report(machine=[]), "Expected `object`, got `array` - at `$.machine`"),
        (
            report(machine={"gpus": ["H200"]}),
            "Expected `object`, got `str` - at `$.machine.gpus[0]`",
        ),
        (report(threads="two"), "Expected `int | null`, got `str` - at `$.threads`"),
        (report(notes="few"), "Expected `array`, got `str` - at `$.notes`"),
    ],
)
def test_what_is_no_report_is_said_in_a_sentence(tmp_path, value, reason):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(value))
    with pytest.raises(TrtkitError) as caught:
        read_report(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a report of trtkit bench (") and reason in message
    assert message.endswith("give a file that `trtkit bench --json` wrote.")


def test_a_file_that_is_missing_or_no_json(tmp_path):
    with pytest.raises(TrtkitError, match=r"old\.json cannot be read \(No such file"):
        read_report(tmp_path / "old.json")
    for content in (b"", b"bundle\tmodel", b"\xff\xfe\x00", b"[" * 100_000):
        (tmp_path / "old.json").write_bytes(content)
        with pytest.raises(TrtkitError, match=r"old\.json is not JSON; give a file that"):
            read_report(tmp_path / "old.json")
