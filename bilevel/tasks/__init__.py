"""The tasks that come with the library: functions with keyword arguments that return a `bilevel.task.Task`.

Tasks of one paper stand in ``experiments/`` and load on first use.
"""

import importlib
from typing import Any

# Imported at once, because a later import of a module would replace the task of the same name.
from bilevel.tasks.augmentation import augmentation
from bilevel.tasks.cross_validation import cross_validation
from bilevel.tasks.distillation import distillation
from bilevel.tasks.equilibrium_network import equilibrium_network
from bilevel.tasks.feature_penalties import feature_penalties
from bilevel.tasks.few_shot_sinusoid import few_shot_sinusoid
from bilevel.tasks.hyperclean import hyperclean
from bilevel.tasks.kernel_distillation import kernel_distillation
from bilevel.tasks.kernel_ridge import kernel_ridge
from bilevel.tasks.lasso import lasso
from bilevel.tasks.learning_rate import learning_rate
from bilevel.tasks.linear_distillation import linear_distillation
from bilevel.tasks.logistic import logistic
from bilevel.tasks.meta_omniglot import meta_omniglot
from bilevel.tasks.meta_omniglot_maml import meta_omniglot_maml
from bilevel.tasks.meta_sinusoid import meta_sinusoid
from bilevel.tasks.ridge import ridge

_OF_PAPERS = {  # name: its module in bilevel.experiments, and its name there
    "dictionary": ("dictionary.task", "dictionary"),
    "dictionary_splits": ("dictionary.task", "dictionary_splits"),
    "molecular": ("molecular.task", "molecular"),
    "molecular_sensitivities": ("molecular.task", "molecular_sensitivities"),
    "precision": ("precision.task", "precision"),
    "precision_curves": ("precision.jacobian_errors", "precision_curves"),
    "sensitivity_arrows": ("molecular.task", "arrows"),
    "svm": ("svm.task", "svm"),
}

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]  # those of papers load on first use
    "augmentation",
    "cross_validation",
    "distillation",
    "equilibrium_network",
    "feature_penalties",
    "few_shot_sinusoid",
    "hyperclean",
    "kernel_distillation",
    "kernel_ridge",
    "lasso",
    "learning_rate",
    "linear_distillation",
    "logistic",
    "meta_omniglot",
    "meta_omniglot_maml",
    "meta_sinusoid",
    "ridge",
    *_OF_PAPERS,
]


def __getattr__(name: str) -> Any:
    if name in _OF_PAPERS:
        module, own = _OF_PAPERS[name]
        return getattr(importlib.import_module(f"bilevel.experiments.{module}"), own)
    raise AttributeError(f"bilevel.tasks has no task {name!r}; it has {', '.join(sorted(__all__))}.")


def __dir__() -> list[str]:
    return sorted(__all__)
