"""The fixed point of a proximal (or projected) gradient step, and its symmetric reduced system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from bilevel.foundation.signs import tree_of_signs
from bilevel.foundation.trees import axpy, epsilon, norm, subtract
from bilevel.foundation.typing import Counts, LinearMap, Params, PyTree, Scalar
from bilevel.implicit.mapping import Mapping, System
from bilevel.linear_solve.base import Operator
from bilevel.losses.least_squares import linearized
from bilevel.penalties.base import Penalty, not_known

ROUNDING = 100.0  # units of roundoff of a point that count as zero
FARTHEST = 1e4  # times the size of the params: the longest step of a localized condition
POWERS = 3  # steps of the power iteration that finds a step size


def no_kinks_known(point: Params, step_size: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> PyTree:
    """NaN: the distances to the kinks of a prox that is known by its values only."""
    return not_known(point)


def inverse_norm(hessian: LinearMap, params: Params) -> jax.Array:
    """1 / ||H|| by a short power iteration from random signs (1 where H vanishes)."""

    def advance(_: int, state: tuple[PyTree, jax.Array]) -> tuple[PyTree, jax.Array]:
        vector, length = state
        scale = 1 / jnp.where(length > 0, length, 1)
        vector = hessian(jax.tree.map(lambda leaf: (leaf * scale).astype(leaf.dtype), vector))
        return vector, norm(vector)

    start = tree_of_signs(params)
    _, size = jax.lax.fori_loop(0, POWERS, advance, (start, norm(start)))
    return jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 1)


def local_step(gradient: PyTree, hessian: LinearMap, params: Params) -> jax.Array:
    """1 / ||H||, but no step beyond `FARTHEST` times the size of the params. A flat loss allows any step, but far
    outside of a set the derivative of its projection is rounding, which such a step multiplies."""
    slope, step = norm(gradient), inverse_norm(hessian, params)
    longest = FARTHEST * (1 + norm(params)) / jnp.where(slope > 0, slope, 1)
    return jnp.where(slope > 0, jnp.minimum(step, longest), step).astype(step.dtype)


def visible(params: Params, step: PyTree) -> jax.Array:
    """The factor that makes a step long enough to change half the digits of ``params``; 1 where it is long enough.
    Without it the residual of a loss that falls without end would round to zero at large params."""
    size, length = norm(params) * epsilon(params) ** 0.5, norm(step)
    ratio = size / jnp.where(length > 0, length, 1)
    return jax.lax.stop_gradient(jnp.where((length > 0) & jnp.isfinite(ratio), jnp.maximum(ratio, 1), 1))


@dataclass(frozen=True, eq=False)
class ProximalGradient(Mapping):
    """F(w, *args) = prox(w - step_size grad loss(w, *args), step_size, *args) - w.

    ``prox(point, step_size, *args)`` is the proximal operator of the nonsmooth term. Any step size gives the same root;
    one near 1/L keeps the active face right at inexact solutions: an error e of w moves the input of the prox by up to
    (1 + step L) e. `localize` finds that step. ``kinks(point, step_size, *args)`` gives the distance of each coordinate
    of that input from a jump of the prox's derivative. Without it no estimate of a hypergradient's error is claimed.
    Source: Blondel et al., 2021, equation (7).

    With D the Jacobian of the prox (symmetric, positive semidefinite) and H the Hessian, A = D (I - step H) - I is not
    symmetric. It is solved through the symmetric positive semidefinite system on the range of D

        (D (I - D) + step D H D) y = -D (I - step H) b,      A^{-1} b = D y - b,

    which is right on every face, also when set or penalty depend on the arguments.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> F = bl.optimality.ProximalGradient(
    ...     lambda w, theta: 0.5 * jnp.sum((w - theta) ** 2), lambda w, step, theta: bl.prox.l1(w, step, 1.0))
    >>> F(jnp.array([2.0, 0.0]), jnp.array([3.0, 0.5])).tolist()
    [0.0, 0.0]
    """

    loss: Callable[..., Scalar]
    prox: Callable[..., Params]
    step_size: float | jax.Array = 1.0
    kinks: Callable[..., PyTree] = no_kinks_known

    of_gradient: ClassVar[bool] = True
    iterates: ClassVar[bool] = True
    downhill: ClassVar[int] = 1

    @classmethod
    def under(cls, loss: Callable[..., Scalar], penalty: Penalty) -> ProximalGradient:
        """The condition of an inner problem, whose arguments are (params, hparams, batch)."""
        prox = lambda point, step, hparams, batch: penalty.prox(point, step, hparams)
        return cls(loss, prox, kinks=lambda point, step, hparams, batch: penalty.kinks(point, step, hparams))

    prox_calls: ClassVar[int] = 1
    localization: ClassVar[Counts] = Counts(gradients=1, hessian_products=POWERS)
    inspection: ClassVar[Counts] = Counts(gradients=1)
    preparation: ClassVar[Counts] = Counts(gradients=1)

    @property
    def stated(self) -> Callable[..., PyTree]:
        return self.loss

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        forward = axpy(-self.step_size, jax.grad(self.loss)(params, *args, **kwargs), params)
        return subtract(self.prox(forward, self.step_size, *args, **kwargs), params)

    def natural_residual(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """The same residual over a longer step, where a step of ``step_size`` would be lost in the digits of params."""
        gradient = jax.grad(self.loss)(params, *args, **kwargs)
        stretch = visible(params, axpy(self.step_size, gradient, jax.tree.map(jnp.zeros_like, params)))
        step = stretch * self.step_size
        change = subtract(self.prox(axpy(-step, gradient, params), step, *args, **kwargs), params)
        return jax.tree.map(lambda leaf: (leaf / stretch).astype(leaf.dtype), change)

    def precise_residual(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """The residual of a step of 1, times the step size: a short step is lost in the digits of params."""
        whole = replace(self, step_size=1.0)
        return times(self.step_size, whole.natural_residual(params, *args, **kwargs))

    def localize(self, params: Params, *args: PyTree, **kwargs: PyTree) -> ProximalGradient:
        params, args, kwargs = jax.lax.stop_gradient((params, args, kwargs))
        gradient, hessian = jax.linearize(lambda w: jax.grad(self.loss)(w, *args, **kwargs), params)
        return replace(self, step_size=jax.lax.stop_gradient(local_step(gradient, hessian, params)))

    def faces(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        point = axpy(-self.step_size, jax.grad(self.loss)(params, *args, **kwargs), params)
        return beyond_rounding(self.kinks(point, self.step_size, *args, **kwargs), point)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        gradient, hessian, approximate = linearized(self.loss, params, *args, **kwargs)
        point = axpy(-self.step_size, gradient, params)
        _, derivative = jax.linearize(lambda z: self.prox(z, self.step_size, *args, **kwargs), point)
        derivative = without_rounding(derivative, point)
        system = reduced_system(derivative, lambda x: times(self.step_size, hessian(x)), str(self))
        return system._replace(approximate=approximate)

    def __str__(self) -> str:
        return f"ProximalGradient({getattr(self.loss, '__name__', 'loss')})"


def without_rounding(derivative: LinearMap, like: Params) -> LinearMap:
    """The derivative D of a prox, set to zero where all of it is rounding. At a vertex of a polytope D = I - n n'/n'n
    of one free coordinate is 1 - 1 up to a unit of roundoff, and a system of that size would look singular."""
    leaves, structure = jax.tree.flatten(like)
    spread = [jnp.sin(1 + 2.4 * jax.lax.iota(leaf.dtype, leaf.size)).reshape(leaf.shape) for leaf in leaves]
    probe = structure.unflatten(spread)  # a part in every direction, and no random generator to compile
    size = jax.lax.stop_gradient(norm(derivative(probe)))
    moves = ~(size <= 100 * epsilon(like) * norm(probe))
    return lambda tangent: jax.tree.map(lambda leaf: jnp.where(moves, leaf, 0), derivative(tangent))


def beyond_rounding(distances: PyTree, point: Params) -> PyTree:
    """Distances from ``point``, zero where they are rounding of it: a point far from a set says nothing about a
    coordinate that is nearer to a kink."""
    rounding = jax.lax.stop_gradient(ROUNDING * epsilon(point) * norm(point))
    return jax.tree.map(lambda leaf: jnp.where(jnp.abs(leaf) <= rounding, 0, leaf).astype(leaf.dtype), distances)


def times(number: float | jax.Array, tree: PyTree) -> PyTree:
    """number * tree, of the types of the tree."""
    return jax.tree.map(lambda leaf: (number * leaf).astype(leaf.dtype), tree)


def reduced_system(
    derivative: LinearMap,
    curve: LinearMap,
    owner: str,
    weigh: LinearMap = lambda x: x,
    metric: LinearMap = lambda x: x,
) -> System:
    """The system of A = D (M - C) - I on the range of D, for a symmetric positive semidefinite D (``derivative``), with
    C (``curve``, step_size H) and M (``metric``, I):

        weigh D (I - M D + C D) y = -weigh D (M - C) b,      A^{-1} b = D y - b.

    An identity for every D, M and C; K is symmetric where weigh D (M - C) D is, and then so is the adjoint. The order
    of the terms matters: in y - (D y - C D y) a C of 1e-16 is lost beside 1. Such a C occurs along a column that is
    1e-8 times the largest.
    """

    def matvec(y: PyTree) -> PyTree:
        on_face = derivative(y)
        return weigh(derivative(axpy(1.0, curve(on_face), subtract(y, metric(on_face)))))

    def restrict(rhs: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: -leaf, weigh(derivative(subtract(metric(rhs), curve(rhs)))))

    def extend(rhs: PyTree, y: PyTree) -> PyTree:
        return subtract(derivative(y), rhs)

    return System(Operator(matvec, symmetric=True, definite=True, singular=True, owner=owner), restrict, extend, 1)


@dataclass(frozen=True, eq=False)
class ProjectedGradient(Mapping):
    """F(w, *args) = projection(w - step_size grad loss(w, *args), *args) - w, for w in a closed set, convex or not.

    The special case of `ProximalGradient` in which the prox is the Euclidean projection ``projection(point, *args)``.
    For a set that is not convex the projection is one of the nearest points. A root is then a point that a projected
    gradient step does not move; it may be a local minimum, or no minimum. Source: Blondel et al., 2021, equation (9).

    >>> import jax.numpy as jnp, bilevel as bl
    >>> F = bl.optimality.ProjectedGradient(
    ...     lambda w, theta: 0.5 * jnp.sum((w - theta) ** 2), lambda w, theta: bl.projections.non_negative(w))
    >>> F(jnp.array([3.0, 0.0]), jnp.array([3.0, -1.0])).tolist()
    [0.0, 0.0]
    """

    loss: Callable[..., Scalar]
    projection: Callable[..., Params]
    step_size: float | jax.Array = 1.0
    kinks: Callable[..., PyTree] = no_kinks_known

    of_gradient: ClassVar[bool] = True
    iterates: ClassVar[bool] = True
    downhill: ClassVar[int] = 1
    prox_calls: ClassVar[int] = 1
    localization: ClassVar[Counts] = ProximalGradient.localization
    inspection: ClassVar[Counts] = ProximalGradient.inspection
    preparation: ClassVar[Counts] = ProximalGradient.preparation

    @property
    def proximal(self) -> ProximalGradient:
        """The same condition with the projection as a prox."""

        def project(point: Params, step: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> Params:
            return self.projection(point, *args, **kwargs)

        return ProximalGradient(self.loss, project, self.step_size, self.kinks)

    @property
    def stated(self) -> Callable[..., PyTree]:
        return self.loss

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        return self.proximal(params, *args, **kwargs)

    def natural_residual(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        return self.proximal.natural_residual(params, *args, **kwargs)

    def localize(self, params: Params, *args: PyTree, **kwargs: PyTree) -> ProximalGradient:
        return self.proximal.localize(params, *args, **kwargs)

    def faces(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        return self.proximal.faces(params, *args, **kwargs)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        return self.proximal.system(params, *args, **kwargs)

    def __str__(self) -> str:
        return f"ProjectedGradient({getattr(self.loss, '__name__', 'loss')})"
