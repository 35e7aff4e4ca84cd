"""JAXopt's objectives, ``objective(params, [l2reg,] data)`` with data = (X, y).

Those of a linear map are also what `BlockCoordinateDescent` takes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.compat.jaxopt import loss
from bilevel.compat.jaxopt.common import LinearOperator
from bilevel.foundation.typing import Scalar


class CompositeLinearFunction:
    """fun(params, *args) = subfun(X params, *args) + <params, b(*args)>, X = make_linop(*args).

    Subclasses define ``subfun`` and ``make_linop``, and ``b`` where there is a linear term.
    """

    def subfun(self, predictions: Any, *args: Any, **kwargs: Any) -> Scalar:
        """The function of the product."""
        raise NotImplementedError(f"{type(self).__name__} has to define subfun(predictions, *args, **kwargs).")

    def make_linop(self, *args: Any, **kwargs: Any) -> LinearOperator:
        """The linear map."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_linop(*args, **kwargs).")

    def b(self, *args: Any, **kwargs: Any) -> Any:
        """The linear term; None for none."""
        return None

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> Scalar:
        value = self.subfun(self.make_linop(*args, **kwargs).matvec(params), *args, **kwargs)
        b = self.b(*args, **kwargs)
        return value if b is None else value + jnp.vdot(params, b)


class _OfData(CompositeLinearFunction):
    """A mean of losses of X params and y."""

    def make_linop(self, data: tuple) -> LinearOperator:
        return LinearOperator(data[0])

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class LeastSquares(_OfData):
    """0.5 * mean((X W - y)^2)."""

    def subfun(self, predictions: Any, data: tuple) -> Scalar:
        return 0.5 * jnp.mean((predictions - data[1]) ** 2)


class BinaryLogisticRegression(_OfData):
    """The mean binary logistic loss of X w, labels in {0, 1}."""

    def subfun(self, predictions: Any, data: tuple) -> Scalar:
        return jnp.mean(jax.vmap(loss.binary_logistic_loss)(data[1], predictions))


class MulticlassLogisticRegression(_OfData):
    """The mean logistic loss of the rows of X W, labels from 0 on."""

    def subfun(self, predictions: Any, data: tuple) -> Scalar:
        return jnp.mean(jax.vmap(loss.multiclass_logistic_loss)(data[1], predictions))


class MulticlassLinearSvmDual(CompositeLinearFunction):
    """0.5 / l2reg ||X'(Y - params)||^2 + <params, Y>: the dual of a linear multiclass support vector machine, with
    args (l2reg, (X, Y)), Y one row of zeros and a one for each sample. The primal solution is X'(Y - params) / l2reg.
    """

    def subfun(self, Xbeta: Any, l2reg: Any, data: tuple) -> Scalar:
        X, Y = data
        return 0.5 / l2reg * jnp.sum((jnp.dot(X.T, Y) - Xbeta) ** 2)

    def make_linop(self, l2reg: Any, data: tuple) -> LinearOperator:
        return LinearOperator(jnp.asarray(data[0]).T)

    def b(self, l2reg: Any, data: tuple) -> Any:
        return data[1]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


least_squares = LeastSquares()
binary_logreg = BinaryLogisticRegression()
multiclass_logreg = MulticlassLogisticRegression()
multiclass_linear_svm_dual = MulticlassLinearSvmDual()


def ridge_regression(params: Any, l2reg: Any, data: tuple) -> Scalar:
    """0.5 * mean((X w - y)^2) + 0.5 * l2reg * ||w||^2."""
    return least_squares(params, data) + 0.5 * l2reg * jnp.sum(params**2)


def l2_multiclass_logreg(W: Any, l2reg: Any, data: tuple) -> Scalar:
    """multiclass_logreg + 0.5 * l2reg * ||W||^2."""
    return multiclass_logreg(W, data) + 0.5 * l2reg * jnp.sum(W**2)


def multiclass_logreg_with_intercept(params: tuple, data: tuple) -> Scalar:
    """The mean logistic loss of the rows of X W + b, params = (W, b)."""
    (W, b), (X, y) = params, data
    return multiclass_logreg.subfun(jnp.dot(X, W) + b, (X, y))


def l2_multiclass_logreg_with_intercept(params: tuple, l2reg: Any, data: tuple) -> Scalar:
    """multiclass_logreg_with_intercept + 0.5 * l2reg * ||W||^2; the intercept is free."""
    return multiclass_logreg_with_intercept(params, data) + 0.5 * l2reg * jnp.sum(params[0] ** 2)
