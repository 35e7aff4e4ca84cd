"""Feasible sets of inner problems."""

from bilevel.constraints.base import Constraint
from bilevel.constraints.functional import Functional
from bilevel.constraints.sets import Box, Free, Simplex

__all__ = ["Box", "Constraint", "Free", "Functional", "Simplex"]
