"""Minimal residuals for symmetric systems."""

from __future__ import annotations

import functools
from collections.abc import Callable
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
class MINRES(Krylov):
    """MINRES for a symmetric A, definite or not: x minimises || b - A x || over the Krylov space.

    Lanczos' three-term recurrence, triangularised by plane rotations as it goes: one product and seven vectors.
    Singular but consistent systems get their solution of least norm; inconsistent ones end ``singular``,
    when || A r || is negligible and r is not, or x runs away. A preconditioner must be definite.
    ``tol`` is relative to the right-hand side (never below 10 eps). Raises ValueError for a system declared not
    symmetric. Reference: Paige and Saunders, 1975.

    >>> import jax.numpy as jnp
    >>> solution = MINRES()(lambda x: jnp.array([2.0, -1.0]) * x, jnp.array([4.0, 3.0]))
    >>> solution.value.round(4).tolist(), solution.status.name, int(solution.products)
    ([2.0, -3.0], 'converged', 3)
    """

    tol: float | jax.Array = 1e-10
    max_steps: int = field(default=1000, metadata={"static": True})
    preconditioner: Preconditioner = Identity()

    needs_symmetric: ClassVar[bool] = True

    def runs(self, operator: Operator, precondition: LinearMap, example: PyTree) -> Method:
        return functools.partial(minimal_residuals, operator, precondition)


class _State(NamedTuple):
    value: PyTree
    lanczos: PyTree  # r_k, the unscaled Lanczos vector
    before: PyTree  # r_{k-1}
    image: PyTree  # M r_k
    search: PyTree  # w_k
    search_before: PyTree  # w_{k-1}
    beta: Scalar  # sqrt(r_k' M r_k)
    beta_before: Scalar
    cosine: Scalar
    sine: Scalar
    dbar: Scalar  # entry above the diagonal, before this rotation
    epsilon: Scalar  # entry two above the diagonal
    length: Scalar  # norm of the residual (in the norm of M)
    norm: Scalar  # the largest |v'Av| / v'v
    column: Scalar  # the largest column of the tridiagonal matrix
    steps: jax.Array
    code: jax.Array


class _Lanczos(NamedTuple):
    """One more Lanczos vector, and its column of the tridiagonal matrix."""

    vector: PyTree  # v_k, of norm 1 (in the norm of M)
    lanczos: PyTree  # r_{k+1}
    image: PyTree  # M r_{k+1}
    alpha: Scalar  # v_k' A v_k
    beta_squared: Scalar  # r_{k+1}' M r_{k+1}
    beta: Scalar
    column: Scalar
    norm: Scalar


class _Rotation(NamedTuple):
    """The plane rotation that removes the entry below the diagonal, and the entry of the right-hand side that it
    gives."""

    delta: Scalar  # entry above the diagonal, after the rotation before
    dbar: Scalar
    divisor: Scalar  # the diagonal entry
    cosine: Scalar
    sine: Scalar
    rate: Scalar  # the step along the search direction
    length: Scalar
    optimal: jax.Array  # || A r || / || r || is rounding: no smaller residual exists
    lost: jax.Array  # the diagonal entry is rounding


def minimal_residuals(
    operator: Operator, precondition: LinearMap, rhs: PyTree, target: Scalar, max_steps: jax.Array
) -> Advance:
    """One run from zero, until the residual of the recurrence is ``target`` times the residual of the start."""
    roundoff = 10 * tree.epsilon(rhs)
    sign = jnp.where(tree.dot(rhs, precondition(rhs)) < 0, -1, 1)  # an inverse of -A is as good

    def inverse(residual: PyTree) -> tuple[PyTree, Scalar]:
        image = tree.scaled(sign, precondition(residual))
        return image, tree.dot(residual, image)

    def running(state: _State) -> jax.Array:
        return (state.code == Code.max_steps) & (state.steps < max_steps)

    def step(state: _State) -> _State:
        new = _lanczos(operator, inverse, state)
        return _advanced(state, new, _rotation(state, new, roundoff), target * start.length, roundoff)

    start = _start(inverse, rhs)
    end = lax.while_loop(running, step, start)
    return Advance(end.value, end.steps, end.steps, end.code, end.norm)


