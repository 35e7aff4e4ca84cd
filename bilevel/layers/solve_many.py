"""Batches of inner problems without stragglers."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bilevel.foundation.eager import Setting, compiles_once, solves_once, stated
from bilevel.foundation.typing import Batch, HParams, Params, PyTree
from bilevel.implicit.attach import asks_for_values, attach
from bilevel.linear_solve import AutoLinear, LinearSolver
from bilevel.problem import InnerProblem
from bilevel.solvers import Instance, Outcome
from bilevel.solvers.lanes import iterate_many
from bilevel.solvers.solution import Solution

LANES = 8  # problems at a time


def solve_batch(
    inner: InnerProblem,
    hparams: HParams,
    batch: Batch,
    *,
    in_axes: tuple[int | None, int | None] = (0, 0),
    lanes: int = LANES,
    linear_solve: LinearSolver = AutoLinear(),
) -> Solution:
    """``inner.solve`` of many problems of one shape, equal to its `jax.vmap`: all fields have the axis of problems.

    ``hparams`` and ``batch`` have a leading axis where ``in_axes`` says 0, and are shared where it says None. ``lanes``
    problems are solved at a time; a lane whose problem is done takes the next one, in one compiled loop. Under vmap all
    problems step until the slowest is done, so this is faster by about the ratio of the largest to the mean number of
    steps. That holds where a step of all lanes costs as much as the steps of each alone. Cold starts from a fixed key;
    differentiable in hparams and batch as ``inner.solve`` is. Raises ValueError where no axis is batched, the lengths
    differ, or there is no problem or no lane.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * h * w**2,
    ...                         init=lambda key, h: jnp.zeros(()), solver=bl.Newton(tol=1e-5))
    >>> bl.solve_batch(inner, jnp.array([0.0, 1.0, 3.0]), 4.0, in_axes=(0, None), lanes=2).params.round(4).tolist()
    [4.0, 2.0, 1.0]
    """
    number = _length((hparams, batch), in_axes)
    if lanes < 1 or number < 1:
        raise ValueError(f"bl.solve_batch: {number} problems in {lanes} lanes; at least one of each is needed.")
    if inner.solver.budget:
        raise ValueError(
            f"bl.solve_batch: bl.{type(inner.solver).__name__}(steps={inner.solver.budget}) takes equally many steps "
            "on each problem, so no lane waits for another: use jax.vmap(inner.solve)."
        )
    problem, axes = stated(inner), Setting(tuple(in_axes))
    outcome = _outcomes(problem, hparams, batch, axes, Setting((number, lanes)))
    attached = _attached.__wrapped__ if asks_for_values(inner.mapping, linear_solve) else _attached
    solved = outcome.params, outcome.status.no_solution
    unknown = attached(problem, Setting(linear_solve), solved, hparams, batch, axes)
    dual = unknown.dual if inner.constraint.by_functions else None
    return Solution(
        *(inner.primal(unknown), dual, outcome.residual, outcome.steps, outcome.status, outcome.counts),
        *(jnp.broadcast_to(outcome.curvature, number), jnp.zeros(number, jnp.int32)),
    )


@solves_once
def _outcomes(problem: Setting, hparams: HParams, batch: Batch, in_axes: Setting, sizes: Setting) -> Outcome:
    inner: InnerProblem = problem.value
    pick = _picker((hparams, batch), in_axes.value)

    def start_of(index: jax.Array) -> Params:
        return inner.cold_start(jax.random.key(0), *jax.lax.stop_gradient(pick(index)))

    def instance_of(index: jax.Array) -> Instance:
        return inner.at(*jax.lax.stop_gradient(pick(index)))

    solver, _ = inner.solver.choose(instance_of(jnp.int32(0)), start_of(jnp.int32(0)))
    solver.refuse(instance_of(jnp.int32(0)))
    return iterate_many(solver, instance_of, start_of, *sizes.value)[0]


@compiles_once
def _attached(
    problem: Setting,
    linear_solve: Setting,
    solved: tuple[Params, jax.Array],
    hparams: HParams,
    batch: Batch,
    in_axes: Setting,
) -> Params:
    def attached(solved: tuple[Params, jax.Array], hparams: HParams, batch: Batch) -> Params:
        params, lost = solved
        return attach(problem.value.mapping, linear_solve.value, params, (hparams, batch), lost=lost)

    return jax.vmap(attached, in_axes=(0, *in_axes.value))(solved, hparams, batch)


def _length(trees: tuple[PyTree, PyTree], in_axes: tuple[int | None, int | None]) -> int:
    leaves = [leaf for tree, axis in zip(trees, in_axes, strict=True) if axis == 0 for leaf in jax.tree.leaves(tree)]
    lengths = {jnp.shape(leaf)[:1] for leaf in leaves}
    if len(lengths) != 1 or lengths == {()} or any(axis not in (0, None) for axis in in_axes):
        raise ValueError(
            f"bl.solve_batch needs one length of the leading axes, and found {sorted(lengths)} with in_axes={in_axes}: "
            "give each array of a batched argument an axis of problems, and None for the argument that is shared."
        )
    return lengths.pop()[0]


def _picker(trees: tuple[PyTree, PyTree], in_axes: tuple[int | None, int | None]) -> Callable:
    """index -> the hyperparameters and the batch of that problem."""

    def pick(index: jax.Array) -> tuple:
        chosen = lambda leaf: jnp.asarray(leaf)[index]
        return tuple(
            jax.tree.map(chosen, tree) if axis == 0 else tree for tree, axis in zip(trees, in_axes, strict=True)
        )

    return pick
