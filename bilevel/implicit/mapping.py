"""An optimality condition F(params, *args) = 0, and the linear system that differentiating it leads to."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Counts, LinearMap, Params, PyTree, Scalar
from bilevel.implicit.untraceable import traced_or_on_host
from bilevel.linear_solve.base import Operator


class System(NamedTuple):
    """The system A x = b, A = dF/dw at a solution, reduced to the form that is best solved.

        K y = restrict(b),      x = extend(b, y)

    with K (``operator``) symmetric wherever the mapping allows. ``restrict`` and ``extend`` are linear, so the
    adjoint A' z = v follows by transposition, with the same K' in the middle.
    """

    operator: Operator
    restrict: LinearMap
    extend: Callable[[PyTree, PyTree], PyTree]
    products: int = 0  # Hessian products that restrict and extend cost together
    approximate: bool = False  # whether A was replaced by an approximation, so that a solution of the system is none


class Mapping(abc.ABC):
    """An optimality condition: a callable residual that is zero at the solution, and knows its linear system.

    Solvers and engines read the class attributes before they choose a method. Of a condition that declares nothing they
    assume nothing.
    """

    states_loss: ClassVar[bool] = True  # False: stated by a residual or a map alone, and there is no loss to evaluate
    of_gradient: ClassVar[bool] = False  # a minimum of the field ``loss``, which is used by its gradient only
    stationary: ClassVar[bool] = False  # F is that gradient: no prox, no set
    iterates: ClassVar[bool] = False  # F(w) = T(w) - w for a map T
    smooth: ClassVar[bool] = False  # dF/dw jumps nowhere, unless a derivative of the user's functions does
    primal_dual: ClassVar[bool] = False  # the unknown is a `PrimalDual`, of the params and their multipliers
    downhill: ClassVar[int] = 0  # the sign that makes F a step down the loss: -1 of a gradient, 1 of a step; 0: unknown
    prox_calls: ClassVar[int] = 0  # proximal operators in one evaluation
    localization: ClassVar[Counts] = Counts()  # the cost of `localize`
    inspection: ClassVar[Counts] = Counts()  # the cost of `faces`
    preparation: ClassVar[Counts] = Counts()  # the cost of `system` before its first product

    @abc.abstractmethod
    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """The residual F(params, *args), of the structure of ``params``."""

    @property
    def stated(self) -> Callable[..., PyTree]:
        """The function of (params, *args) that takes the arguments of the condition."""
        return self

    def with_loss(self, loss: Callable[..., Scalar]) -> Mapping:
        """The same condition of another loss; for conditions that are ``of_gradient``."""
        settings: Any = self  # ``of_gradient`` says that it is a dataclass with this field
        return replace(settings, loss=loss)

    def natural_residual(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """The residual that solvers stop on. It is F, unless F also vanishes at points that are no solutions."""
        return self(params, *args, **kwargs)

    def precise_residual(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """F, without the digits that its own form loses."""
        return self(params, *args, **kwargs)

    def localize(self, params: Params, *args: PyTree, **kwargs: PyTree) -> Mapping:
        """The same condition in its best form near ``params`` (a step size near 1/L), with the same derivative at the
        solution. Constant: no derivative passes through the choice."""
        return self

    def faces(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """How far ``params`` is from where dF/dw jumps, coordinate by coordinate: infinity where nothing can jump, NaN
        where it is not known. A coordinate at distance zero is weakly active."""
        return jnp.full((), jnp.inf)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        """The system A x = b at ``params``; the default is A itself, without known facts."""
        return plain_system(lambda w: self(w, *args, **kwargs), params, owner=str(self))


def plain_system(residual: Callable[[Params], PyTree], params: Params, **facts: Any) -> System:
    """A itself, by linearising the residual once: K = A, restrict and extend do nothing."""
    _, matvec = jax.linearize(residual, params)
    return System(Operator(matvec, **facts), lambda rhs: rhs, lambda _, solution: solution)


@dataclass(frozen=True, eq=False)
class Residual(Mapping):
    """A residual stated as a plain function, without further facts."""

    residual: Callable[..., PyTree]

    states_loss: ClassVar[bool] = False
    smooth: ClassVar[bool] = True

    @property
    def stated(self) -> Callable[..., PyTree]:
        return self.residual

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        return traced_or_on_host(self.residual, str(self), params, *args, **kwargs)

    def __str__(self) -> str:
        return f"the residual {getattr(self.residual, '__name__', 'F')}"


@dataclass(frozen=True, eq=False)
class FixedPoint(Mapping):
    """F(w, *args) = T(w, *args) - w for a map T whose fixed point is the solution."""

    fixed_point: Callable[..., PyTree]

    states_loss: ClassVar[bool] = False
    iterates: ClassVar[bool] = True
    smooth: ClassVar[bool] = True

    @property
    def stated(self) -> Callable[..., PyTree]:
        return self.fixed_point

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        after = traced_or_on_host(self.fixed_point, str(self), params, *args, **kwargs)
        return jax.tree.map(lambda after, before: after - before, after, params)

    def __str__(self) -> str:
        return f"the fixed point of {getattr(self.fixed_point, '__name__', 'T')}"


def as_mapping(function: Mapping | Callable[..., PyTree]) -> Mapping:
    """A plain residual function as a mapping."""
    return function if isinstance(function, Mapping) else Residual(function)