def _lanczos(operator: Operator, inverse: Callable[[PyTree], tuple[PyTree, Scalar]], state: _State) -> _Lanczos:
    vector = tree.scaled(1 / state.beta, state.image)
    image = tree.apply(operator, vector, operator.owner)
    alpha, square = tree.dot(vector, image), tree.dot(vector, vector)
    image = tree.plus(image, -state.beta / state.beta_before, state.before)
    lanczos = tree.plus(image, -alpha / state.beta, state.lanczos)
    image, beta_squared = inverse(lanczos)
    beta = jnp.sqrt(jnp.maximum(beta_squared, 0) + 0 * beta_squared)  # multiplied by zero and added, so that NaN stays
    column = jnp.maximum(state.column, jnp.sqrt(alpha**2 + beta**2))
    norm = jnp.maximum(state.norm, jnp.abs(alpha) / square)
    return _Lanczos(vector, lanczos, image, alpha, beta_squared, beta, column, norm)


def _rotation(state: _State, new: _Lanczos, roundoff: float) -> _Rotation:
    delta = state.cosine * state.dbar + state.sine * new.alpha
    gbar = state.sine * state.dbar - state.cosine * new.alpha
    dbar = -state.cosine * new.beta
    gamma = jnp.hypot(gbar, new.beta)
    optimal, lost = jnp.hypot(gbar, dbar) <= roundoff * new.column, gamma <= roundoff * new.column
    divisor = jnp.where(lost, 1, gamma)
    cosine, sine = jnp.where(lost, 1, gbar / divisor), jnp.where(lost, 0, new.beta / divisor)
    rate = jnp.where(lost, 0, cosine * state.length)
    length = jnp.where(lost, state.length, sine * state.length)
    return _Rotation(delta, dbar, divisor, cosine, sine, rate, length, optimal, lost)


def _advanced(state: _State, new: _Lanczos, turn: _Rotation, target: Scalar, roundoff: float) -> _State:
    search = tree.plus(tree.plus(new.vector, -state.epsilon, state.search_before), -turn.delta, state.search)
    search = tree.scaled(1 / turn.divisor, search)
    value = tree.plus(state.value, turn.rate, search)
    most = tree.epsilon(value) ** (-2 / 3)
    runaway = new.column * tree.norm(value) > most  # x runs along the null space, without effect on the residual
    ended = turn.optimal | turn.lost | runaway | (new.beta <= roundoff * new.column)
    code = jnp.where(ended, Code.singular, Code.max_steps)
    code = jnp.where(new.beta_squared < -roundoff * new.column**2, Code.indefinite, code)
    code = jnp.where(turn.length <= target, Code.converged, code)
    code = jnp.where(jnp.isfinite(turn.length) & jnp.isfinite(new.beta), code, Code.nonfinite)
    return _State(
        value=tree.where(runaway, state.value, value),
        lanczos=new.lanczos,
        before=state.lanczos,
        image=new.image,
        search=search,
        search_before=state.search,
        beta=new.beta,
        beta_before=state.beta,
        cosine=turn.cosine,
        sine=turn.sine,
        dbar=turn.dbar,
        epsilon=state.sine * new.beta,
        length=turn.length,
        norm=new.norm,
        column=new.column,
        steps=state.steps + 1,
        code=code.astype(jnp.int32),
    )


def _start(inverse: Callable[[PyTree], tuple[PyTree, Scalar]], rhs: PyTree) -> _State:
    image, square = inverse(rhs)
    zeros, zero, steps = tree.zeros_like(rhs), jnp.zeros_like(square), jnp.zeros((), jnp.int32)
    one, beta = zero + 1, jnp.sqrt(square)
    return _State(
        value=zeros,
        lanczos=rhs,
        before=zeros,
        image=image,
        search=zeros,
        search_before=zeros,
        beta=beta,
        beta_before=one,
        cosine=-one,
        sine=zero,
        dbar=zero,
        epsilon=zero,
        length=beta,
        norm=zero,
        column=zero,
        steps=steps,
        code=steps + Code.max_steps,
    )
