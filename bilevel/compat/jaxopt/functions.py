"""A user's objective in any of JAXopt's forms: with auxiliary output, with its own gradient, or plain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import HParams, Params, Scalar
from bilevel.implicit.attach import split_arguments


@dataclass(frozen=True)
class Objective:
    """The value of ``fun(params, *args, **kwargs)``, which may also return aux, its gradient, or both.

    ``value_and_grad=True`` says that ``fun`` returns (value, gradient), or ((value, aux), gradient) where it has aux. A
    function given as ``value_and_grad`` is called in the place of ``fun`` and returns the same. The derivative is then
    the given gradient, and second derivatives are the derivatives of that gradient.
    """

    fun: Callable[..., Any]
    value_and_grad: bool | Callable[..., Any] = False
    has_aux: bool = False

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Scalar:
        return self.with_aux(params, *args, **kwargs)[0]

    def with_aux(self, params: Params, *args: Any, **kwargs: Any) -> tuple[Scalar, Any]:
        """The value and aux (None where there is none)."""
        if not self.value_and_grad:
            return self._pair(self.fun(params, *args, **kwargs))
        leaves, form = split_arguments(args, kwargs)

        def called(params: Params, leaves: list) -> tuple[Any, Any]:
            given, named = form.rebuild(*leaves)
            both = self.value_and_grad if callable(self.value_and_grad) else self.fun
            return both(params, *given, **named)

        @jax.custom_jvp
        def value(params: Params, leaves: list) -> tuple[Scalar, Any]:
            return self._pair(called(params, leaves)[0])

        def rule(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
            (params, leaves), (moved, moved_leaves) = primals, tangents
            gradient = called(params, leaves)[1]
            of_leaves = lambda leaves: self._pair(called(params, leaves)[0])
            result, (along, aux) = jax.jvp(of_leaves, (leaves,), (moved_leaves,))
            return result, (along + trees.dot(gradient, moved).astype(jnp.result_type(along)), aux)

        value.defjvp(rule)
        return value(params, leaves)

    def _pair(self, result: Any) -> tuple[Scalar, Any]:
        value, aux = result if self.has_aux else (result, None)
        return jnp.asarray(value), aux

    def loss(self, params: Params, hparams: HParams, batch: Any) -> Scalar:
        """As the loss of an inner problem, whose batch is (args, kwargs)."""
        args, kwargs = batch
        return self(params, *args, **kwargs)


@dataclass(frozen=True)
class FirstOf:
    """The first output of a function that also returns aux, and the pair."""

    function: Callable[..., Any]
    has_aux: bool = False

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        return self.with_aux(params, *args, **kwargs)[0]

    def with_aux(self, params: Params, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The output and aux (None where there is none)."""
        result = self.function(params, *args, **kwargs)
        return result if self.has_aux else (result, None)

    def stated(self, params: Params, hparams: HParams, batch: Any) -> Any:
        """As a residual or map of an inner problem, whose batch is (args, kwargs)."""
        args, kwargs = batch
        return self(params, *args, **kwargs)
