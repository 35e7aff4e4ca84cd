"""The fixed point of a proximal gradient step with a prox and a step size for each block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from bilevel.foundation.trees import subtract
from bilevel.foundation.typing import Params, PyTree, Scalar
from bilevel.implicit.mapping import Mapping, System
from bilevel.optimality.proximal_gradient import reduced_system, without_rounding
from bilevel.penalties.base import not_known


def children(tree: PyTree) -> tuple[list[Any], Any]:
    """The children of a pytree (an array is its own child) and the structure that puts them together again."""
    return jax.tree.flatten(tree, is_leaf=lambda node: node is not tree)


@dataclass(frozen=True, eq=False)
class BlockProximalGradient(Mapping):
    """F(w, *args)_j = prox_j(w_j - s_j [grad loss(w, *args)]_j, s_j, *args) - w_j, for the blocks j of w.

    The blocks are the children of the params pytree, in its order (a dict's by key); there is one prox
    ``proxes[j](point, step_size, *args)`` and one step size for each. Source: Blondel et al., 2021, equation (15).

    With D the Jacobian of all proxes and S the diagonal of step sizes, both the same on each block, A = D (I - S H) - I
    is solved through the symmetric positive semidefinite system

        (S^{-1} D (I - D) + D H D) y = -D (S^{-1} - H) b,      A^{-1} b = D y - b.

    Raises ValueError where the numbers of blocks, proxes and step sizes differ.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> F = bl.optimality.BlockProximalGradient(
    ...     lambda w, theta: 0.5 * jnp.sum((w[0] - theta) ** 2) + 0.5 * jnp.sum((w[1] - theta) ** 2),
    ...     proxes=(lambda w, step, theta: bl.prox.l1(w, step, 1.0), lambda w, step, theta: jnp.maximum(w, 0.0)),
    ...     step_sizes=(1.0, 0.5))
    >>> [block.tolist() for block in F((jnp.array([2.0]), jnp.array([3.0])), 3.0)]
    [[0.0], [0.0]]
    """

    loss: Callable[..., Scalar]
    proxes: Sequence[Callable[..., Params]]
    step_sizes: Sequence[float | jax.Array]

    of_gradient: ClassVar[bool] = True
    iterates: ClassVar[bool] = True
    prox_calls: ClassVar[int] = 1

    @property
    def stated(self) -> Callable[..., PyTree]:
        return self.loss

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        forward = subtract(params, self._scaled(jax.grad(self.loss)(params, *args, **kwargs)))
        return subtract(self._prox(forward, *args, **kwargs), params)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        gradient, hessian = jax.linearize(lambda w: jax.grad(self.loss)(w, *args, **kwargs), params)
        point = subtract(params, self._scaled(gradient))
        _, derivative = jax.linearize(lambda z: self._prox(z, *args, **kwargs), point)
        derivative = without_rounding(derivative, point)
        curve = lambda x: self._scaled(hessian(x))
        return reduced_system(derivative, curve, str(self), weigh=lambda x: self._scaled(x, inverse=True))

    def faces(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """NaN, because the proxes are known by their values only."""
        return not_known(params)

    def _scaled(self, tree: PyTree, inverse: bool = False) -> PyTree:
        """S x, or S^{-1} x."""
        blocks, structure = self._blocks(tree)
        steps = [1 / step if inverse else step for step in self.step_sizes]
        return structure.unflatten(
            [
                jax.tree.map(lambda leaf, step=step: step * leaf, block)
                for step, block in zip(steps, blocks, strict=True)
            ]
        )

    def _prox(self, point: Params, *args: PyTree, **kwargs: PyTree) -> Params:
        blocks, structure = self._blocks(point)
        pieces = zip(self.proxes, blocks, self.step_sizes, strict=True)
        return structure.unflatten([prox(block, step, *args, **kwargs) for prox, block, step in pieces])

    def _blocks(self, tree: PyTree) -> tuple[list[Any], Any]:
        blocks, structure = children(tree)
        if not len(blocks) == len(self.proxes) == len(self.step_sizes):
            raise ValueError(
                f"BlockProximalGradient got params of {len(blocks)} blocks, {len(self.proxes)} proxes and "
                f"{len(self.step_sizes)} step sizes: give one prox and one step size for each child of the params."
            )
        return blocks, structure

    def __str__(self) -> str:
        return f"BlockProximalGradient({getattr(self.loss, '__name__', 'loss')})"
