"""The loop that every linear solver shares: scale, solve, recompute the true residual, repeat, and say how it ended.

An iterative method is a function ``advance(rhs, target, max_steps) -> Advance`` that starts at zero and gets a
right-hand side of norm 1. Its own opinion of its convergence is never reported, because recurrences drift: the residual
is recomputed from x. As long as that pays, the method is run again on the residual (iterative refinement; for restarted
methods, the restart).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.foundation import vectors as tree
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import PyTree, Scalar
from bilevel.linear_solve.base import LinearSolution, Operator
from bilevel.linear_solve.lbfgs_pairs import LBFGSPairs


class Advance(NamedTuple):
    """The result of one run of an iterative method."""

    value: PyTree  # the correction to x
    steps: jax.Array
    products: jax.Array
    code: jax.Array  # the run's own opinion of its end; Code.max_steps until it ends
    norm: Scalar  # a lower estimate of || A ||
    learned: LBFGSPairs | None = None  # directions taken and their images


class _State(NamedTuple):
    value: PyTree
    residual: PyTree
    length: Scalar  # || residual ||
    previous: Scalar  # || residual || before the last run
    steps: jax.Array
    products: jax.Array
    code: jax.Array
    norm: Scalar
    learned: LBFGSPairs | None


Method = Callable[[PyTree, Scalar, jax.Array], Advance]


def attainable(tol: Scalar | float, example: PyTree) -> Scalar:
    """The relative residual to reach: ``tol``, and at least 10 units of roundoff, because no solve gets below."""
    return jnp.maximum(jnp.asarray(tol, tree.dtype(example)), 10 * tree.epsilon(example))


def refine(
    advance: Method,
    operator: Operator,
    rhs: PyTree,
    init: PyTree,
    tol: Scalar | float,
    max_steps: int,
    gain: float = 0.5,
    otherwise: Code = Code.indefinite,
    learned: LBFGSPairs | None = None,
) -> LinearSolution:
    """Solves A x = rhs to || rhs - A x || <= tol || rhs || by runs of ``advance``.

    Another run is made while the true residual misses the tolerance, the last run reduced it by the factor ``gain``,
    and steps are left. ``otherwise`` is the code where the runs report convergence and the true residual denies it.
    ``learned`` holds empty pairs for a method that returns pairs.
    """
    rhs, scales = tree.normalized(tree.as_vector(rhs))
    target = attainable(tol, rhs)

    def running(state: _State) -> jax.Array:
        useful = state.length < gain * state.previous
        return (state.length > target) & useful & (state.steps < max_steps)

    def body(state: _State) -> _State:
        run = advance(tree.scaled(1 / state.length, state.residual), target / state.length, max_steps - state.steps)
        value = tree.plus(state.value, state.length, run.value)
        residual = tree.minus(rhs, tree.apply(operator, value, operator.owner))
        length = tree.norm(residual)
        worse = length >= 0.999 * state.length  # no gain beyond rounding; False for NaN, so that NaN is reported
        return _State(
            tree.where(worse, state.value, value),
            tree.where(worse, state.residual, residual),
            jnp.where(worse, state.length, length),
            state.length,
            state.steps + run.steps,
            state.products + run.products + 1,
            run.code,
            jnp.maximum(state.norm, run.norm),
            state.learned and run.learned and state.learned.followed_by(run.learned),
        )

    state = lax.while_loop(running, body, _start(operator, rhs, init, scales)._replace(learned=learned))
    code = jnp.where(state.code == Code.converged, otherwise, state.code)
    code = judge(state.length, target, state.norm * tree.norm(state.value), code, rhs)
    return scaled_back(state.value, scales, state.length, state.products, code)._replace(inverse=state.learned)


def _start(operator: Operator, rhs: PyTree, init: PyTree, scales: tuple[Scalar, Scalar]) -> _State:
    scalar = tree.dtype(rhs)
    length = tree.norm(rhs)  # 1, or 0, or NaN
    infinity, zero = jnp.asarray(jnp.inf, scalar), jnp.zeros((), scalar)
    count = jnp.zeros((), jnp.int32)
    state = _State(tree.zeros_like(rhs), rhs, length, infinity, count, count, count + Code.max_steps, zero, None)
    if init is None:
        return state
    value = unscaled(init, scales, rhs)
    residual = tree.minus(rhs, tree.apply(operator, value, operator.owner))
    warm = tree.norm(residual)
    better = warm < length  # a start that is worse than zero, or is not finite, is not used
    return state._replace(
        value=tree.where(better, value, state.value),
        residual=tree.where(better, residual, state.residual),
        length=jnp.where(better, warm, length),
        products=count + 1,
    )


def judge(residual: Scalar, target: Scalar, image: Scalar, code: int | jax.Array, example: PyTree) -> jax.Array:
    """The code of a solve from its true relative residual.

    ``code`` is the code for a large residual. ``image`` estimates || A || || x || / || b ||: rounding alone leaves a
    residual of about 10 eps (1 + image), and a residual below that is ``stalled``, unless the method ran out of steps.
    The floor is capped because x grows without bound where the system has no solution, and the floor would grow with
    it.
    """
    roundoff = tree.epsilon(example)
    floor = jnp.minimum(10 * roundoff * (1 + image), 10 * roundoff**0.5)
    ended = jnp.asarray(code) != Code.max_steps
    code = jnp.where((residual <= floor) & ended, Code.stalled, code)
    code = jnp.where(residual <= target, Code.converged, code)
    return jnp.where(jnp.isfinite(residual), code, Code.nonfinite)


def damped_code(code: jax.Array, damping: Scalar | float) -> jax.Array:
    """The code of a solve of A + damping I that ended with ``code``: by design it does not solve A x = b."""
    return jnp.where((jnp.asarray(damping) > 0) & (code <= Code.stalled), Code.truncated, code)


def true_residual(operator: Operator, rhs: PyTree, value: PyTree) -> PyTree:
    """b - A x; zero where b = 0, because x = 0 then solves the system even if A holds NaN."""
    image = tree.apply(operator, value, operator.owner)
    return tree.where(tree.norm(rhs) == 0, rhs, tree.minus(rhs, image))


def unscaled(value: PyTree, scales: tuple[Scalar, Scalar], example: PyTree) -> PyTree:
    """A solution in the scale of the normalised system, with the dtypes of ``example``."""
    value = tree.as_vector(value)
    return jax.tree.map(lambda b, x: (x / scales[0] / scales[1]).astype(b.dtype), example, value)


def scaled_back(
    value: PyTree,
    scales: tuple[Scalar, Scalar],
    residual: Scalar,
    products: int | jax.Array,
    code: jax.Array,
    factorizations: int | jax.Array = 0,
) -> LinearSolution:
    """The solution in the scale of the right-hand side; ``nonfinite`` where that scale makes it overflow."""
    value = tree.scaled(scales[0], tree.scaled(scales[1], value))
    code = jnp.where(tree.all_finite(value) | (code > Code.stalled), code, Code.nonfinite)
    return LinearSolution(value, residual, jnp.asarray(products, jnp.int32), Status.of(code), factorizations)
