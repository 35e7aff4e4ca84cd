"""Losses that state more than a function can: that they are linear in a design matrix, quadratic, sums of squares, or
measured; and ready-made ones."""

from bilevel.losses.duals import c_svm, crammer_singer, crammer_singer_weights
from bilevel.losses.generalized import huber, logistic, multinomial, poisson, quantile, squared, squared_hinge
from bilevel.losses.host_matrix import HostMatrix
from bilevel.losses.least_squares import LeastSquares
from bilevel.losses.linear import Linear, quadratic_form
from bilevel.losses.measured import Measured
from bilevel.losses.quadratic import Quadratic
from bilevel.losses.robust import CauchyRho, HuberRho

__all__ = [
    "CauchyRho",
    "HostMatrix",
    "HuberRho",
    "LeastSquares",
    "Linear",
    "Measured",
    "Quadratic",
    "c_svm",
    "crammer_singer",
    "crammer_singer_weights",
    "huber",
    "logistic",
    "multinomial",
    "poisson",
    "quadratic_form",
    "quantile",
    "squared",
    "squared_hinge",
]
