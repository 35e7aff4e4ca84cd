"""Values that forward mode may differentiate and reverse mode may not, with a sentence that says what to do instead."""

from __future__ import annotations

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from bilevel.typing import PyTree

_passed = Primitive("forward_only")
_passed.def_impl(lambda value, *, sentence: value)
_passed.def_abstract_eval(lambda value, *, sentence: value)
mlir.register_lowering(_passed, lambda context, value, *, sentence: [value])
batching.defvectorized(_passed)


def _refuse(cotangent: Any, value: Any, *, sentence: str) -> NoReturn:
    raise TypeError(sentence)


ad.deflinear2(_passed, _refuse)


def forward_only(tree: PyTree, sentence: str) -> PyTree:
    """The floating-point leaves unchanged; TypeError(sentence) where reverse mode goes back through them.

    >>> jax.jvp(lambda x: forward_only(2.0 * x, "no"), (1.0,), (1.0,))[1]
    Array(2., dtype=float32, weak_type=True)
    """

    def passed(leaf: Any) -> Any:
        return _passed.bind(leaf, sentence=sentence) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else leaf

    return jax.tree.map(passed, tree)
