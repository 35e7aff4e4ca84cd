"""Deep equilibrium layers: the fixed point of a cell as a function of its weights and inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.eager import Setting, compiles_once, solves_once, stated
from bilevel.foundation.typing import Key, PyTree, Scalar
from bilevel.implicit.attach import attach
from bilevel.implicit.mapping import Residual
from bilevel.linear_solve import GMRES, LinearSolver
from bilevel.problem import InnerProblem
from bilevel.solvers import Anderson, Outcome, Solver
from bilevel.solvers.solution import Solution

Cell = Callable[[PyTree, PyTree, PyTree], PyTree]  # (state, weights, input) -> state, for one sample


def equilibrium(
    cell: Cell,
    init: Callable[[PyTree, PyTree], PyTree],
    *,
    solver: Solver = Anderson(tol=1e-5, max_steps=100),
    backward: LinearSolver = GMRES(tol=1e-5),
) -> Equilibrium:
    """layer(weights, inputs) -> the states z with cell(z, weights, input) = z, one for each of a batch of inputs.

    ``cell(state, weights, input) -> state`` and ``init(weights, input) -> state`` are of one sample; a state is a
    pytree. ``solver`` is any that takes a fixed point: ``bl.Anderson()``, ``bl.Broyden()``,
    ``bl.FixedPointIteration()``. With J = dcell/dz the derivative solves (I - J) dz = dcell, by ``backward``:

    - ``bl.GMRES(tol=)``, or another solver for systems that are not symmetric: the derivative itself;
    - ``bl.Neumann(terms=1)``: one step of the cell, (I - J)^-1 replaced by I (Jacobian-free);
    - ``bl.Neumann(terms=k, alpha=damping)``: k damped steps, the phantom gradient; truncated, whatever k.

    The derivative of a failed solve is NaN; a truncated one is biased, by design, as long as J is a contraction.
    Source: Bai, Kolter and Koltun, 2019; Fung et al., 2022; Geng et al., 2021.

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> layer = bl.layers.equilibrium(lambda z, w, x: jnp.tanh(w * z + x), init=lambda w, x: jnp.zeros_like(x))
    >>> found = layer(0.5, jnp.array([[0.1, 0.2], [0.3, 0.4]]))
    >>> found.params.shape, found.status.name
    ((2, 2), 'converged')
    >>> slope = jax.grad(lambda w: layer(w, jnp.array([[0.1]])).params.sum())(0.5)
    >>> z = found.params[0, 0]
    >>> bool(jnp.isclose(slope, z * (1 - z**2) / (1 - 0.5 * (1 - z**2)), rtol=1e-4))
    True
    """
    return Equilibrium(cell, init, solver, backward)


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """The layer that `equilibrium` returns. Call it as ``layer(weights, inputs, start)``."""

    cell: Cell
    init: Callable[[PyTree, PyTree], PyTree]
    solver: Solver
    backward: LinearSolver

    def __call__(self, weights: PyTree, inputs: PyTree, start: PyTree | None = None) -> Solution:
        """A `bl.Solution` whose fields have the leading axis of ``inputs``: ``params`` are the states, and each sample
        has its residual, steps and status, because its lane stops when it is done. ``start`` are states to begin with,
        as the ``params`` of the last call on the same samples; it carries no derivative, and tolerances stay relative
        to the start by ``init``. Differentiable in weights and inputs, by one system for the whole batch."""
        layer = stated(self)
        outcome = _outcomes(layer, weights, inputs, start)
        states = _attached(layer, outcome.params, weights, inputs)
        return Solution(
            states, None, outcome.residual, outcome.steps, outcome.status, outcome.counts, outcome.curvature
        )

    def jacobian_size(self, states: PyTree, weights: PyTree, inputs: PyTree, key: Key, probes: int = 1) -> Scalar:
        """An unbiased estimate of the mean over the batch of ||J||_F^2 / (entries of a state), by products v'J with
        normal v. A multiple of it in a training loss keeps J a contraction, so that both solves stay short.
        Differentiable in states, weights and inputs. Source: Bai, Koltun and Kolter, 2021."""

        def of_one(state: PyTree, one: PyTree, key: Key) -> Scalar:
            _, pull = jax.vjp(lambda z: self.cell(z, weights, one), state)
            leaves, structure = jax.tree.flatten(state)
            keys = jax.random.split(key, len(leaves))
            draws = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
            (product,) = pull(jax.tree.unflatten(structure, draws))
            return trees.dot(product, product) / sum(leaf.size for leaf in leaves)

        each = jax.vmap(of_one, in_axes=(0, 0, 0))
        number = jax.tree.leaves(states)[0].shape[0]
        return jnp.mean(jax.vmap(lambda key: each(states, inputs, jax.random.split(key, number)))(_split(key, probes)))

    @property
    def problem(self) -> InnerProblem:
        """The inner problem of one sample: the weights are its hyperparameters, the input its batch."""
        return InnerProblem.from_fixed_point(self.cell, lambda key, weights: None, self.solver)


def _split(key: Key, number: int) -> Key:
    if number < 1:
        raise ValueError(f"jacobian_size(probes={number}): at least one product is needed.")
    return jax.random.split(key, number)


@solves_once
def _outcomes(layer: Setting, weights: PyTree, inputs: PyTree, start: PyTree | None) -> Outcome:
    found: Equilibrium = layer.value
    weights, inputs, start = jax.lax.stop_gradient((weights, inputs, start))

    def of_one(one: PyTree, start: PyTree | None) -> Outcome:
        cold = trees.strong(found.init(weights, one))
        return found.problem.run(weights, one, cold if start is None else start, cold)

    return jax.vmap(of_one, in_axes=(0, None if start is None else 0))(inputs, start)


@compiles_once
def _attached(layer: Setting, states: PyTree, weights: PyTree, inputs: PyTree) -> PyTree:
    found: Equilibrium = layer.value

    def residual(states: PyTree, weights: PyTree, inputs: PyTree) -> PyTree:
        after: Any = jax.vmap(found.cell, in_axes=(0, None, 0))(states, weights, inputs)
        return trees.subtract(states, after)  # I - J, of which a Neumann series converges

    return attach(Residual(residual), found.backward, jax.lax.stop_gradient(states), (weights, inputs))
