"""The tasks that come with the library: functions with keyword arguments that return a `bilevel.task.Task`."""

# All at once: were they loaded on demand, the name of a task would mean its module after the first import of that.
from bilevel.tasks.dictionary import dictionary, dictionary_splits
from bilevel.tasks.distillation import distillation
from bilevel.tasks.few_shot_sinusoid import few_shot_sinusoid
from bilevel.tasks.hyperclean import hyperclean
from bilevel.tasks.jacobian_errors import precision_curves
from bilevel.tasks.lasso import lasso
from bilevel.tasks.linear_distillation import linear_distillation
from bilevel.tasks.logistic import logistic
from bilevel.tasks.molecular import arrows as sensitivity_arrows
from bilevel.tasks.molecular import molecular, molecular_sensitivities
from bilevel.tasks.precision import precision
from bilevel.tasks.ridge import ridge
from bilevel.tasks.svm import svm

__all__ = [
    "dictionary",
    "dictionary_splits",
    "distillation",
    "few_shot_sinusoid",
    "hyperclean",
    "lasso",
    "linear_distillation",
    "logistic",
    "molecular",
    "molecular_sensitivities",
    "precision",
    "precision_curves",
    "ridge",
    "sensitivity_arrows",
    "svm",
]
