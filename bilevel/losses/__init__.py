"""Losses that state more than a function can: that they are linear in a design matrix, quadratic, or measured."""

from bilevel.losses.host_matrix import HostMatrix
from bilevel.losses.linear import Linear, quadratic_form
from bilevel.losses.measured import Measured

__all__ = ["HostMatrix", "Linear", "Measured", "quadratic_form"]
