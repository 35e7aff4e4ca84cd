"""A while loop with a reverse mode of its own, which stores states and never the data that the steps read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.custom_derivatives import SymbolicZero

from bilevel.foundation.refusals import forward_only
from bilevel.foundation.typing import PyTree

TWICE = (
    "The gradient through the steps of a solver (bl.Unrolled) is taken by reverse mode, which cannot go back over it "
    "once more. Differentiate the gradient in forward mode: jax.jacfwd or jax.jvp in place of jax.jacrev, jax.vjp or "
    "jax.grad."
)

LOOP = (
    "A step of this solver has a loop in it (a line search), which reverse mode cannot go back over. Use "
    "bl.Implicit(), bl.Forward(), or an optimiser without a line search (as optax.lbfgs(linesearch=None))."
)

Leaves = list[Any]  # the leaves of a state; the last one says whether the loop goes on


class Walk(NamedTuple):
    """A loop on its way, with the states that its segments started from."""

    leaves: Leaves
    starts: Leaves
    steps: jax.Array


@partial(jax.tree_util.register_dataclass, data_fields=("constants", "starts", "steps"), meta_fields=("perturbed",))
@dataclass(frozen=True)
class Kept:
    """The values that the reverse pass needs; ``perturbed`` are the places of the constants that have a derivative."""

    constants: Leaves
    starts: Leaves
    steps: jax.Array
    perturbed: tuple[int, ...]


def segment_length(max_steps: int) -> int:
    """Steps from one stored state to the next: about sqrt(max_steps), the fewest states in all."""
    return max(1, math.isqrt(max(max_steps, 1) - 1) + 1)


def differentiable_while(
    advance: Callable[[PyTree], PyTree],
    begin: PyTree,
    going: jax.Array,
    max_steps: int,
    walk: Callable[[PyTree], PyTree] | None = None,
) -> PyTree:
    """The state after ``state, going = advance(state)`` for as long as ``going``, at most ``max_steps`` times.

    Reverse mode keeps the states at the start of each segment of about sqrt(max_steps) steps. It goes back over the
    segments that were used, takes the steps of each once more and applies the vector-Jacobian product of one step at a
    time. Only steps that were taken are differentiated. The cotangents of the differentiated values that ``advance``
    closes over are summed on the way; other data are read in place. Forward mode over reverse mode works; reverse mode
    twice raises TypeError. ``walk`` is the same step without its derivative rule, for steps that are only taken; give
    it where forward mode cannot take ``advance``. Source: Griewank and Walther, 2008, chapter 12 (checkpointing).
    """
    leaves, structure = jax.tree.flatten((begin, going))
    leaves = [jnp.asarray(leaf) for leaf in leaves]

    def program(function: Callable[[PyTree], PyTree]) -> Any:  # what it closes over is in its constants
        flat = lambda leaves: jax.tree.leaves(function(jax.tree.unflatten(structure, leaves)[0]))
        return jax.make_jaxpr(flat)(leaves)

    step = program(advance)
    walked = step if walk is None else program(walk)
    constants = list({id(one): one for one in (*step.consts, *walked.consts)}.values())
    number = {id(one): place for place, one in enumerate(constants)}
    of_step, of_walked = (tuple(number[id(one)] for one in closed.consts) for closed in (step, walked))
    loop = _Loop(step.jaxpr, walked.jaxpr, of_step, of_walked, segment_length(max_steps), max_steps)
    return jax.tree.unflatten(structure, loop.run(constants, leaves))[0]


@dataclass(frozen=True, eq=False)
class _Loop:
    step: Any  # a jaxpr: constants, leaves -> leaves, for steps that are differentiated
    walked: Any  # the same, for steps that are only taken
    of_step: tuple[int, ...]  # which constants they read
    of_walked: tuple[int, ...]
    length: int
    max_steps: int

    def run(self, constants: Leaves, leaves: Leaves) -> Leaves:
        function = jax.custom_vjp(self.plain)
        function.defvjp(self.keep, partial(self.pull, [leaf.aval for leaf in leaves]), symbolic_zeros=True)
        return function(constants, leaves)

    def advance(self, constants: Leaves, leaves: Leaves) -> Leaves:
        return eval_jaxpr(self.walked, [constants[place] for place in self.of_walked], *leaves)

    def differentiable(self, constants: Leaves, leaves: Leaves) -> Leaves:
        return eval_jaxpr(self.step, [constants[place] for place in self.of_step], *leaves)

    def plain(self, constants: Leaves, leaves: Leaves) -> Leaves:
        def body(carry: tuple) -> tuple:
            return self.advance(constants, carry[0]), carry[1] + 1

        begin = (leaves, jnp.int32(0))
        return jax.lax.while_loop(lambda carry: carry[0][-1] & (carry[1] < self.max_steps), body, begin)[0]

    def keep(self, constants: Leaves, leaves: Leaves) -> tuple[Leaves, Kept]:
        """The loop, which stores the state at the start of each segment."""
        perturbed = tuple(
            number
            for number, one in enumerate(constants)
            if number in self.of_step and one.perturbed and jnp.issubdtype(jnp.result_type(one.value), jnp.inexact)
        )
        constants, leaves = [one.value for one in constants], [one.value for one in leaves]

        def stride(carry: tuple) -> tuple:
            return self.advance(constants, carry[0]), carry[1] + 1

        def segment(walk: Walk) -> Walk:
            starts = _write(walk.starts, walk.steps // self.length, walk.leaves)
            end = jnp.minimum(walk.steps + self.length, self.max_steps)
            leaves, steps = jax.lax.while_loop(
                lambda carry: carry[0][-1] & (carry[1] < end), stride, (walk.leaves, walk.steps)
            )
            return Walk(leaves, starts, steps)

        begin = Walk(leaves, _room(leaves, max(1, -(-self.max_steps // self.length))), jnp.int32(0))
        walk = jax.lax.while_loop(lambda walk: walk.leaves[-1] & (walk.steps < self.max_steps), segment, begin)
        return forward_only(walk.leaves, TWICE), Kept(constants, walk.starts, walk.steps, perturbed)

    def pull(self, avals: list, kept: Kept, cotangents: Leaves) -> tuple[Leaves, Leaves]:
        """The cotangents of constants and first state, None where there is no derivative."""
        moving = [number for number, aval in enumerate(avals) if jnp.issubdtype(aval.dtype, jnp.inexact)]
        state = [_instantiated(cotangents[number], avals[number]) for number in moving]
        total = [jnp.zeros_like(kept.constants[number]) for number in kept.perturbed]

        def back(leaves: Leaves, state: Leaves, total: Leaves) -> tuple[Leaves, Leaves]:
            def moved(some: Leaves, chosen: Leaves) -> Leaves:
                constants = _put(kept.constants, kept.perturbed, chosen)
                after = self.differentiable(constants, _put(leaves, moving, some))
                return [after[number] for number in moving]

            chosen = [kept.constants[number] for number in kept.perturbed]
            try:
                _, transposed = jax.vjp(moved, [leaves[number] for number in moving], chosen)
                state, more = transposed(state)
            except ValueError as error:
                if "Reverse-mode differentiation does not work" not in str(error):
                    raise
                raise TypeError(LOOP) from error
            return state, [one + other for one, other in zip(total, more, strict=True)]

        def segment(carry: tuple) -> tuple:
            number, state, total = carry
            states, last = self.states(kept, number)

            def body(carry: tuple) -> tuple:
                at, state, total = carry
                return (at - 1, *back(_read(states, at), state, total))

            return (number - 1, *jax.lax.while_loop(lambda carry: carry[0] >= 0, body, (last, state, total))[1:])

        segments = (kept.steps + self.length - 1) // self.length
        _, state, total = jax.lax.while_loop(lambda carry: carry[0] >= 0, segment, (segments - 1, state, total))
        state, total = forward_only((state, total), TWICE)
        still: Leaves = [None] * len(kept.constants)
        unmoved: Leaves = [None] * len(avals)
        return _put(still, kept.perturbed, total), _put(unmoved, moving, state)

    def states(self, kept: Kept, segment: jax.Array) -> tuple[Leaves, jax.Array]:
        """The states that the steps of a segment start from, and the place of the last of them."""
        first = _read(kept.starts, segment)
        last = jnp.minimum(self.length, kept.steps - segment * self.length) - 1

        def body(carry: tuple) -> tuple:
            at, leaves, states = carry
            leaves = self.advance(kept.constants, leaves)
            return at + 1, leaves, _write(states, at + 1, leaves)

        room = _write(_room(first, self.length), jnp.int32(0), first)
        begin = (jnp.int32(0), first, room)
        return jax.lax.while_loop(lambda carry: carry[0] < last, body, begin)[2], last


def _room(leaves: Leaves, number: int) -> Leaves:
    return [jnp.broadcast_to(leaf, (number, *leaf.shape)) for leaf in leaves]


def _write(rows: Leaves, at: jax.Array, leaves: Leaves) -> Leaves:
    return [jax.lax.dynamic_update_index_in_dim(row, leaf, at, 0) for row, leaf in zip(rows, leaves, strict=True)]


def _read(rows: Leaves, at: jax.Array) -> Leaves:
    return [jax.lax.dynamic_index_in_dim(row, at, 0, keepdims=False) for row in rows]


def _put(leaves: Leaves, places: Any, values: Leaves) -> Leaves:
    """The leaves with ``values`` at some places."""
    found = list(leaves)
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found


def _instantiated(cotangent: Any, aval: Any) -> jax.Array:
    return jnp.zeros(aval.shape, aval.dtype) if isinstance(cotangent, SymbolicZero) else cotangent
