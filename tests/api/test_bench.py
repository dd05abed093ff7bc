"""trtkit bench with real engines, and what it refuses. How fast anything was is not tested."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import psutil
import pytest

import trtkit
from tests.engines.simulated import install
from tests.pictures import write_photos
from tests.reports import recorded
from trtkit.benchmark import kinds, session
from trtkit.benchmark.clocks import Clocks, Reading
from trtkit.benchmark.results import Contest
from trtkit.cpu import usable_cores
from trtkit.errors import TrtkitError
from trtkit.reporting import Silent, reporting
from trtkit.serialization import to_plain, write_json
from trtkit.workspace import Workspace


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, count=3, size=(90, 70))
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where all temporary folders of a run are."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def left_in(scratch: Path) -> list[Path]:
    # ONNX Runtime has a file of its own for the whole system there.
    return [path for path in scratch.iterdir() if path.name != ".ses"]


@pytest.fixture
def baselines(monkeypatch):
    """Compiling takes a minute; it has a test of its own."""
    monkeypatch.setattr(session, "baselines_for", lambda backend: ("torch", "onnxruntime"))


@pytest.fixture
def precisions(built, tmp_path):
    """A workspace whose last bundle, fp16, is there as if in fp32 too, and others that are not it."""
    place = Workspace(tmp_path / "precisions")
    first = Workspace(built).bundles()[0]

    def add(name: str, age: int, **changes) -> None:
        folder = place.engines / name
        shutil.copytree(first, folder)
        manifest = json.loads((folder / "bundle.json").read_text())
        write_json(folder / "bundle.json", {**manifest, "name": name, **changes})
        os.utime(folder / "bundle.json", (10**9 - age, 10**9 - age))

    add("digits-fp16", 0)
    add("digits-fp32", 1, precision="fp32")
    add("digits-older", 2, precision="fp32")
    add("digits-cut1", 3, precision="fp32", cut=1)
    add("digits-elsewhere", 4, precision="int8", backend="tensorrt")
    add("other", 5, precision="int8", models={"resnet18": "0" * 64})
    return place.root


def ended(**changes) -> Contest:
    """A contest that was held, without figures."""
    options = {
        "bundle": "b", "tail": "t", "measure": "compute", "batch": 1, "photos": 1,
        "baseline": "torch", "rounds": 1, "stopped": "out of time", "figures": (),
    }  # fmt: skip
    return Contest(**{**options, **changes})


class Watching(Silent):
    """A reporter that calls a function with each phase that begins."""

    def __init__(self, advance) -> None:
        self._advance = advance

    def advance(self, phase: str, share: float) -> None:
        self._advance(phase)


@pytest.fixture
def held(monkeypatch):
    """The contests that were to be held, none of which was."""
    calls = []

    def hold(specs, baseline, settings):
        calls.append((specs, baseline, settings))
        spec = next(iter(specs.values()))
        return ended(tail=spec.tail, measure=spec.measure, batch=spec.batch)

    monkeypatch.setattr(session, "hold", hold)
    return calls


@pytest.fixture(scope="module")
def full_built(make_once, full_exports):
    """A workspace with resnet18 as torch rebuilds it, cut 2, fp16."""

    def make(root: Path) -> None:
        (root / "export").symlink_to(full_exports)
        trtkit.build(["resnet18"], cut=2, precision="fp16", workspace=root)

    return make_once("full-built", make)


@pytest.mark.slow
@pytest.mark.parametrize(("measure", "competitors"), [("compute", 3), ("end to end", 5)])
def test_a_bundle_against_its_baselines(
    full_built, photos, baselines, scratch, measure, competitors
):
    with recorded() as reports:
        report = trtkit.bench(
            [photos], tails=["resnet18"], batches=[2], count=4, seconds=1e-6, threads=1,
            measures=measure, workspace=full_built,
        )  # fmt: skip
    (contest,) = report.contests
    assert contest.measure == measure
    assert reports.messages == [f"{contest.bundle}, resnet18: {measure}, batch 2"]
    assert any(phase.startswith("measuring ") for phase, _ in reports.phases)
    assert contest.photos == 3 and contest.baseline == "torch" and contest.rounds == 1
    assert contest.clocks.after.seconds > contest.clocks.before.seconds
    for figure in contest.figures:
        assert figure.problem is None, figure
        assert figure.agreement == 1 and figure.images_per_second > 0
    assert len(contest.figures) == competitors
    assert "Only 3 of 4 photos can be read: they are measured." in report.notes
    again = json.loads(json.dumps(to_plain(report)))
    assert [*again] == [
        "created", "command", "machine", "threads", "settings", "notes", "contests", "interrupted",
    ]  # fmt: skip
    last = again["contests"][0]["figures"][-1]["competitor"]
    assert last.endswith("cache warm") == (measure == "end to end")
    assert again["contests"][0]["clocks"]["before"]["seconds"] > 0
    assert again["machine"]["processor"]
    assert (again["threads"], again["interrupted"]) == (1, False)
    assert left_in(scratch) == []


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_ctrl_c_while_a_later_contest_is_loaded_keeps_the_earlier(
    built, photos, monkeypatch, scratch
):
    monkeypatch.setattr(session, "baselines_for", lambda backend: ("onnxruntime",))
    before = {one.pid for one in children()}
    folders = []

    def advance(phase):
        if phase.endswith("cache warm"):
            # The cold one has its folder by now.
            folders.append(len(list(scratch.rglob("features-*"))))
            assert {one.pid for one in children()} > before
            raise KeyboardInterrupt

    with reporting(Watching(advance)):
        report = trtkit.bench(
            [photos], tails=["resnet18"], batches=[2], seconds=1e-6, workspace=built
        )
    assert folders == [1]
    assert [one.measure for one in report.contests] == ["compute"]
    assert report.contests[0].rounds == 1 and report.contests[0].stopped == "out of time"
    assert report.interrupted and to_plain(report)["interrupted"] is True
    assert {one.pid for one in children()} == before
    assert left_in(scratch) == []


@pytest.mark.slow
def test_a_worker_that_crashes_leaves_nothing(built, photos, monkeypatch, scratch):
    monkeypatch.setattr(session, "baselines_for", lambda backend: ())
    before = {one.pid for one in children()}

    def advance(phase):
        if phase.startswith("warming up"):
            for one in children():
                if one.pid not in before:
                    one.kill()

    with reporting(Watching(advance)):
        report = trtkit.bench(
            [photos], tails=["resnet18"], batches=[2], measures=["end to end"], seconds=1e-6,
            workspace=built,
        )  # fmt: skip
    only = report.contests[0]
    assert (only.stopped, only.rounds, report.interrupted) == ("the baseline failed", 0, False)
    assert (
        "was killed (SIGKILL, as the system does when memory runs out)" in only.figures[0].problem
    )
    assert left_in(scratch) == []


def test_ctrl_c_while_the_first_contest_is_loaded(built, photos, monkeypatch, scratch):
    def hold(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "hold", hold)
    report = trtkit.bench([photos], workspace=built)
    assert report.interrupted and report.contests == ()
    assert left_in(scratch) == []


def test_a_contest_without_a_round_is_no_part_of_an_interrupted_report(built, photos, monkeypatch):
    ends = iter(["out of time", "nothing could be loaded", "interrupted"])
    rounds = iter([3, 0, 0])

    def hold(specs, *arguments):
        return ended(rounds=next(rounds), stopped=next(ends))

    monkeypatch.setattr(session, "hold", hold)
    report = trtkit.bench([photos], workspace=built)
    assert report.interrupted
    assert [one.stopped for one in report.contests] == ["out of time", "nothing could be loaded"]


def test_quick_shares_two_minutes(built, photos, held):
    trtkit.bench([photos], batches=[1, 8], quick=True, workspace=built)
    # Two tails, two kinds of figure, two batch sizes.
    assert [settings.seconds for _, _, settings in held] == [120 / 8] * 8
    # Three photos fill a batch of eight by coming again.
    assert {len(next(iter(specs.values())).photos) for specs, _, _ in held} == {8}
    held.clear()
    report = trtkit.bench(
        [photos], tails=["resnet34"], measures=["compute"], seconds=5, width=0.5, workspace=built
    )
    assert len(held) == 2 and (held[0][2].seconds, held[0][2].width) == (5, 0.5)
    assert not report.interrupted


def bundles_of(specs) -> list[str]:
    return list(
        dict.fromkeys(Path(one.bundle).name for one in specs.values() if one.kind == "trtkit")
    )


def test_by_default_each_precision_of_the_last_bundle_is_in_the_same_contest(
    precisions, photos, held
):
    with recorded() as reports:
        trtkit.bench([photos], batches=[2], workspace=precisions)
    # Two tails, two kinds of figure; once for all precisions.
    assert len(held) == 4
    assert {tuple(bundles_of(specs)) for specs, _, _ in held} == {("digits-fp16", "digits-fp32")}
    assert reports.messages[0] == "digits-fp16, digits-fp32, resnet18: compute, batch 2"
    compute = held[0][0]
    assert [name for name in compute if "trtkit" in name] == [
        "trtkit fp16 on onnxruntime",
        "trtkit fp32 on onnxruntime",
    ]
    assert sum(spec.kind == "torch" for spec in compute.values()) == 1


def test_bundles_of_the_same_models_that_are_named_are_in_the_same_contest(
    precisions, photos, held
):
    def contests(*names) -> list[list[str]]:
        held.clear()
        trtkit.bench(
            [photos], bundles=names, tails=["resnet18"], batches=[2], measures=["compute"],
            workspace=precisions,
        )  # fmt: skip
        return [bundles_of(specs) for specs, _, _ in held]

    assert contests("digits-fp32") == [["digits-fp32"]]
    assert contests("digits-cut1", "digits-fp16", "digits-cut1") == [["digits-cut1", "digits-fp16"]]
    assert contests("other", "digits-fp16") == [["other"], ["digits-fp16"]]


def test_every_competitor_has_as_many_cores(built, photos, held):
    report = trtkit.bench([photos], batches=[1], workspace=built, threads=1)
    assert report.threads == 1
    assert {spec.threads for specs, _, _ in held for spec in specs.values()} == {1}
    assert trtkit.bench([photos], batches=[1], workspace=built).threads == usable_cores()


def test_without_a_gpu_its_baselines_are_a_note(built, photos, held, monkeypatch):
    install(monkeypatch, no_device=True)
    monkeypatch.setenv("PATH", "/nowhere")
    report = trtkit.bench([photos], batches=[1], count=1, workspace=built)
    assert report.notes == (
        "The GPU baselines (torch-cuda, torch-cuda-compile, torch-cuda-fp16, onnxruntime-cuda, "
        "tensorrt, trtexec) are left out: no NVIDIA GPU was found: the NVIDIA driver finds no GPU.",
    )
    assert not {spec.kind for specs, _, _ in held for spec in specs.values()} & set(
        kinds.GPU_BASELINES
    )
    with pytest.raises(
        TrtkitError, match="^Baseline `torch-cuda` cannot run here: no NVIDIA GPU was found: "
    ):
        trtkit.bench([photos], baseline="torch-cuda", workspace=built)


def test_with_a_gpu_its_baselines_take_part(built, photos, held, monkeypatch):
    install(monkeypatch)
    report = trtkit.bench([photos], batches=[1], count=1, workspace=built)
    assert report.notes == ()
    compute = held[0][0]
    assert [spec.kind for spec in compute.values()] == [*kinds.BASELINES, "trtkit"]
    assert {Path(spec.built_dir).name for spec in compute.values()} == {"built"}


def test_what_the_machine_did_besides_is_noted(built, photos, monkeypatch):
    monkeypatch.setattr(session, "no_gpu", lambda: None)
    clocks = Clocks(Reading(0.0), Reading(1.0), ("other processes kept 0.8 of 2 cores busy.",))

    def hold(specs, *arguments):
        return ended(batch=8, bundles=("b",), clocks=clocks)

    monkeypatch.setattr(session, "hold", hold)
    report = trtkit.bench(
        [photos], tails=["resnet18"], batches=[1], measures=["compute"], count=1, workspace=built
    )
    assert report.notes == ("b, t, compute, batch 8: other processes kept 0.8 of 2 cores busy.",)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batches": [0]}, "Batches of 0 photos cannot be measured; give 1 or more."),
        ({"measures": ["speed"]}, "Measure `speed` not found; available: compute, end to end."),
        ({"baseline": "tensorflow"}, "Baseline `tensorflow` not found; available: torch, "),
        ({"baseline": "trtkit"}, "onnxruntime-cuda, tensorrt, trtexec."),
        (
            {"baseline": "openvino"},
            "Baseline `openvino` cannot run here: openvino is not installed; pip install openvino.",
        ),
        ({"tails": ["resnet50"]}, "Tail `resnet50` not found"),
        ({"bundles": ["nothing"]}, "Bundle `nothing` not found"),
        ({"threads": 0}, f"may use 1 to {usable_cores()} cores, not 0; give as many threads."),
        ({"threads": 10**6}, f"may use 1 to {usable_cores()} cores, not 1000000; give as many"),
        ({"seconds": -1}, "The number of seconds is -1; give a finite one above 0."),
    ],
)
def test_requests_that_cannot_be_carried_out(built, photos, options, sentence, monkeypatch):
    absent = {"openvino": "openvino is not installed; pip install openvino"}
    monkeypatch.setattr(session, "missing", absent.get)
    with pytest.raises(TrtkitError) as caught:
        trtkit.bench([photos], **options, workspace=built)
    assert sentence in str(caught.value)


def test_photos_are_needed(built, photos):
    with pytest.raises(TrtkitError, match="give photos to measure on, or put some into calib"):
        trtkit.bench(workspace=built)
    with pytest.raises(TrtkitError, match="None of the photos of .* can be read"):
        trtkit.bench([photos / "broken.jpg"], workspace=built)
