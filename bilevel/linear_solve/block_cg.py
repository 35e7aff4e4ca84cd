"""Conjugate gradients that solve for many right-hand sides together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation import vectors as tree
from bilevel.foundation.closures import hoisted
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree, Scalar
from bilevel.linear_solve.base import Operator, Preconditioner
from bilevel.linear_solve.block import block_conjugate_gradients
from bilevel.linear_solve.cg import conjugate_gradients
from bilevel.linear_solve.krylov import Krylov
from bilevel.linear_solve.preconditioners import Identity
from bilevel.linear_solve.refine import Advance, Method


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BlockCG(Krylov):
    """`CG` that puts the right-hand sides of one system under ``jax.vmap`` into one Krylov space.

    For one right-hand side it is `CG`. Under ``jax.vmap`` over right-hand sides (``jax.jacrev``, ``jax.jacfwd``,
    several cotangents of `root_vjp`) each step minimises the error over the directions of all right-hand sides. So k
    right-hand sides together find k outlying eigenvalues in a step or two; each alone takes k steps. More than
    ``block`` right-hand sides are solved in blocks of that size, side by side, with one product a step for all of them.
    Right-hand sides may be equal, dependent or zero. Where a block breaks down, because the system is not definite,
    each lane goes on alone with `CG` and gets its own status. Batched operators are solved by `CG`, lane by lane, and
    so is a batch of one.

    ``tol``, ``max_steps`` and ``preconditioner`` are as in `CG`. ``products`` counts for each lane one product for each
    step that the lane was in its block, and the recomputed residuals. Within a block pytrees are ravelled. Raises
    ValueError for a system declared not symmetric. References: O'Leary, 1980; Dubrulle, 2001.

    >>> import jax, jax.numpy as jnp
    >>> scales = jnp.array([1.0, 1.0, 1.0, 50.0, 80.0])
    >>> rhs = jnp.array([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 0.0, 1.0, -1.0, 1.0], [2.0, 1.0, 0.0, 1.0, 3.0]])
    >>> solution = jax.vmap(lambda b: BlockCG(tol=1e-4)(lambda x: scales * x, b))(rhs)
    >>> solution.status.name, bool(jnp.allclose(scales * solution.value, rhs, atol=1e-2)), solution.products.tolist()
    ('converged', True, [3, 3, 3])
    """

    tol: float | jax.Array = 1e-10
    max_steps: int = field(default=1000, metadata={"static": True})
    preconditioner: Preconditioner = Identity()
    block: int = field(default=64, metadata={"static": True})

    needs_symmetric: ClassVar[bool] = True

    def runs(self, operator: Operator, precondition: LinearMap, example: PyTree) -> Method:
        return together(operator, precondition, example, self.block)


def together(operator: Operator, precondition: LinearMap, example: PyTree, block: int) -> Method:
    """Runs of conjugate gradients. Where ``jax.vmap`` batches a run over right-hand sides alone, it becomes a run of
    blocks. The values that A and M close over are arguments, because the batching rule has to see whether they are
    batched."""
    matvec, of_matvec = hoisted(lambda x: tree.apply(operator, x, operator.owner), example)
    apply, of_apply = hoisted(precondition, example)
    sign = operator.sign if operator.definite else 0

    def maps(constants: tuple[list, list]) -> tuple[Operator, LinearMap]:
        return replace(operator, matvec=functools.partial(matvec, constants[0])), functools.partial(apply, constants[1])

    def run(constants: tuple, rhs: PyTree, target: Scalar, max_steps: jax.Array) -> Advance:
        return conjugate_gradients(*maps(constants), sign, rhs, target, max_steps)

    def run_block(constants: tuple, rhs: PyTree, targets: jax.Array, max_steps: jax.Array) -> Advance:
        return in_blocks(*maps(constants), sign, block, rhs, targets, max_steps)

    alone, batch = jax.custom_batching.custom_vmap(run), jax.custom_batching.custom_vmap(run_block)

    @alone.def_vmap
    def _(size: int, batched: list, constants: tuple, *lanes: PyTree) -> tuple[Advance, Advance]:
        if size == 1 or any(jax.tree.leaves(batched[0])):
            result = jax.vmap(run, _axes(batched))(constants, *lanes)
        else:
            result = batch(constants, *_spread(size, batched[1:], lanes))
        return result, jax.tree.map(lambda _: True, result)

    @batch.def_vmap
    def _(size: int, batched: list, constants: tuple, *lanes: PyTree) -> tuple[Advance, Advance]:
        if any(jax.tree.leaves(batched[0])):
            result = jax.vmap(run_block, _axes(batched))(constants, *lanes)
        else:
            lanes = _spread(size, batched[1:], lanes)
            many = lanes[-1].shape[1]
            merged = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), lanes)
            result = jax.tree.map(lambda leaf: leaf.reshape(size, many, *leaf.shape[1:]), batch(constants, *merged))
        return result, jax.tree.map(lambda _: True, result)

    return functools.partial(alone, (of_matvec, of_apply))


def _axes(batched: list) -> PyTree:
    return tuple(jax.tree.map(lambda is_batched: 0 if is_batched else None, batched))


def _spread(size: int, batched: list, lanes: tuple) -> tuple:
    """The leaves of ``lanes``, each with a leading axis of lanes."""

    def spread(is_batched: bool, leaf: jax.Array) -> jax.Array:
        return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

    return tuple(jax.tree.map(spread, flags, lane) for flags, lane in zip(batched, lanes, strict=True))


def in_blocks(
    operator: Operator,
    precondition: LinearMap,
    sign: int,
    block: int,
    rhs: PyTree,
    targets: jax.Array,
    max_steps: jax.Array,
) -> Advance:
    """Runs from zero on right-hand sides with a leading axis, in blocks; each lane of a block that broke goes on alone.

    Where A may be singular these lanes begin anew, because one right-hand side may have brought a null direction into
    all solutions of its block.
    """
    unique = bool(operator.definite and not operator.singular)
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], rhs))[1]
    flat = jax.vmap(lambda vector: ravel_pytree(vector)[0])(rhs)
    wanted = targets < 1  # the other lanes have left the block: they are done, or had nothing to do
    count = len(flat)
    blocks = -(-count // block)
    size = -(-count // blocks)

    def cut(lanes: jax.Array, filling: Scalar | float) -> jax.Array:
        padded = jnp.full((blocks * size, *lanes.shape[1:]), filling, lanes.dtype).at[:count].set(lanes)
        return padded.reshape(blocks, size, *lanes.shape[1:])

    def joined(lanes: jax.Array) -> jax.Array:
        return lanes.reshape(-1, *lanes.shape[2:])[:count]

    def flattened(linear_map: LinearMap) -> Callable[[jax.Array], jax.Array]:
        return lambda vector: ravel_pytree(linear_map(unravel(vector)))[0]

    def solve(rhs: jax.Array, targets: jax.Array, max_steps: jax.Array) -> tuple[jax.Array, ...]:
        end = block_conjugate_gradients(flattened(operator), flattened(precondition), sign, rhs, targets, max_steps)
        spread = functools.partial(jnp.full, len(rhs))
        residual = end.coordinates.T @ end.basis
        return end.value, residual, end.lengths, *map(spread, (end.steps, end.norm, end.broken))

    usable = wanted & jnp.all(jnp.isfinite(flat), axis=1)
    parts = cut(jnp.where(usable[:, None], flat, 0), 0), cut(targets, 1), cut(max_steps, 0)
    value, residual, lengths, steps, norm, broken = map(joined, jax.vmap(solve)(*parts))
    kept = usable if unique else usable & ~broken
    residual, lengths = jnp.where(kept[:, None], residual, flat), jnp.where(kept, lengths, jnp.inf)
    value = jnp.where(kept[:, None], value, 0)
    left = jnp.where(wanted & ~(lengths <= targets), max_steps - steps, 0)
    alone = jax.vmap(functools.partial(conjugate_gradients, operator, precondition, sign))
    rest = alone(jax.vmap(unravel)(residual), targets, left)
    value = jax.tree.map(jnp.add, jax.vmap(unravel)(value), rest.value)
    code = jnp.where(lengths <= targets, Code.converged, rest.code).astype(jnp.int32)
    return Advance(value, steps + rest.steps, steps + rest.steps, code, jnp.maximum(norm, rest.norm))
