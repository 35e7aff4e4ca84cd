"""A problem constrained by functions, as a solver that works on flat vectors and dense matrices sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.flatten_util import ravel_pytree

from bilevel.optimality.primal_dual import PrimalDual
from bilevel.solvers.instance import Instance


class Point(NamedTuple):
    """A `PrimalDual`, flat."""

    primal: jax.Array
    equality_dual: jax.Array
    inequality_dual: jax.Array


class Derivatives(NamedTuple):
    """What a Newton step needs: the gradient of the loss, the Hessian of the Lagrangian, and the constraints."""

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


class Program(NamedTuple):
    """minimise value(x) s.t. equality(x) == 0, inequality(x) <= 0 for a flat x."""

    value: Callable[[jax.Array], jax.Array]
    equality: Callable[[jax.Array], jax.Array]
    inequality: Callable[[jax.Array], jax.Array]
    pack: Callable[[PrimalDual], Point]
    unpack: Callable[[jax.Array, jax.Array, jax.Array], PrimalDual]

    def lagrangian(self, x: jax.Array, equality_dual: jax.Array, inequality_dual: jax.Array) -> jax.Array:
        return self.value(x) + self.weighted(x, equality_dual, inequality_dual)

    def weighted(self, x: jax.Array, equality_dual: jax.Array, inequality_dual: jax.Array) -> jax.Array:
        """The constraints, weighted by multipliers and added up."""
        return equality_dual @ self.equality(x) + inequality_dual @ self.inequality(x)

    def derivatives(self, x: jax.Array, equality_dual: jax.Array, inequality_dual: jax.Array) -> Derivatives:
        return Derivatives(
            jax.grad(self.value)(x),
            jax.hessian(self.lagrangian)(x, equality_dual, inequality_dual),
            self.equality(x),
            self.inequality(x),
            _jacobian(self.equality, x),
            _jacobian(self.inequality, x),
        )


def _jacobian(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    rows = jax.eval_shape(function, x).size
    return jax.jacrev(function)(x) if rows < x.size else jax.jacfwd(function)(x)


def program_of(instance: Instance, params: PrimalDual) -> tuple[Program, Point]:
    """The program of an instance whose mapping is `KKT`, and ``params`` as its flat point."""
    mapping = instance.mapping
    primal, unravel = ravel_pytree(params.primal)
    equality_dual, split_equality = ravel_pytree(params.equality_dual)
    inequality_dual, split_inequality = ravel_pytree(params.inequality_dual)

    def flat(function: Callable) -> Callable[[jax.Array], jax.Array]:
        def rows(x: jax.Array) -> jax.Array:
            values = ravel_pytree(function(unravel(x), instance.hparams, instance.batch))[0]
            return values.astype(x.dtype)

        return rows

    def pack(at: PrimalDual) -> Point:
        return Point(*(ravel_pytree(part)[0] for part in at))

    def unpack(x: jax.Array, nu: jax.Array, lam: jax.Array) -> PrimalDual:
        return PrimalDual(unravel(x), split_equality(nu), split_inequality(lam))

    program = Program(
        lambda x: instance.value(unravel(x)),
        flat(mapping.equality),  # type: ignore[attr-defined]
        flat(mapping.inequality),  # type: ignore[attr-defined]
        pack,
        unpack,
    )
    dtype = primal.dtype
    return program, Point(primal, equality_dual.astype(dtype), inequality_dual.astype(dtype))
