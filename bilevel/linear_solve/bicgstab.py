"""Stabilised biconjugate gradients."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.foundation import vectors as tree
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree, Scalar
from bilevel.linear_solve.base import Operator, Preconditioner
from bilevel.linear_solve.krylov import Krylov
from bilevel.linear_solve.preconditioners import Identity
from bilevel.linear_solve.refine import Advance, Method


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BiCGStab(Krylov):
    """BiCGStab for any square A: two products a step, and eight vectors for any number of steps.

    Preconditioned from the right. The recurrence breaks down where a divisor is of the size of rounding: it then starts
    anew from the residual reached. A breakdown that gained nothing ends the solve as ``indefinite``, as for a skew
    symmetric A: use `GMRES` or `Dense`. ``tol`` is relative to the right-hand side (never below 10 eps). Reference: van
    der Vorst, 1992.

    >>> import jax.numpy as jnp
    >>> solution = BiCGStab()(lambda x: jnp.array([[2.0, 1.0], [0.0, 4.0]]) @ x, jnp.array([4.0, 8.0]))
    >>> solution.value.round(5).tolist(), solution.status.name
    ([1.0, 2.0], 'converged')
    """

    tol: float | jax.Array = 1e-10
    max_steps: int = field(default=1000, metadata={"static": True})
    preconditioner: Preconditioner = Identity()

    gain: ClassVar[float] = 0.9  # low: a run also ends at a breakdown, after which a new shadow residual may help

    def runs(self, operator: Operator, precondition: LinearMap, example: PyTree) -> Method:
        return functools.partial(stabilized_biconjugate_gradients, operator, precondition)


class _State(NamedTuple):
    value: PyTree
    residual: PyTree
    direction: PyTree
    overlap: Scalar  # <shadow, residual>
    norm: Scalar
    steps: jax.Array
    code: jax.Array


def stabilized_biconjugate_gradients(
    operator: Operator, precondition: LinearMap, rhs: PyTree, target: Scalar, max_steps: jax.Array
) -> Advance:
    """One run from zero, with the right-hand side as shadow residual, until convergence or breakdown."""
    roundoff = tree.epsilon(rhs)

    def product(vector: PyTree) -> tuple[PyTree, PyTree, Scalar]:
        vector = precondition(vector)
        image = tree.apply(operator, vector, operator.owner)
        return vector, image, tree.norm(image)

    def running(state: _State) -> jax.Array:
        return (state.code == Code.max_steps) & (state.steps < max_steps)

    def step(state: _State) -> _State:
        direction, image, size = product(state.direction)
        slope = tree.dot(rhs, image)
        stuck = jnp.abs(slope) <= roundoff * size
        rate = jnp.where(stuck, 0, state.overlap / jnp.where(stuck, 1, slope))
        half = tree.plus(state.residual, -rate, image)
        correction, half_image, half_size = product(half)
        flat = half_size == 0
        weight = jnp.where(flat, 0, tree.dot(half_image, half) / jnp.where(flat, 1, half_size**2))
        residual = tree.plus(half, -weight, half_image)
        length, overlap = tree.norm(residual), tree.dot(rhs, residual)
        broken = stuck | (jnp.abs(weight) * half_size <= roundoff * tree.norm(half))
        broken |= jnp.abs(overlap) <= roundoff * length
        factor = overlap / state.overlap * rate / jnp.where(broken, 1, weight)
        onward = tree.plus(residual, factor, tree.plus(state.direction, -weight, image))
        code = jnp.where(broken, Code.indefinite, Code.max_steps)
        code = jnp.where(length <= target, Code.converged, code)
        code = jnp.where(jnp.isfinite(length), code, Code.nonfinite).astype(jnp.int32)
        value = tree.plus(tree.plus(state.value, rate, direction), weight, correction)
        reach = tree.norm(direction)
        norm = jnp.maximum(state.norm, size / jnp.where(reach == 0, 1, reach))
        return _State(value, residual, onward, overlap, norm, state.steps + 1, code)

    overlap, steps = tree.dot(rhs, rhs), jnp.zeros((), jnp.int32)
    start = _State(tree.zeros_like(rhs), rhs, rhs, overlap, jnp.zeros_like(overlap), steps, steps + Code.max_steps)
    end = lax.while_loop(running, step, start)
    return Advance(end.value, end.steps, 2 * end.steps, end.code, end.norm)
