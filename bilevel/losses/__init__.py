"""How a loss is stated, where more is known of it than a function says."""

from bilevel.losses.host_matrix import HostMatrix
from bilevel.losses.linear import Linear, quadratic_form

__all__ = ["HostMatrix", "Linear", "quadratic_form"]
