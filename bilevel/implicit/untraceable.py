"""Functions that JAX cannot trace, such as those written with NumPy: they run on the host, without a derivative."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.callbacks import on_host
from bilevel.foundation.typing import Params, PyTree

CONCRETE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


def traced_or_on_host(function: Callable[..., PyTree], name: str, params: Params, *args: Any, **kwargs: Any) -> PyTree:
    """function(params, *args, **kwargs), of the structure of ``params``. It is traced; where it asks for the values of
    its arguments it is called on the host instead, with a warning, and its derivative is refused with a TypeError."""
    try:
        return function(params, *args, **kwargs)
    except CONCRETE as error:
        reason = str(error).splitlines()[0]
    warnings.warn(
        f"{name} cannot be traced by JAX ({reason}), so it runs on the host at each evaluation and has no derivative: "
        "the solution is right, implicit derivatives and hypergradients are refused. Write it with jax.numpy to have "
        "both, and speed.",
        stacklevel=3,
    )
    return _without_derivative(function, name)(params, args, kwargs)


def _without_derivative(function: Callable[..., PyTree], name: str) -> Callable[..., PyTree]:
    @jax.custom_jvp
    def called(params: Params, args: tuple, kwargs: dict) -> PyTree:
        params = jax.tree.map(jnp.asarray, params)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        plain = lambda params, args, kwargs: function(_plain(params), *_plain(args), **_plain(kwargs))
        return on_host(plain, like, params, args, kwargs)

    def refuse(primals: Any, tangents: Any) -> NoReturn:
        raise TypeError(
            f"{name} cannot be traced by JAX, so it has no derivative: write it with jax.numpy, or decorate a solver "
            "with bl.custom_root(F) or bl.custom_fixed_point(T), F or T being the same condition in jax.numpy."
        )

    called.defjvp(refuse)
    return called


def _plain(tree: PyTree) -> PyTree:
    return jax.tree.map(np.asarray, tree)
