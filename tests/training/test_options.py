"""The options of a training: defaults, refusals, and options without an effect."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtkit.errors import TrtkitError
from trtkit.serialization import to_plain
from trtkit.training.options import LEARNING_RATES, TrainOptions

ARCH = {"arch": "resnet18"}
PREFIX = {"prefix_from": "cheap", "cut": 2}
OF_EPOCHS = {
    "epochs": 3, "optimizer": "adamw", "lr": 0.1, "weight_decay": 0.1, "warmup": 0.5,
    "label_smoothing": 0.1, "patience": 2,
}  # fmt: skip


def refusal(options: dict, make=TrainOptions.of) -> str:
    with pytest.raises(TrtkitError) as caught:
        make(options)
    return str(caught.value)


def test_the_defaults():
    assert to_plain(TrainOptions.of(ARCH)) == {
        "arch": "resnet18", "mode": "finetune", "weights": "imagenet", "seed": 0, "split_seed": 0,
        "image_size": None, "resampling": None, "epochs": 20, "batch": 32, "optimizer": "sgd", "lr": None,
        "weight_decay": 1e-4, "warmup": 1.0, "label_smoothing": 0.0, "class_weights": "none",
        "patience": None, "amp": True, "augmentation": "standard", "flip": True,
        "prefix_from": None, "cut": None, "augment": 0, "feature_store": True,
        "regularization": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "train"}, "--mode train is unknown; available: finetune, freeze, bottleneck."),
        ({"optimizer": "adam"}, "--optimizer adam is unknown; available: sgd, adamw."),
        ({"class_weights": "even"}, "--class-weights even is unknown; available: none, balanced."),
        (
            {"augmentation": "mild"},
            "--augmentation mild is unknown; available: none, light, standard, strong.",
        ),
        ({"epochs": 0}, "--epochs 0 is out of range; give 1 or more."),
        ({"batch": 1}, "--batch 1 is out of range; give 2 or more."),
        ({"lr": 0}, "--lr 0 is out of range; give more than 0."),
        ({"lr": -0.1}, "--lr -0.1 is out of range; give more than 0."),
        ({"weight_decay": -1}, "--weight-decay -1 is out of range; give 0 or more."),
        ({"warmup": -1}, "--warmup -1 is out of range; give 0 or more."),
        ({"warmup": 2.5, "epochs": 2}, "--warmup 2.5 is longer than the training of 2 epochs; "
         "give no more than those."),
        ({"label_smoothing": -0.1}, "--label-smoothing -0.1 is out of range; give 0 or more."),
        ({"label_smoothing": 1}, "--label-smoothing 1 is out of range; give less than 1."),
        ({"patience": 0}, "--patience 0 is out of range; give 1 or more."),
        ({"augment": -1, "mode": "freeze"}, "--augment -1 is out of range; give 0 or more."),
        ({"cut": 0, "prefix_from": "a"}, "--cut 0 is out of range; give 1 or more."),
        ({"cut": 3}, "--cut 3 needs --prefix-from, the checkpoint that the blocks up to it come from; "
         "give both or neither."),
        ({"regularization": 0, "mode": "bottleneck"}, "--regularization 0 is out of range; give more "
         "than 0."),
        ({"image_size": 0}, "--image-size 0 is out of range; give 1 or more."),
        ({"resampling": "box"}, "--resampling box is unknown; available: bilinear, bicubic, fast."),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(options, sentence):
    assert refusal({**ARCH, **options}) == sentence
    # The same when a run's record is read again.
    assert refusal({**ARCH, **options}, lambda values: TrainOptions(**values)) == sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, float("nan")) for name in ("lr", "weight_decay", "warmup", "label_smoothing")],
        ("regularization", float("nan")),
        *[(name, float("inf")) for name in ("lr", "weight_decay", "regularization")],
    ],
)
def test_what_is_no_number_is_refused(name, value):
    flag = "--" + name.replace("_", "-")
    message = refusal({**ARCH, name: value}, lambda values: TrainOptions(**values))
    assert message.startswith(f"{flag} {value} is out of range; give ")


def test_a_prefix_without_a_cut_is_refused():
    message = refusal({**ARCH, "prefix_from": "cheap"})
    assert message.startswith("--prefix-from cheap needs --cut, the last block")


def test_the_bounds_themselves_are_taken():
    options = TrainOptions.of(
        {**ARCH, "epochs": 1, "batch": 2, "warmup": 1.0, "weight_decay": 0, "label_smoothing": 0,
         "patience": 1, "image_size": 1, "lr": 1e-9}
    )  # fmt: skip
    assert (options.epochs, options.warmup, options.lr) == (1, 1.0, 1e-9)


@pytest.mark.parametrize("optimizer", LEARNING_RATES)
def test_the_learning_rate_is_the_optimizer_s_unless_given(optimizer):
    assert TrainOptions("vgg11", optimizer=optimizer).learning_rate == LEARNING_RATES[optimizer]
    assert TrainOptions("vgg11", optimizer=optimizer, lr=0.5).learning_rate == 0.5


def test_an_unknown_option_names_the_nearest():
    assert refusal({**ARCH, "epoch": 3}) == "Training has no option 'epoch'; available: epochs."
    everything = refusal({**ARCH, "zzz": 3})
    assert everything.startswith("Training has no option 'zzz'; available: arch, mode, weights,")


def test_an_architecture_is_needed():
    assert refusal({"epochs": 3}) == (
        "Training needs an architecture; give --arch, such as --arch resnet50."
    )


def useless(options: dict) -> dict[str, str]:
    """What the options say of those that change nothing, after checking that they have no effect."""
    made = TrainOptions.of(options)
    sentences = made.without_effect(options)
    defaults = TrainOptions(made.arch)
    assert all(getattr(made, name) == getattr(defaults, name) for name in sentences)
    # Resuming with the same words is resuming with the same options.
    made.check_same(options)
    return sentences


@pytest.mark.parametrize("name", OF_EPOCHS)
def test_a_fit_in_one_go_has_no_epochs(name):
    flag = "--" + name.replace("_", "-")
    request = {**ARCH, "mode": "bottleneck", name: OF_EPOCHS[name]}
    assert useless(request) == {
        name: f"{flag} has no effect with --mode bottleneck, which is fitted in one go."
    }
    freezing = {**request, "mode": "freeze"}
    assert not useless(freezing)
    assert getattr(TrainOptions.of(freezing), name) == OF_EPOCHS[name]


@pytest.mark.parametrize("mode", ["finetune", "freeze"])
def test_gradient_descent_has_no_regularization(mode):
    assert useless({**ARCH, "mode": mode, "regularization": 2.0}) == {
        "regularization": f"--regularization has no effect with --mode {mode}, which has no such fit."
    }
    assert not useless({**ARCH, "mode": "bottleneck", "regularization": 2.0})


@pytest.mark.parametrize(
    ("options", "flag"), [({"augment": 2}, "--augment"), ({"feature_store": False}, "--no-feature-store")]
)  # fmt: skip
def test_nothing_is_kept_where_nothing_is_frozen(options, flag):
    assert list(useless({**ARCH, **options}).values()) == [
        f"{flag} has no effect because finetune without --prefix-from freezes no blocks whose outputs "
        "could be stored."
    ]
    for frozen in (PREFIX, {"mode": "freeze"}):
        made = TrainOptions.of({**ARCH, **options, **frozen})
        assert made.frozen
        assert {name: getattr(made, name) for name in options} == options


@pytest.mark.parametrize("frozen", [PREFIX, {"mode": "freeze"}, {"mode": "bottleneck"}])
def test_kept_plain_photos_are_not_augmented(frozen):
    assert useless({**ARCH, **frozen, "augmentation": "light"}) == {
        "augmentation": "--augmentation has no effect because the outputs of the frozen blocks are "
        "stored for the plain photos; give --augment N for N augmented views of each, or "
        "--no-feature-store."
    }
    assert not useless({**ARCH, **frozen, "augmentation": "none"})
    both = {**ARCH, **frozen, "augmentation": "light", "augment": 3}
    assert not useless(both)
    assert TrainOptions.of(both).augment == 3


def test_without_the_store_frozen_blocks_see_augmented_photos():
    options = {**ARCH, "mode": "freeze", "augmentation": "strong", "feature_store": False}
    assert not useless(options)
    assert TrainOptions.of(options).augmentation == "strong"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"mode": "bottleneck", "feature_store": False}, {"feature_store"}),
        ({"mode": "freeze", "augment": 3, "augmentation": "none"}, {"augment"}),
        ({"mode": "freeze", "augment": 3, "feature_store": False}, {"augment"}),
        ({"mode": "bottleneck", "augment": 3, "augmentation": "none"}, {"augment"}),
        ({"mode": "freeze", "flip": False}, {"flip"}),
        ({"mode": "finetune", "augmentation": "none", "flip": False}, {"flip"}),
    ],
)
def test_other_options_that_do_nothing(options, names):
    assert useless({**ARCH, **options}).keys() == names


def test_resuming_takes_the_run_s_own_options_alone():
    options = TrainOptions("resnet18", epochs=5, feature_store=True)
    options.check_same({})
    options.check_same({"arch": "resnet18", "epochs": 5, "lr": None, "seed": 0})
    with pytest.raises(TrtkitError) as caught:
        options.check_same({"epochs": 5, "weight_decay": 0.5})
    assert str(caught.value) == (
        "--weight-decay 0.5 cannot change a training that was begun with 0.0001; leave it out, "
        "or begin another one with --name."
    )


def test_resuming_with_an_unknown_option_names_the_nearest():
    with pytest.raises(TrtkitError, match="no option 'epoch'; available: epochs"):
        TrainOptions("resnet18").check_same({"epoch": 5})


@pytest.mark.parametrize("name", ["feature_store", "flip", "amp"])
def test_resuming_with_a_switch_turned_the_other_way_reads_well(name):
    with pytest.raises(TrtkitError, match="was begun without it; leave") as caught:
        TrainOptions("resnet18", mode="freeze", augment=1).check_same({name: False})
    flag = "--no-" + name.replace("_", "-")
    assert str(caught.value).startswith(f"{flag} cannot change")


some_options = st.fixed_dictionaries(
    {"arch": st.sampled_from(["resnet18", "vgg16"])},
    optional={
        "epochs": st.integers(1, 99),
        "batch": st.integers(2, 512),
        "lr": st.floats(1e-9, 1e3),
        "warmup": st.floats(0, 1),
        "label_smoothing": st.floats(0, 1, exclude_max=True),
        "optimizer": st.sampled_from(["sgd", "adamw"]),
        "seed": st.integers(-(2**70), 2**70),
        "patience": st.none() | st.integers(1, 9),
    },
)


@given(some_options)
@settings(max_examples=40, deadline=None)
def test_a_record_gives_the_same_options_again(options):
    made = TrainOptions.of(options)
    again = TrainOptions(**json.loads(json.dumps(to_plain(made))))
    assert again == made
    assert {name: getattr(again, name) for name in options} == options
    again.check_same(options)
