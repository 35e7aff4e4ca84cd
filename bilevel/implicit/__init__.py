"""Derivatives of solutions: the implicit function theorem and the decorators that apply it."""

from bilevel.implicit.attach import attach, solve_system, solve_system_counted
from bilevel.implicit.mapping import FixedPoint, Mapping, Residual, System, as_mapping, plain_system
from bilevel.implicit.prepare import PreparedSystem, Solve, prepare_system
from bilevel.implicit.root import custom_fixed_point, custom_root, root_jvp, root_vjp

__all__ = [
    "FixedPoint",
    "Mapping",
    "PreparedSystem",
    "Residual",
    "Solve",
    "System",
    "as_mapping",
    "attach",
    "custom_fixed_point",
    "custom_root",
    "plain_system",
    "prepare_system",
    "root_jvp",
    "root_vjp",
    "solve_system",
    "solve_system_counted",
]
