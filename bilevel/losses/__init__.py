"""Losses that state more than a function can: that they are linear in a design matrix, quadratic, or sums of
squares."""

from bilevel.losses.host_matrix import HostMatrix
from bilevel.losses.least_squares import LeastSquares
from bilevel.losses.linear import Linear, quadratic_form
from bilevel.losses.robust import Cauchy, Huber

__all__ = ["Cauchy", "HostMatrix", "Huber", "LeastSquares", "Linear", "quadratic_form"]
