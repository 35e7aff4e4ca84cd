"""Proximal operators: functions ``(point, step_size, *weights)`` that return argmin_y step_size g(y) + ||y - x||^2 / 2.

Values and derivatives, in the point, the step and every weight, are exact and finite at kinks.
"""

from bilevel.prox.combinators import conjugate, from_projection
from bilevel.prox.norms import group_lasso, l_inf, nuclear_norm
from bilevel.prox.separable import (
    elastic_net,
    huber,
    l1,
    log_barrier,
    non_negative_l1,
    non_negative_ridge,
    ridge,
    zero,
)
from bilevel.prox.sequences import sorted_l1, total_variation

__all__ = [
    "conjugate",
    "elastic_net",
    "from_projection",
    "group_lasso",
    "huber",
    "l1",
    "l_inf",
    "log_barrier",
    "non_negative_l1",
    "non_negative_ridge",
    "nuclear_norm",
    "ridge",
    "sorted_l1",
    "total_variation",
    "zero",
]
