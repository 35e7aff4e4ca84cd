"""The Karush-Kuhn-Tucker conditions of a problem constrained by functions, and their symmetric saddle system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.constraints.functional import no_rows
from bilevel.foundation.typing import Params, PyTree, Scalar
from bilevel.implicit.mapping import Mapping, System
from bilevel.optimality.primal_dual import PrimalDual, size
from bilevel.optimality.saddle import Saddle, faces, margin, saddle_system


class Margin(NamedTuple):
    """The distance of a solution from points where its derivative does not exist; see `KKT.margin`."""

    smallest: jax.Array  # min over the inequalities of max(dual, slack), each as a share of the size it is
    # measured in: 0 where strict complementarity fails
    weakly_active: jax.Array  # the number of inequalities for which that is below sqrt(eps)
    independence: jax.Array  # smallest / largest singular value of the active gradients, each scaled to length 1
    condition: jax.Array  # of the saddle system, in the 2-norm


@dataclass(frozen=True, eq=False)
class KKT(Mapping):
    """The KKT conditions of min loss(w, *args) s.t. equality(w, *args) == 0, inequality(w, *args) <= 0.

    On `PrimalDual` (w, nu, lam), with L = loss + nu' equality + lam' inequality:

        F = (grad_w L,  equality,  lam * inequality).

    Either function may be left out; each may return any pytree of arrays. Source: Blondel et al., 2021, equation (6).

    F also vanishes at infeasible points with a zero multiplier and at negative multipliers, so solvers stop on the
    natural residual (grad_w L, equality, lam - max(lam + inequality, 0)), which vanishes at KKT points only.

    A is solved on the active rows (dual > slack, in units in which rows, unknowns and the objective have size 1: a row
    multiplied by a number is the same constraint), with H the Hessian of L, E and C the Jacobians and m the mask:

        K = [[H, E', (m C)'], [E, 0, 0], [m C, 0, -(I - m)]]        (symmetric, indefinite, of fixed shape).

    Up to `saddle.DENSE` entries of the Jacobians, the active rows are first made orthonormal, so that nearly dependent
    ones cost accuracy only in proportion to their angle, and dependent ones lead to the multipliers of least norm.
    Wherever strict complementarity holds this is the derivative of the solution; `margin` measures the distance from
    its failure.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> F = bl.optimality.KKT(lambda w, t: 0.5 * jnp.sum((w - t) ** 2), inequality=lambda w, t: w - 1.0)
    >>> at = bl.PrimalDual(jnp.array([1.0, 0.0]), inequality_dual=jnp.array([2.0, 0.0]))
    >>> [leaf.tolist() for leaf in F(at, jnp.array([3.0, 0.0]))[::2]]
    [[0.0, 0.0], [0.0, -0.0]]
    """

    loss: Callable[..., Scalar]
    equality: Callable[..., PyTree] | None = no_rows
    inequality: Callable[..., PyTree] | None = no_rows

    primal_dual: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("equality", "inequality"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, no_rows)

    @property
    def stated(self) -> Callable[..., PyTree]:
        return self.loss

    def __call__(self, params: PrimalDual, *args: PyTree, **kwargs: PyTree) -> PrimalDual:
        stationarity, equality, inequality = self.terms(params, *args, **kwargs)
        return PrimalDual(stationarity, equality, jax.tree.map(jnp.multiply, params.inequality_dual, inequality))

    def natural_residual(self, params: PrimalDual, *args: PyTree, **kwargs: PyTree) -> PrimalDual:
        stationarity, equality, inequality = self.terms(params, *args, **kwargs)
        least = jax.tree.map(lambda lam, rows: lam - jnp.maximum(lam + rows, 0), params.inequality_dual, inequality)
        return PrimalDual(stationarity, equality, least)

    def system(self, params: PrimalDual, *args: PyTree, **kwargs: PyTree) -> System:
        return saddle_system(self._saddle(params, args, kwargs), params, str(self))

    def faces(self, params: PrimalDual, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """The distance of each inequality from changing sides, relative to the norm of ``params``: zero where it is
        weakly active, or active and dependent on others."""
        return faces(self._saddle(params, args, kwargs), params)

    def margin(self, params: PrimalDual, *args: PyTree, **kwargs: PyTree) -> Margin:
        """How close the solution ``params`` is to a degenerate one. Dense: O((unknowns + constraints)^3)."""
        return Margin(*margin(self._saddle(params, args, kwargs), params))

    def terms(self, params: PrimalDual, *args: PyTree, **kwargs: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """The gradient of the Lagrangian, the equalities and the inequalities."""
        saddle = self._saddle(params, args, kwargs)
        equality, inequality = saddle.rows(params.primal)
        return saddle.gradient(params.primal, (params.equality_dual, params.inequality_dual)), equality, inequality

    def _saddle(self, params: PrimalDual, args: tuple, kwargs: dict) -> Saddle:
        def rows(w: Params) -> tuple[PyTree, PyTree]:
            return (
                self._rows("equality", w, params.equality_dual, args, kwargs),
                self._rows("inequality", w, params.inequality_dual, args, kwargs),
            )

        def lagrangian(w: Params, duals: tuple[PyTree, PyTree]) -> Scalar:
            loss = self.loss(w, *args, **kwargs)
            terms = jax.tree.leaves(jax.tree.map(lambda dual, row: jnp.sum(dual * row), duals, rows(w)))
            return loss + sum(terms, jnp.zeros((), jnp.result_type(loss)))

        return Saddle(jax.grad(lagrangian), rows)

    def _rows(self, name: str, w: Params, dual: PyTree, args: tuple, kwargs: dict) -> PyTree:
        """The constraint values, in the structure and types of their multipliers.

        Where there are no rows, any empty structure will do.
        """
        values = getattr(self, name)(w, *args, **kwargs)
        shapes: list[Any] = [jax.tree.map(jnp.shape, tree) for tree in (values, dual)]
        if not size(values) and not size(dual):
            return dual
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The {name} dual must have the structure and shapes of what the {name} function returns, "
                f"which are {shapes[0]}; it has {shapes[1]}."
            )
        return jax.tree.map(lambda row, part: jnp.asarray(row).astype(jnp.result_type(part)), values, dual)

    def __str__(self) -> str:
        return f"KKT({getattr(self.loss, '__name__', 'loss')})"
