"""Derivatives of solutions: the implicit function theorem and the decorators that apply it."""

from bilevel.implicit.attach import Adjoint, attach, solve_adjoint, solve_system
from bilevel.implicit.mapping import FixedPoint, Mapping, Residual, System, as_mapping, plain_system
from bilevel.implicit.root import custom_fixed_point, custom_root, root_jvp, root_vjp

__all__ = [
    "Adjoint",
    "FixedPoint",
    "Mapping",
    "Residual",
    "System",
    "as_mapping",
    "attach",
    "custom_fixed_point",
    "custom_root",
    "plain_system",
    "root_jvp",
    "root_vjp",
    "solve_adjoint",
    "solve_system",
]
