"""A problem constrained by functions, as a solver that works on flat vectors and dense matrices sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.interpreters.partial_eval import dce_jaxpr

from bilevel.optimality.primal_dual import PrimalDual
from bilevel.solvers.instance import Instance


class Point(NamedTuple):
    """A `PrimalDual`, flat."""

    primal: jax.Array
    equality_dual: jax.Array
    inequality_dual: jax.Array


class Constraints(NamedTuple):
    """Values and Jacobians."""

    equality: jax.Array
    inequality: jax.Array
    equality_rows: jax.Array
    inequality_rows: jax.Array

    def scaled(self, scale: jax.Array) -> Constraints:
        """The same with each inequality multiplied by its entry of ``scale``."""
        rows = scale[:, None] * self.inequality_rows
        return self._replace(inequality=scale * self.inequality, inequality_rows=rows)


class Derivatives(NamedTuple):
    """The derivatives for a Newton step: the gradient of the loss, the Hessian of the Lagrangian, and the
    constraints."""

    gradient: jax.Array
    hessian: jax.Array
    equality: jax.Array
    inequality: jax.Array
    equality_rows: jax.Array
    inequality_rows: jax.Array

    def scaled(self, scale: jax.Array) -> Derivatives:
        """The same with each inequality multiplied by its entry of ``scale``."""
        rows = scale[:, None] * self.inequality_rows
        return self._replace(inequality=scale * self.inequality, inequality_rows=rows)


class Degrees(NamedTuple):
    """The degree of each row: 1 where it is affine, 2 where it is at most quadratic, 3 where neither is known."""

    loss: int
    equality: np.ndarray
    inequality: np.ndarray


class Program(NamedTuple):
    """minimise value(x) s.t. equality(x) == 0, inequality(x) <= 0 for a flat x."""

    value: Callable[[jax.Array], jax.Array]
    equality: Callable[[jax.Array], jax.Array]
    inequality: Callable[[jax.Array], jax.Array]
    pack: Callable[[PrimalDual], Point]
    unpack: Callable[[jax.Array, jax.Array, jax.Array], PrimalDual]
    parts: Callable[[jax.Array], list[list[jax.Array]]]  # loss, equality and inequality, by the leaves they return

    def degrees(self, x: jax.Array) -> Degrees:
        """Read from the programs of the derivatives: the derivative of an affine function does not read the point."""
        shapes = jax.eval_shape(self.parts, x)
        loss, *rows = (
            np.concatenate([np.zeros(0, int), *(np.full(leaf.size, next(found)) for leaf in leaves)])
            for found in [iter(_degrees(self.parts, x))]
            for leaves in shapes
        )
        return Degrees(int(loss[0]), *rows)

    def lagrangian(self, x: jax.Array, equality_dual: jax.Array, inequality_dual: jax.Array) -> jax.Array:
        return self.value(x) + self.weighted(x, equality_dual, inequality_dual)

    def weighted(self, x: jax.Array, equality_dual: jax.Array, inequality_dual: jax.Array) -> jax.Array:
        """The constraints, weighted by multipliers and added up."""
        return equality_dual @ self.equality(x) + inequality_dual @ self.inequality(x)

    def derivatives(self, x: jax.Array, equality_dual: jax.Array, inequality_dual: jax.Array) -> Derivatives:
        return Derivatives(
            jax.grad(self.value)(x),
            jax.hessian(self.lagrangian)(x, equality_dual, inequality_dual),
            *self.constraints(x),
        )

    def constraints(self, x: jax.Array) -> Constraints:
        equality, inequality = self.equality(x), self.inequality(x)
        return Constraints(equality, inequality, _jacobian(self.equality, x), _jacobian(self.inequality, x))


def _degrees(function: Callable, x: jax.Array) -> list[int]:
    """1, 2 or 3 for each leaf of what ``function`` returns."""

    def slope(x: jax.Array, along: jax.Array) -> list:
        return jax.jvp(function, (x,), (along,))[1]

    def curvature(x: jax.Array, along: jax.Array) -> list:
        return jax.jvp(lambda x: slope(x, along), (x,), (along,))[1]

    return [3 - int(a) - int(b) for a, b in zip(_constant(slope, x), _constant(curvature, x), strict=True)]


def _constant(function: Callable, x: jax.Array) -> list[bool]:
    """For each leaf of function(x, x), whether it is independent of the first argument."""
    jaxpr = jax.make_jaxpr(function)(x, x).jaxpr
    count = len(jaxpr.outvars)
    return [not dce_jaxpr(jaxpr, [k == leaf for k in range(count)])[1][0] for leaf in range(count)]


def _jacobian(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    rows = jax.eval_shape(function, x).size
    return jax.jacrev(function)(x) if rows < x.size else jax.jacfwd(function)(x)


def program_of(instance: Instance, params: PrimalDual) -> tuple[Program, Point]:
    """The program of an instance whose mapping is `KKT`, and ``params`` as its flat point."""
    mapping: Any = instance.mapping  # a `KKT`, or another mapping with the same two functions
    primal, unravel = ravel_pytree(params.primal)
    equality_dual, split_equality = ravel_pytree(params.equality_dual)
    inequality_dual, split_inequality = ravel_pytree(params.inequality_dual)

    def flat(function: Callable) -> Callable[[jax.Array], jax.Array]:
        def rows(x: jax.Array) -> jax.Array:
            values = ravel_pytree(function(unravel(x), instance.hparams, instance.batch))[0]
            return values.astype(x.dtype)

        return rows

    def leaves(function: Callable) -> Callable[[jax.Array], list[jax.Array]]:
        return lambda x: jax.tree.leaves(function(unravel(x), instance.hparams, instance.batch))

    def pack(at: PrimalDual) -> Point:
        return Point(*(ravel_pytree(part)[0] for part in at))

    def unpack(x: jax.Array, nu: jax.Array, lam: jax.Array) -> PrimalDual:
        return PrimalDual(unravel(x), split_equality(nu), split_inequality(lam))

    program = Program(
        lambda x: instance.value(unravel(x)),
        flat(mapping.equality),
        flat(mapping.inequality),
        pack,
        unpack,
        lambda x: [[instance.value(unravel(x))], leaves(mapping.equality)(x), leaves(mapping.inequality)(x)],
    )
    dtype = primal.dtype
    return program, Point(primal, equality_dual.astype(dtype), inequality_dual.astype(dtype))
