"""Which stages are a tree that can be run, and the way to a stage."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import body, head, prefix
from trtkit.bundle import MANIFEST, Manifest, read_manifest
from trtkit.errors import TrtkitError
from trtkit.preprocessing import Preprocessing
from trtkit.serialization import write_json
from trtkit.stages import OutputRef, StageInput, StageOutput, check_tree, path_to, paths_to

PREFIX = prefix()
BODY = body("cats-body", PREFIX)
CATS = head("cats", BODY)
DOGS = head("dogs", PREFIX)
TREE = (PREFIX, BODY, CATS, DOGS)


def manifest(*stages) -> Manifest:
    return Manifest(
        name="b", build_id="0", cut=2, precision="fp32", computes="fp32", backend="onnxruntime",
        backend_version="1", trtkit_version="1", created="now", batch=(1, 2, 3),
        preprocessing=Preprocessing(), stages=stages,
    )  # fmt: skip


def with_input(stage, **changes):
    return replace(stage, inputs=(replace(stage.inputs[0], **changes),))


def with_output(stage, **changes):
    return replace(stage, outputs=(replace(stage.outputs[0], **changes),))


WRONG = {
    "one name twice": (
        (PREFIX, BODY, CATS, DOGS, CATS),
        "more than one stage is called cats",
    ),
    "its own parent": (
        (replace(PREFIX, parent="prefix"), DOGS),
        "the stages prefix are each other's parents",
    ),
    "a loop": (
        (replace(PREFIX, parent="cats-body"), BODY, CATS),
        "the stages prefix, cats-body are each other's parents",
    ),
    "a loop above": (
        (CATS, replace(PREFIX, parent="cats-body"), BODY),
        "the stages cats, cats-body, prefix are each other's parents",
    ),
    "an unknown parent": (
        (PREFIX, replace(DOGS, parent="perfix")),
        "the parent `perfix` of stage dogs does not exist; available: prefix, dogs",
    ),
    "an unknown parent's parent": (
        (replace(PREFIX, parent="stem"), DOGS),
        "the parent `stem` of stage prefix does not exist; available: prefix, dogs",
    ),
    "no inputs": (
        (replace(PREFIX, inputs=()), DOGS),
        "stage prefix takes nothing",
    ),
    "no outputs": (
        (replace(PREFIX, outputs=()), with_input(DOGS, source="map")),
        "stage prefix gives nothing",
    ),
    "the image below a parent": (
        (PREFIX, with_input(DOGS, source=None)),
        "stage dogs takes nothing from its parent prefix",
    ),
    "an output that the parent does not give": (
        (PREFIX, with_input(DOGS, source="maps")),
        "the input x of stage dogs comes from `maps`, which its parent does not give; "
        "available: map",
    ),
    "a source without a parent": (
        (with_input(PREFIX, source="map"),),
        "the input x of stage prefix comes from `map`, which its parent does not give; "
        "available: none",
    ),
    "another dtype": (
        (PREFIX, with_input(DOGS, dtype="float16")),
        "stage dogs takes x float16 N x 4 x 2 x 2, but its parent gives map float32 N x 4 x 2 x 2",
    ),
    "another shape": (
        (PREFIX, with_input(DOGS, shape=(None, 4, 2, 3))),
        "stage dogs takes x float32 N x 4 x 2 x 3, but its parent gives map float32 N x 4 x 2 x 2",
    ),
    "another rank": (
        (PREFIX, with_input(DOGS, shape=(None, 16))),
        "stage dogs takes x float32 N x 16, but its parent gives map float32 N x 4 x 2 x 2",
    ),
    "an input twice": (
        (PREFIX, replace(DOGS, inputs=DOGS.inputs * 2)),
        "stage dogs has more than one input called x",
    ),
    "an output twice": (
        (replace(PREFIX, outputs=PREFIX.outputs * 2), DOGS),
        "stage prefix has more than one output called map",
    ),
    "fewer classes than logits": (
        (PREFIX, replace(DOGS, classes=("pug", "poodle"))),
        "stage dogs has 2 classes for the logits logits float32 N x 3",
    ),
    "no classes for logits": (
        (PREFIX, replace(DOGS, classes=None)),
        "stage dogs has 0 classes for the logits logits float32 N x 3",
    ),
    "classes without logits": (
        (replace(PREFIX, classes=("a", "b")), DOGS),
        "stage prefix has classes but no logits",
    ),
    "a head without logits": (
        (PREFIX, with_output(DOGS, kind="embedding")),
        "the head dogs has no logits",
    ),
    "an exit without logits": (
        (PREFIX, replace(with_output(DOGS, kind="embedding"), role="exit")),
        "the exit dogs has no logits",
    ),
    "logits twice": (
        (PREFIX, replace(DOGS, outputs=(*DOGS.outputs, replace(DOGS.outputs[0], name="more")))),
        "stage dogs has 2 outputs of logits instead of one",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("stages", "problem"), WRONG.values(), ids=WRONG)
def test_what_is_no_tree_is_said_in_one_sentence(tmp_path, stages, problem):
    with pytest.raises(ValueError) as raised:
        check_tree(stages)
    assert str(raised.value) == problem
    assert sentence_of(tmp_path, stages) == (
        f"The manifest {tmp_path / MANIFEST} cannot be read ({problem}); build the bundle again with "
        "`trtkit build`."
    )


@pytest.mark.parametrize("field", ["file", "source"])
@pytest.mark.parametrize("file", ["../x", "/etc/x", "", ".", "..", "a/b", "..\\x", "x\0y"])
def test_files_lie_in_the_bundles_folder(tmp_path, field, file):
    stages = (PREFIX, replace(DOGS, **{field: file}))
    problem = f"the file {file!r} of stage dogs is not in the bundle's folder"
    assert f"cannot be read ({problem}); " in sentence_of(tmp_path, stages)


def sentence_of(folder, stages) -> str:
    """What reading such a manifest says."""
    write(folder, manifest(*stages).to_json())
    with pytest.raises(TrtkitError) as raised:
        read_manifest(folder)
    return str(raised.value)


def write(folder, value) -> None:
    write_json(folder / MANIFEST, value)


def test_a_tree_is_read_as_it_was_written(tmp_path):
    write(tmp_path, manifest(*TREE).to_json())
    found = read_manifest(tmp_path)
    assert found.stages == TREE
    assert found.tails == (CATS, DOGS)
    assert [found.cut_of(tail) for tail in found.tails] == [OutputRef("prefix", "map")] * 2
    assert found.embedding_of(CATS) == OutputRef("cats-body", "embedding")
    assert found.embedding_of(DOGS) is None


@pytest.mark.parametrize("format", [0, 3, None, "2"])
def test_another_format(tmp_path, format):
    write(tmp_path, {**manifest(*TREE).to_json(), "format": format})
    with pytest.raises(
        TrtkitError,
        match=rf"\(it has format {format}, this trtkit reads 1 to 2\); build the bundle",
    ):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"role": "tail"}, "Invalid enum value 'tail'"),
        ({"inputs": [{"name": "x", "dtype": "float32"}]}, "missing required field `shape`"),
        ({"outputs": "logits"}, "Expected `array`, got `str`"),
    ],
)
def test_a_damaged_stage(tmp_path, changes, problem):
    value = manifest(*TREE).to_json()
    value["stages"] = [value["stages"][0], {**value["stages"][3], **changes}]
    write(tmp_path, value)
    with pytest.raises(TrtkitError, match=rf"cannot be read \(.*{problem}.*\); build the bundle"):
        read_manifest(tmp_path)


def test_a_bundle_without_a_tail(tmp_path):
    write(tmp_path, manifest(PREFIX).to_json())
    with pytest.raises(TrtkitError, match=f"The bundle {tmp_path} has no tail; build it again"):
        read_manifest(tmp_path)


def test_tails_on_two_prefixes_have_no_cut_in_common():
    second = prefix("second")
    birds, fish = head("birds", second), head("fish", None)
    found = manifest(*TREE, second, birds, fish)
    assert found.cut_of(CATS, DOGS) == OutputRef("prefix", "map")
    assert found.cut_of(birds) == OutputRef("second", "map")
    for tails in ((CATS, birds), (birds, CATS, DOGS), (DOGS, fish), (fish, DOGS), (fish,)):
        assert found.cut_of(*tails) is None


def test_the_stages_to_several_tails_come_once():
    names = [stage.name for stage in paths_to(TREE, ["cats", "dogs", "cats"])]
    assert names == ["prefix", "cats-body", "cats", "dogs"]
    assert path_to(TREE, "prefix") == (PREFIX,)


@st.composite
def trees(draw):
    """Stages in any order, each below an earlier one or the image, some with two outputs and inputs."""
    stages = []
    for number in range(draw(st.integers(1, 9))):
        parent = draw(st.sampled_from([None, *stages]))
        if parent is None:
            inputs = [StageInput("x", "uint8", (None, 8, 8, 3))]
        else:
            taken = draw(st.lists(st.sampled_from(parent.outputs), min_size=1, unique=True))
            inputs = [
                StageInput(f"x{place}", output.dtype, output.shape, output.name)
                for place, output in enumerate(taken)
            ]
        outputs = [
            StageOutput(f"y{place}", draw(st.sampled_from(["float32", "float16"])), shape)
            for place, shape in enumerate(draw(st.lists(SHAPES, min_size=1, max_size=3)))
        ]
        stage = replace(
            PREFIX, name=f"s{number}", parent=parent and parent.name, file=f"s{number}.onnx",
            role=draw(st.sampled_from(["prefix", "body", "adapter", "codec"])),
            inputs=tuple(inputs), outputs=tuple(outputs),
        )  # fmt: skip
        if draw(st.booleans()):
            logits = StageOutput("logits", "float32", (None, 2), "logits")
            stage = replace(
                stage, outputs=(*stage.outputs, logits), classes=("a", "b"),
                role=draw(st.sampled_from(["head", "exit", "body"])),
            )  # fmt: skip
        stages.append(stage)
    return draw(st.permutations(stages))


SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(lambda sizes: (None, *sizes))


@given(stages=trees(), data=st.data())
def test_any_tree_is_accepted_and_its_paths_begin_at_the_image(stages, data):
    check_tree(stages)
    names = [stage.name for stage in stages]
    wanted = data.draw(st.lists(st.sampled_from(names)))
    path = [stage.name for stage in paths_to(stages, wanted)]
    assert len(set(path)) == len(path)
    parents = {stage.name: stage.parent for stage in stages}
    needed = set()
    for name in wanted:
        while name is not None:
            needed.add(name)
            name = parents[name]
    assert set(path) == needed
    for place, name in enumerate(path):
        assert parents[name] is None or parents[name] in path[:place]
    for name in names:
        one = [stage.name for stage in path_to(stages, name)]
        assert one[-1] == name
        assert [parents[each] for each in one] == [None, *one[:-1]]


@given(stages=trees(), data=st.data())
def test_a_stage_below_its_own_child_is_never_accepted(stages, data):
    children = [stage for stage in stages if stage.parent is not None]
    if not children:
        return
    below = data.draw(st.sampled_from(children))
    above = data.draw(st.sampled_from(path_to(stages, below.name)))
    looped = [replace(s, parent=below.name) if s.name == above.name else s for s in stages]
    with pytest.raises(ValueError, match="are each other's parents"):
        check_tree(looped)
