"""Many problems of one shape in a few lanes: when a lane has solved its problem, it takes the next one from the
queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Params, PyTree
from bilevel.solvers.base import Solver
from bilevel.solvers.instance import Instance
from bilevel.solvers.loop import Judged, Outcome, Progress, enter, goes_on, outcome, sentence, take_step


class Lane(NamedTuple):
    """A problem being solved; all fields with an axis of lanes."""

    owner: jax.Array  # the number of the problem
    busy: jax.Array
    reference: jax.Array  # the residual of the cold start
    progress: Progress


class Queue(NamedTuple):
    lanes: Lane
    waiting: jax.Array  # the number of the next problem
    outcomes: Outcome  # with an axis of problems; without the solvers' states
    sweeps: jax.Array


def iterate_many(
    solver: Solver,
    instance_of: Callable[[jax.Array], Instance],
    start_of: Callable[[jax.Array], Params],
    number: int,
    lanes: int,
) -> tuple[Outcome, jax.Array]:
    """The outcomes of problems 0 .. number - 1 from their cold starts, and the sweeps (steps of all lanes) it took.

    ``instance_of(i)`` and ``start_of(i)`` take a traced number. Under vmap all problems step until the slowest is done,
    which takes number x max(steps) steps. Here it takes about sum(steps) / lanes sweeps of ``lanes`` steps each.
    """
    work, lanes = _Work(solver, instance_of, start_of, number), min(lanes, number)
    first = jax.vmap(work.admit)(jnp.arange(lanes, dtype=jnp.int32))
    _, shapes = jax.eval_shape(jax.vmap(work.leave), first)
    empty: PyTree = jax.tree.map(lambda leaf: jnp.zeros((number, *leaf.shape[1:]), leaf.dtype), shapes)
    queue = Queue(first, jnp.int32(lanes), empty, jnp.int32(0))
    end = jax.lax.while_loop(lambda queue: jnp.any(queue.lanes.busy), work.sweep, queue)
    return end.outcomes, end.sweeps


@dataclass(frozen=True, eq=False)
class _Work:
    """The problems and their solver, and what is done with a lane and with the queue."""

    solver: Solver
    instance_of: Callable[[jax.Array], Instance]
    start_of: Callable[[jax.Array], Params]
    number: int

    def admit(self, owner: jax.Array) -> Lane:
        instance, start = self.instance_of(owner), self.start_of(owner)
        reference = instance.residual_norm(start)
        progress = enter(self.solver, self.solver.init(instance, start), reference, jnp.inf)
        return Lane(owner, jnp.bool_(True), reference, progress)

    def goes(self, lane: Lane) -> jax.Array:
        return goes_on(self.solver, lane.progress)

    def leave(self, lane: Lane) -> tuple[Judged, Outcome]:
        instance = self.instance_of(lane.owner)
        judged = sentence(self.solver, instance, lane.progress, lane.reference, self.start_of(lane.owner))
        return judged, outcome(instance, judged)._replace(state=())  # type: ignore[arg-type]  # a queue keeps no states

    def step(self, lane: Lane) -> Lane:
        after = take_step(self.solver, self.instance_of(lane.owner), lane.progress)
        going = lane.busy & self.goes(lane)  # a problem that has just come in may be solved at its start
        return lane._replace(progress=trees.select(going, after, lane.progress))

    def exchange(self, queue: Queue, done: jax.Array) -> Queue:
        """Judges the lanes that stopped, stores the outcomes of the solved ones and lets the next problems in."""
        judged, found = jax.vmap(self.leave)(queue.lanes)
        progress = jax.vmap(trees.select)(done, judged.progress, queue.lanes.progress)
        queue, done = queue._replace(lanes=queue.lanes._replace(progress=progress)), done & ~judged.goes_on
        place = jnp.where(done, queue.lanes.owner, self.number)
        outcomes = jax.tree.map(lambda all, new: all.at[place].set(new, mode="drop"), queue.outcomes, found)
        owner = queue.waiting + jnp.cumsum(done) - 1
        enters = done & (owner < self.number)
        fresh = jax.vmap(self.admit)(jnp.clip(owner, 0, self.number - 1).astype(jnp.int32))
        entered = jax.vmap(trees.select)(enters, fresh, queue.lanes)
        entered = entered._replace(busy=jnp.where(done, enters, queue.lanes.busy))
        waiting = queue.waiting + jnp.sum(enters)
        return Queue(entered, waiting.astype(jnp.int32), outcomes, queue.sweeps)

    def sweep(self, queue: Queue) -> Queue:
        done = queue.lanes.busy & ~jax.vmap(self.goes)(queue.lanes)
        queue = jax.lax.cond(jnp.any(done), lambda: self.exchange(queue, done), lambda: queue)
        return queue._replace(lanes=jax.vmap(self.step)(queue.lanes), sweeps=queue.sweeps + 1)
