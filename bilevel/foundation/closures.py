"""Functions read as programs: the values that they close over, and whether they use an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.core import eval_jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from bilevel.foundation.typing import PyTree


def hoisted(
    function: Callable[[PyTree], PyTree], example: PyTree
) -> tuple[Callable[[list[Any], PyTree], PyTree], list[Any]]:
    """``function`` as (constants, argument) -> result, and the list of constants: the values that it closes over. Some
    may be traced; as arguments they can enter a program that may not close over them. ``example`` has the structure and
    shapes of the argument.

    >>> import jax.numpy as jnp
    >>> scale = jnp.array([2.0, 3.0])
    >>> run, constants = hoisted(lambda x: scale * x, jnp.ones(2))
    >>> run([10.0 * constant for constant in constants], jnp.ones(2)).tolist()
    [20.0, 30.0]
    """
    leaves, structure = jax.tree.flatten(example)
    closed, shapes = jax.make_jaxpr(lambda *leaves: function(structure.unflatten(leaves)), return_shape=True)(*leaves)

    jaxpr, constants, form = closed.jaxpr, list(closed.consts), jax.tree.structure(shapes)
    del closed  # a host callback keeps ``run``, and would keep traced constants alive with it

    def run(constants: list[Any], argument: PyTree) -> Any:
        return jax.tree.unflatten(form, eval_jaxpr(jaxpr, constants, *jax.tree.leaves(argument)))

    return run, constants


def depends(function: Callable[[PyTree], PyTree], argument: PyTree) -> bool:
    """Whether what the function returns uses its argument at all.

    >>> depends(lambda x: 2.0 * x, 1.0), depends(lambda x: (x + 1.0, 3.0)[1], 1.0)
    (True, False)
    """
    jaxpr = jax.make_jaxpr(function)(argument).jaxpr
    return any(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1])
