"""Large problems with few active rows: another solver works on the rows that matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.settings import changed
from bilevel.foundation.typing import Counts, Params
from bilevel.losses.linear import design_of, stays_on_host
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.first_order.columns import in_column, needs_columns
from bilevel.solvers.first_order.ranking import any_in_row, first_with_room, foremost, short_step
from bilevel.solvers.first_order.rows import gradient_of_linear, multiplies_on_host, needs_rows, restricted
from bilevel.solvers.instance import Instance
from bilevel.solvers.loop import advance
from bilevel.solvers.second_order.active_set_newton import ActiveSetNewton
from bilevel.solvers.second_order.proximal_newton import ProximalNewton, model_minimum
from bilevel.solvers.second_order.quadratic_model import is_quadratic

INNER_TOL = 0.1  # a subproblem is solved to this share of its first residual, because its rows will change
WHOLE_TOL = 1e-3  # the same for the problem in all rows, which stay the same from round to round
INNER_STEPS = 100  # a subproblem that needs more goes on in the next round
ROOM = 8  # a working set has at least so many rows beside the active ones
SHARE = 16  # and at least this fraction of their number
DUE = 0.1  # a column is solved again where its residual is above this share of the mean over the columns
FIRST = 64  # on the host at least so many rows beside the active ones, or as many as are active


class Memory(NamedTuple):
    gradient: jax.Array
    members: jax.Array  # a mask of the rows of the last subproblem; by columns, of each of them


class _Sweep(NamedTuple):
    """The columns on the way through them."""

    params: jax.Array
    predictions: jax.Array  # the product of the design with the params
    members: jax.Array
    counts: Counts  # of products with one column


class Solved(NamedTuple):
    """A subproblem, solved."""

    params: jax.Array
    gradient: jax.Array  # the gradient of the whole loss
    members: jax.Array
    counts: Counts


@settings
@dataclass(frozen=True)
class WorkingSet(Solver):
    """Solves the problem in the rows that are active or violate optimality most, the others fixed, by ``solver``.

        repeat: S = active rows and those of largest ||prox(w - grad) - w||,   w_S = argmin over the rows S alone

    For sparse solutions: a step costs a solve in |S| rows and one gradient of the whole loss. If that is `bl.Linear`,
    columns are gathered, and the one product with the whole design is X' times a vector. |S| is the first of ``sizes``
    with room for some more than the active rows; where none is, ``whole`` takes all rows (shapes are fixed under jit).
    With a `bl.HostMatrix` of many samples ``sizes`` are lengths of vectors only: products take the active columns and
    about as many more. With few samples this holds only where ``whole`` would take all rows. A row is active if it is
    in S and the prox lets it move. Raises ValueError where the penalty is no sum over rows.

    With ``by_columns`` each column of params (p, q) has a working set of its own, and the columns are solved in turn.
    This suits params whose columns do not meet in the loss: folds, or classes one against the rest. There a set for all
    columns is the union of theirs, and a matrix of its Hessian would have q^2 blocks, of which q are not zero. Columns
    that do meet are solved again, one round after another, until all of them fit together. Source: Johnson and
    Guestrin, 2015; Massias, Gramfort and Salmon, 2018.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.Linear(design=lambda batch: batch, loss=lambda z, w, h, batch: jnp.sum((z - h) ** 2))
    >>> inner = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(4), penalty=bl.L1(weight=1.0),
    ...                         solver=bl.WorkingSet(sizes=(2,), tol=1e-5))
    >>> inner.solve(jnp.array([3.0, 0.1, 0.2]), jnp.eye(3, 4)).params.round(3).tolist()
    [2.5, 0.0, 0.0, 0.0]
    """

    solver: Solver = ActiveSetNewton()
    max_steps: int = 100
    tol: float | jax.Array = 1e-10
    sizes: tuple[int, ...] = (64, 256, 512, 1024)
    whole: Solver = ActiveSetNewton()
    by_columns: bool = False
    patience = 10
    unrolls = False
    shards = False
    structured = True

    def init(self, instance: Instance, params: Params) -> State:
        needs_rows(self, instance, params)
        if self.by_columns:
            needs_columns(self, instance, params)
        gradient = instance.gradient(params)
        members = params != 0 if self.by_columns else any_in_row(params != 0)
        residual = instance.residual_given(params, gradient)
        return State(params, residual, Counts(gradients=1, proxes=1), Memory(gradient, members))

    def step(self, instance: Instance, state: State) -> State:
        return self._in_turn(instance, state) if self.by_columns else self._together(instance, state)

    def _in_turn(self, instance: Instance, state: State) -> State:
        """A step in each column, at the others as they are by then."""
        params, members = state.params, state.memory.members
        design, columns = design_of(instance.loss, instance.batch), params.shape[1]

        def column_step(number: jax.Array, at: _Sweep) -> _Sweep:
            part = in_column(instance, at.params, at.predictions, number)
            own = at.params[:, number]
            gradient = gradient_of_linear(part, own, at.predictions[:, number])
            residual = part.residual_given(own, gradient)
            begun = State(own, residual, Counts().as_arrays(), Memory(gradient, at.members[:, number])).settled()
            # A solved column waits for the others: its residual is rounding, which no subproblem reduces.
            due = residual > DUE * state.residual / columns**0.5
            after = jax.lax.cond(due, lambda: self._together(part, begun).settled(), lambda: begun)
            return _Sweep(
                at.params.at[:, number].set(after.params),
                at.predictions.at[:, number].set(design @ after.params),
                at.members.at[:, number].set(after.memory.members),
                at.counts.add(after.counts),
            )

        begin = _Sweep(params, design @ params, members, Counts().as_arrays())
        end = jax.lax.fori_loop(0, columns, column_step, begin)
        gradient = gradient_of_linear(instance, end.params, end.predictions)
        residual = instance.residual_given(end.params, gradient)
        counts = state.counts.add(_of_whole(end.counts, columns)).plus(gradients=2, proxes=2)
        return State(end.params, residual, counts, Memory(gradient, end.members))

    def _together(self, instance: Instance, state: State) -> State:
        gradient, members = state.memory
        active, priority = _ranked(instance, state.params, gradient, members)
        sizes = [size for size in self.sizes if 2 * size <= state.params.shape[0]]
        number, loss, batch = jnp.sum(active), instance.loss, instance.batch
        more = number + jnp.maximum(FIRST, number)
        taken = more if multiplies_on_host(loss, batch) else None
        everything = lambda: self._on_all(instance, state.params)
        if stays_on_host(loss, batch):
            whole = replace(self, solver=self.whole)
            everything = lambda: whole._on(instance, state, priority, active.size, more)
        branches = [lambda size=size: self._on(instance, state, priority, size, taken) for size in sizes]
        chosen = first_with_room(sizes, number, jnp.maximum(ROOM, number // SHARE), last=1)
        solved = jax.lax.switch(chosen, [*branches, everything])
        residual = instance.residual_given(solved.params, solved.gradient)
        counts = state.counts.plus(gradients=1, proxes=2).add(solved.counts)
        return State(solved.params, residual, counts, Memory(solved.gradient, solved.members))

    def refresh(self, instance: Instance, state: State) -> State:
        memory = state.memory._replace(gradient=instance.gradient(state.params))
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def _on(self, instance: Instance, state: State, priority: jax.Array, size: int, taken: jax.Array | None) -> Solved:
        """A solve in the ``size`` rows of highest priority; with ``taken``, in the first ``taken`` of them."""
        indices = foremost(priority, size)
        params = state.params
        part = restricted(instance, params, indices, taken)
        rows, counts = self._part(part.instance, params[indices], state.memory.gradient[indices])
        members = jnp.zeros(params.shape[0], bool).at[indices].set(True if taken is None else jnp.arange(size) < taken)
        after = params.at[indices].set(rows)
        if part.columns is None or part.offset is None:
            return Solved(after, instance.gradient(after), members, counts)
        gradient = gradient_of_linear(instance, after, part.offset + part.columns @ rows)
        return Solved(after, gradient, members, counts)

    def _part(self, part: Instance, rows: jax.Array, gradient: jax.Array) -> tuple[jax.Array, Counts]:
        """The solution of a subproblem; of a quadratic one the minimum of its model."""
        if isinstance(self.solver, ProximalNewton) and is_quadratic(part, rows):
            rows, counts = model_minimum(part, rows, gradient, INNER_TOL)
        else:
            rows, counts = _end(self.solver, part, rows, INNER_TOL)
        return rows, counts.as_arrays()

    def _on_all(self, instance: Instance, params: jax.Array) -> Solved:
        params, counts = _end(self.whole, instance, params, WHOLE_TOL)
        everything = jnp.ones(params.shape[0], bool)
        return Solved(params, instance.gradient(params), everything, counts.as_arrays())


def _end(solver: Solver, instance: Instance, params: Params, tol: float) -> tuple[Params, Counts]:
    """The end of a rough solve and its cost, without a verdict."""
    roughly = changed(solver, max_steps=INNER_STEPS, tol=tol)
    begun = roughly.init(instance, params)
    end = advance(roughly, instance, begun, begun.residual).state
    return end.params, end.counts


def _of_whole(counts: Counts, columns: int) -> Counts:
    """The cost in products with all columns, of which one with a single column is a share."""
    share = jax.tree.map(lambda number: -(-number // columns), counts)
    return share._replace(factorizations=counts.factorizations)


def _ranked(
    instance: Instance, params: jax.Array, gradient: jax.Array, members: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Which rows are active, and the priority of all rows: active ones first, then by violation."""
    step = short_step(params, gradient)
    tangent = jax.random.normal(jax.random.key(0), params.shape, params.dtype)
    prox = lambda point: instance.prox(point, step)
    moved, derivative = jax.jvp(prox, (params - step * gradient,), (tangent,))
    violation = jnp.sum(((moved - params) / step).reshape(params.shape[0], -1) ** 2, axis=-1)
    active = (members & (any_in_row(derivative != 0) | any_in_row(moved != params))) | any_in_row(params != 0)
    return active, jnp.where(active, jnp.inf, violation)
