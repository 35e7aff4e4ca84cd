"""Conjugate gradients."""

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
from bilevel.linear_solve.lbfgs_pairs import LBFGSPairs
from bilevel.linear_solve.preconditioners import Identity
from bilevel.linear_solve.refine import Advance, Method


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CG(Krylov):
    """Conjugate gradients for a symmetric A, positive or negative definite.

        x_{k+1} = x_k + a_k p_k,   a_k = r_k' M r_k / p_k' A p_k,   p_{k+1} = M r_{k+1} + b_k p_k

    The sign of A is the sign of the first p'Ap, or the one that the operator declares. A later change of sign ends the
    run as ``indefinite``; a p'Ap of the size of rounding ends it as ``singular``. Singular but consistent systems are
    solved. ``tol`` is relative to the right-hand side (|| b - A x || <= tol || b ||, never below 10 eps: 2e-15 in
    float64, 1.2e-6 in float32). ``preconditioner`` is a strategy (`Jacobi`, `RandomizedNystrom`, `LBFGSPairs`), set up
    at each call; the argument of the call takes precedence over it. ``memory`` is a number of directions p that are
    returned with their images A p as `LinearSolution.inverse`, spread evenly over the steps: a preconditioner for
    nearby systems (Morales and Nocedal, 2000). Raises ValueError for a system declared not symmetric. Reference:
    Hestenes and Stiefel, 1952.

    >>> import jax.numpy as jnp
    >>> solution = CG()(lambda x: 2.0 * x, jnp.array([4.0, 6.0]))
    >>> solution.value.round(6).tolist(), solution.status.name, int(solution.products)
    ([2.0, 3.0], 'converged', 2)
    """

    tol: float | jax.Array = 1e-10
    max_steps: int = field(default=1000, metadata={"static": True})
    preconditioner: Preconditioner = Identity()
    memory: int = field(default=0, metadata={"static": True})

    needs_symmetric: ClassVar[bool] = True

    def runs(self, operator: Operator, precondition: LinearMap, example: PyTree) -> Method:
        sign = operator.sign if operator.definite else 0
        return functools.partial(conjugate_gradients, operator, precondition, sign, memory=self.memory)

    def learns(self, example: PyTree) -> LBFGSPairs | None:
        return LBFGSPairs.empty(example, self.memory) if self.memory else None


class _State(NamedTuple):
    value: PyTree
    residual: PyTree
    direction: PyTree
    decrease: Scalar  # r' M r
    sign: Scalar  # of p'Ap
    norm: Scalar  # the largest |p'Ap| / p'p
    steps: jax.Array
    code: jax.Array
    taken: Taken | None


class Taken(NamedTuple):
    """Directions of length 1 with their images, spread evenly over the steps."""

    pairs: LBFGSPairs
    numbers: jax.Array  # the step that each was taken in; -1 in an empty slot

    @classmethod
    def none(cls, example: PyTree, memory: int) -> Taken | None:
        return cls(LBFGSPairs.empty(example, memory), jnp.full(memory, -1, jnp.int32)) if memory else None

    def noted(self, step: jax.Array, direction: PyTree, image: PyTree, length: Scalar, sound: jax.Array) -> Taken:
        """The pairs with one more. Where all slots are full every second pair is dropped, and from then on every second
        step is kept."""
        size = self.numbers.size
        stride = 2 ** jnp.ceil(jnp.log2(jnp.maximum((step + 1) / size, 1.0))).astype(jnp.int32)
        free = (self.numbers < 0) | (self.numbers % stride != 0)
        slot = jnp.argmax(free)
        noted = sound & (step % stride == 0) & free[slot]
        scale = 1 / jnp.where(noted, length, 1)

        def put(stack: jax.Array, new: jax.Array) -> jax.Array:
            return stack.at[slot].set(jnp.where(noted, scale.astype(new.dtype) * new, stack[slot]))

        pairs = jax.tree.map(put, self.pairs, LBFGSPairs(direction, image))
        return Taken(pairs, self.numbers.at[slot].set(jnp.where(noted, step, self.numbers[slot])))

    def in_order(self) -> LBFGSPairs:
        """The pairs in the order of their steps, empty slots first."""
        order = jnp.argsort(self.numbers)
        return jax.tree.map(lambda stack: stack[order], self.pairs)


def conjugate_gradients(
    operator: Operator,
    precondition: LinearMap,
    sign: int,
    rhs: PyTree,
    target: Scalar,
    max_steps: jax.Array,
    memory: int = 0,
) -> Advance:
    """One run from zero until the residual of the recurrence is below ``target``; ``sign`` 0 means unknown."""
    roundoff = 10 * tree.epsilon(rhs)

    def running(state: _State) -> jax.Array:
        return (state.code == Code.max_steps) & (state.steps < max_steps)

    def step(state: _State) -> _State:
        image = tree.apply(operator, state.direction, operator.owner)
        curvature, square = tree.dot(state.direction, image), tree.dot(state.direction, state.direction)
        # The first curvature sets the sign where the operator declares none.
        sign = jnp.where(state.sign == 0, jnp.sign(curvature), state.sign)
        norm = jnp.maximum(state.norm, jnp.abs(curvature) / jnp.where(square == 0, 1, square))
        flat = jnp.abs(curvature) <= roundoff * norm * square  # p'Ap is rounding
        broken = flat | (sign * curvature < 0)
        rate = jnp.where(broken, 0, state.decrease / jnp.where(broken, 1, curvature))
        residual = tree.plus(state.residual, -rate, image)
        direction = precondition(residual)
        decrease, length = tree.dot(residual, direction), tree.norm(residual)
        broken |= jnp.sign(decrease) * jnp.sign(state.decrease) < 0  # the preconditioner is not definite
        sound = ~broken & jnp.isfinite(square)
        return _State(
            tree.plus(state.value, rate, state.direction),
            residual,
            tree.plus(direction, decrease / state.decrease, state.direction),
            decrease,
            sign,
            norm,
            state.steps + 1,
            _code(broken, flat, length, target),
            state.taken and state.taken.noted(state.steps, state.direction, image, jnp.sqrt(square), sound),
        )

    end = lax.while_loop(running, step, _start(precondition, sign, rhs, memory))
    return Advance(end.value, end.steps, end.steps, end.code, end.norm, end.taken and end.taken.in_order())


def _code(broken: jax.Array, flat: jax.Array, length: Scalar, target: Scalar) -> jax.Array:
    """The code after a step; ``flat`` says that p'Ap was rounding, ``length`` is the norm of the residual."""
    code = jnp.where(broken, jnp.where(flat, Code.singular, Code.indefinite), Code.max_steps)
    # After the breakdowns, because a step that solves the system may also exhaust the space.
    code = jnp.where(length <= target, Code.converged, code)
    return jnp.where(jnp.isfinite(length), code, Code.nonfinite).astype(jnp.int32)


def _start(precondition: LinearMap, sign: int, rhs: PyTree, memory: int) -> _State:
    scalar, steps = tree.dtype(rhs), jnp.zeros((), jnp.int32)
    direction = precondition(rhs)
    decrease, norm = tree.dot(rhs, direction), jnp.zeros((), scalar)
    code, taken = steps + Code.max_steps, Taken.none(rhs, memory)
    return _State(tree.zeros_like(rhs), rhs, direction, decrease, jnp.asarray(sign, scalar), norm, steps, code, taken)
