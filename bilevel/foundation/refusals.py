"""Values that JAX may not differentiate, or not in reverse mode: an attempt raises a sentence with the remedy."""

from __future__ import annotations

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from bilevel.foundation.typing import PyTree


def _identity(name: str) -> Primitive:
    """The identity as a primitive; its parameter is the sentence that a refused derivative raises."""
    primitive = Primitive(name)
    primitive.def_impl(lambda value, *, sentence: value)
    primitive.def_abstract_eval(lambda value, *, sentence: value)
    mlir.register_lowering(primitive, lambda context, value, *, sentence: [value])
    batching.defvectorized(primitive)
    return primitive


def _refuse(*_: Any, sentence: str) -> NoReturn:
    raise TypeError(sentence)


_FORWARD_ONLY, _CONSTANT = _identity("forward_only"), _identity("constant")
ad.deflinear2(_FORWARD_ONLY, _refuse)
ad.primitive_jvps[_CONSTANT] = _refuse


def forward_only(tree: PyTree, sentence: str) -> PyTree:
    """The floating-point leaves unchanged; TypeError(sentence) where reverse mode goes back through them.

    >>> jax.jvp(lambda x: forward_only(2.0 * x, "no"), (1.0,), (1.0,))[1]
    Array(2., dtype=float32, weak_type=True)
    """
    return _on_floats(_FORWARD_ONLY, tree, sentence)


def constant(tree: PyTree, sentence: str) -> PyTree:
    """The floating-point leaves unchanged; TypeError(sentence) where they are differentiated in either mode.

    >>> try:
    ...     jax.grad(lambda x: constant(2.0 * x, "This is a constant."))(1.0)
    ... except TypeError as error:
    ...     print(error)
    This is a constant.
    """
    return _on_floats(_CONSTANT, tree, sentence)


def _on_floats(primitive: Primitive, tree: PyTree, sentence: str) -> PyTree:
    def passed(leaf: Any) -> Any:
        return primitive.bind(leaf, sentence=sentence) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else leaf

    return jax.tree.map(passed, tree)
