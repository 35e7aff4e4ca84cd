"""Refuses impossible settings of shipped tasks and engines at once, because these checks do not load jax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bilevel import data as data_sets
from bilevel.cli.sentences import SettingsError, nearest

PRECISIONS = ("float32", "float64")
CHOICES = {  # the words that a setting may take, by the `_target_` beside it
    "bilevel.tasks.hyperclean": {"corruption": ("exact_wrong", "uniform_replacement")},
    "bilevel.tasks.distillation": {"form": ("primal", "kernel")},
    "bilevel.tasks.kernel_distillation": {
        "learn": ("images", "labels", "both"),
        "start": ("real", "means", "noise"),
        "kernel": ("rbf", "ntk", "linear"),
        "head": ("ridge", "softmax"),
        "features": ("pixels", "random", "trained"),
        "network": ("connected", "convolutional"),
    },
    "bilevel.tasks.logistic": {
        "penalties": ("single", "per_class", "per_feature"),
        "towards": ("mean", "start"),
    },
    "bilevel.tasks.cross_validation": {
        "loss": ("squared", "logistic"),
        "penalty": ("ridge", "ridge_per_feature", "lasso", "elastic_net", "weighted_lasso"),
    },
    "bilevel.tasks.learning_rate": {"method": ("sgd", "adam")},
    "bilevel.tasks.svm": {
        "solver": ("mirror_descent", "projected_gradient", "block_coordinate_descent", "active_set_newton"),
        "mapping": ("projected_gradient", "mirror_descent"),
        "form": ("gram", "features"),
    },
    "bilevel.tasks.meta_omniglot": {
        "protocol": ("mixed", "runs"),
        "head": ("ridge", "svm"),
        "network": ("small", "wide"),
    },
    "bilevel.tasks.meta_omniglot_maml": {"adapt": ("all", "head"), "rates": ("each", "layer", "fixed")},
    "bilevel.tasks.meta_sinusoid": {"adapt": ("all", "head"), "rates": ("each", "layer", "fixed")},
    "bilevel.loggers.WandB": {"mode": ("offline", "online", "disabled")},
}
POLICIES = ("raise", "warn", "retry", "skip")
SIZES = (  # settings of shipped tasks that are whole numbers from 1
    *("train", "validation", "test", "classes", "features", "images_per_class", "genes", "atoms", "steps"),
    *("max_steps", "iterations", "particles", "seeds", "sinusoids", "shots", "queries", "width", "held_out", "draws"),
    *("depth", "features_steps", "network_steps", "lanes", "channels"),
)
MAY_BE_ZERO = {"bilevel.tasks.meta_omniglot": ("held_out",)}  # there it means that all classes are learned from
REGRESSIONS = ("ridge", "lasso", "precision", "kernel_ridge")
CLASSIFICATIONS = (
    *("hyperclean", "logistic", "distillation", "linear_distillation", "feature_penalties", "learning_rate"),
    *("augmentation", "kernel_distillation"),
)
Parts = tuple[float, float, float]  # training, validation and second hold-out: numbers or shares of samples
PARTS: dict[str, Callable[[Mapping[str, Any]], Parts]] = {
    "distillation": lambda task: (task["train"], task["stop"], 0),
    "kernel_distillation": lambda task: (task["train"], task["stop"], 0),
    "linear_distillation": lambda task: (task["train"], 1, 0),
}


def check_shipped(config: DictConfig) -> None:
    """Raises `SettingsError` or `bilevel.data.DataError` for names and sizes that the shipped code would refuse."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    for group in ("task", "engine", "logger"):
        check_choices(group, settings.get(group) or {})
    task = settings["task"]
    package, _, name = str(task.get("_target_")).rpartition(".")
    if package == "bilevel.tasks":
        check_sizes(task)
        if "data" in task:
            check_data(name, task)


def check_choices(group: str, settings: Mapping[str, Any]) -> None:
    """Refuses a word that is no choice of a setting.

    >>> check_choices("engine", {"_target_": "bilevel.Implicit", "on_failure": "shrug"})
    Traceback (most recent call last):
    bilevel.cli.sentences.SettingsError: engine.on_failure=shrug: choose one of raise, warn, retry, skip.
    """
    target = str(settings.get("_target_"))
    if not target.startswith("bilevel."):
        return
    choices = {"on_failure": POLICIES, "precision": PRECISIONS, **CHOICES.get(target, {})}
    for name, words in choices.items():
        if name in settings and settings[name] not in words:
            value = settings[name]
            raise SettingsError(
                f"{group}.{name}={value}: choose one of {', '.join(words)}{nearest(str(value), words)}."
            )


def check_sizes(task: Mapping[str, Any]) -> None:
    """Refuses a number of things that is below 1; shares of samples are positive."""
    for name in SIZES:
        value = task.get(name)
        if value == 0 and name in MAY_BE_ZERO.get(str(task.get("_target_")), ()):
            continue
        if isinstance(value, int | float) and not (value >= 1 or (value > 0 and isinstance(value, float))):
            raise SettingsError(f"task.{name}={value}: it must be at least 1.")


def check_data(name: str, task: Mapping[str, Any]) -> None:
    """Refuses a data set that is not there, that is of another kind than the task, or too small for its parts."""
    source = data_sets.source_of(task["data"], task["root"])
    if name in REGRESSIONS:
        data_sets.refuse_classes(source)
    if name in CLASSIFICATIONS:
        data_sets.refuse_numbers(source)
    data_sets.present(source, task["root"])
    if isinstance(second := task.get("held_out"), str) and second:
        data_sets.present(data_sets.source_of(second, task["root"]), task["root"])
    if name in PARTS or {"train", "validation"} <= set(task):  # other tasks refuse by themselves what does not fit
        parts = PARTS.get(name, lambda task: (task["train"], task["validation"], task.get("stop", 0)))(task)
        counts = (data_sets.count(part, source.size.samples) for part in parts)
        data_sets.check_parts(source.size.samples, source.size.classes, *counts)
    if "corruption" in task:
        data_sets.check_corruption(source.size.classes, task["fraction"])
