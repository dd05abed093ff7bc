"""The options of a training, their defaults, and which of them go together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any, get_args

from trtkit.errors import TrtkitError, available, listed
from trtkit.preprocessing import Resampling
from trtkit.training.augment import PRESETS

FINETUNE, FREEZE, BOTTLENECK = "finetune", "freeze", "bottleneck"
MODES = (FINETUNE, FREEZE, BOTTLENECK)
OPTIMIZERS = ("sgd", "adamw")
CLASS_WEIGHTS = ("none", "balanced")
# Without --lr. SGD's is for fine-tuning; a head alone tolerates more.
LEARNING_RATES = {"sgd": 0.01, "adamw": 3e-4}
# Options of gradient descent, which the logistic regression does not use.
_OF_EPOCHS = frozenset(
    (
        "epochs", "optimizer", "lr", "weight_decay", "warmup", "label_smoothing", "patience",
        "feature_store",
    )
)  # fmt: skip

_CHOICES = {
    "mode": MODES,
    "optimizer": OPTIMIZERS,
    "class_weights": CLASS_WEIGHTS,
    "augmentation": tuple(PRESETS),
    "resampling": get_args(Resampling),
}
_AT_LEAST = {
    "epochs": 1, "batch": 2, "lr": 0, "weight_decay": 0, "warmup": 0, "label_smoothing": 0,
    "patience": 1, "augment": 0, "cut": 1, "regularization": 0, "image_size": 1,
}  # fmt: skip
_POSITIVE = ("lr", "regularization")
# On unless --no-... is given.
_SWITCHES = frozenset({"feature_store", "flip", "amp"})


@dataclass(frozen=True)
class TrainOptions:
    """How to train; all of it is recorded in the run.

    `arch`: an architecture. `mode`: `finetune` trains everything, `freeze` the head alone,
    `bottleneck` fits a logistic regression on the penultimate features. `weights` to start from:
    `imagenet`, `random` or a checkpoint. `seed`: of random weights, order and augmentation;
    `split_seed`: of the 4:1 split. `image_size`: pixels of the square input, by default the
    checkpoint's or 224. `resampling`: how photos are resized (see `Preprocessing`), by default as the
    checkpoint has it, or `bilinear`.

    `epochs`, `batch` (images a step), `optimizer` (`sgd` with Nesterov momentum 0.9, or `adamw`),
    `lr` (default 0.01 and 3e-4), `weight_decay` (of weights, not of biases and batch norms); the rate
    rises linearly for `warmup` epochs, then falls as a cosine. `label_smoothing`: 0 to below 1.
    `class_weights`: `balanced` weighs a class by the inverse of its share. `patience`: epochs without
    a better top-1 after which training stops early. `amp`: mixed precision on a GPU.

    `augmentation`: a preset, `flip` whether it may mirror. `prefix_from` and `cut`: blocks 1 to `cut`
    come from that checkpoint and stay as they are. What frozen blocks compute is kept in the feature
    store unless `feature_store` is off: `augment` augmented views of each photo, 0 for the plain one.
    `regularization`: the C of the logistic regression, the inverse of its L2 penalty's strength.
    """

    arch: str
    mode: str = FINETUNE
    weights: str = "imagenet"
    seed: int = 0
    split_seed: int = 0
    image_size: int | None = None
    resampling: Resampling | None = None
    epochs: int = 20
    batch: int = 32
    optimizer: str = "sgd"
    lr: float | None = None
    weight_decay: float = 1e-4
    warmup: float = 1.0
    label_smoothing: float = 0.0
    class_weights: str = "none"
    patience: int | None = None
    amp: bool = True
    augmentation: str = "standard"
    flip: bool = True
    prefix_from: str | None = None
    cut: int | None = None
    augment: int = 0
    feature_store: bool = True
    regularization: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices and (name, value) != ("resampling", None):
                raise TrtkitError(
                    f"{_flag(name)} {value} is unknown; available: {listed(choices)}."
                )
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not isfinite(value) or value < least or (name in _POSITIVE and value == 0):
                allowed = "more than 0" if name in _POSITIVE else f"{least} or more"
                raise TrtkitError(f"{_flag(name)} {value} is out of range; give {allowed}.")
        if self.label_smoothing >= 1:
            raise TrtkitError(
                f"--label-smoothing {self.label_smoothing} is out of range; give less than 1."
            )
        if self.warmup > self.epochs:
            raise TrtkitError(
                f"--warmup {self.warmup:g} is longer than the training of {self.epochs} epochs; give "
                "no more than those."
            )
        if self.cut is not None and self.prefix_from is None:
            raise TrtkitError(
                f"--cut {self.cut} needs --prefix-from, the checkpoint that the blocks up to it come "
                "from; give both or neither."
            )
        if self.prefix_from is not None and self.cut is None:
            raise TrtkitError(
                f"--prefix-from {self.prefix_from} needs --cut, the last block to take from it; give "
                "both or neither."
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TrainOptions:
        """These options, the others by default, as are those that change nothing. Raises TrtkitError."""
        _check_names(options)
        if "arch" not in options:
            raise TrtkitError(
                "Training needs an architecture; give --arch, such as --arch resnet50."
            )
        result = cls(**options)
        defaults: dict[str, Any] = {field.name: field.default for field in fields(cls)}
        return replace(result, **{name: defaults[name] for name in result.without_effect(options)})

    @property
    def learning_rate(self) -> float:
        """The highest one, after the warm-up."""
        return LEARNING_RATES[self.optimizer] if self.lr is None else self.lr

    @property
    def frozen(self) -> bool:
        """Whether some blocks stay as they are, so that what they compute can be kept."""
        return self.mode != FINETUNE or self.prefix_from is not None

    def check_same(self, options: Mapping[str, Any]) -> None:
        """Raise TrtkitError unless options for a training that is resumed are its own."""
        _check_names(options)
        useless = self.without_effect(options)
        for name, value in options.items():
            own = getattr(self, name)
            if value == own or name in useless:
                continue
            # A switch has no value to show.
            new, old = ("", "without it") if name in _SWITCHES else (f" {value}", f"with {own}")
            raise TrtkitError(
                f"{_flag(name)}{new} cannot change a training that was begun {old}; leave it out, or "
                "begin another one with --name."
            )

    def without_effect(self, options: Collection[str]) -> dict[str, str]:
        """Those of the names of options given that change nothing, each with a sentence that says why."""
        fitted = self.mode == BOTTLENECK
        useless = _OF_EPOCHS if fitted else {"regularization"}
        reason = "is fitted in one go" if fitted else "has no such fit"
        why = dict.fromkeys(useless, f"with --mode {self.mode}, which {reason}")
        stored = self.frozen and (self.feature_store or fitted)
        if not self.frozen:
            nothing = (
                f"because {self.mode} without --prefix-from freezes no blocks whose outputs could be "
                "stored"
            )
            why |= {"augment": nothing, "feature_store": nothing}
        elif not stored:
            why["augment"] = "because a photo has a single view without the feature store"
        elif self.augmentation == "none":
            why["augment"] = "because a photo has a single view without an --augmentation"
        if self.augmentation == "none":
            why["flip"] = "because photos are not augmented"
        elif stored and self.augment == 0:
            why["flip"] = why["augmentation"] = (
                "because the outputs of the frozen blocks are stored for the plain photos; give "
                "--augment N for N augmented views of each, or --no-feature-store"
            )
        return {
            name: f"{_flag(name)} has no effect {why[name]}."
            for name in sorted(why.keys() & set(options))
        }


def _check_names(options: Mapping[str, Any]) -> None:
    names = [field.name for field in fields(TrainOptions)]
    for name in options:
        if name not in names:
            raise TrtkitError(f"Training has no option {name!r}; {available(name, names)}.")


def _flag(name: str) -> str:
    """The option's name on the command line."""
    return ("--no-" if name in _SWITCHES else "--") + name.replace("_", "-")
