"""Losses that state more than a function can: that they are linear in a design matrix, or quadratic."""

from bilevel.losses.host_matrix import HostMatrix
from bilevel.losses.linear import Linear, quadratic_form

__all__ = ["HostMatrix", "Linear", "quadratic_form"]
