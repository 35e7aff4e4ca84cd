"""A derivative that is not defined and says so: NaN forward, TypeError backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def undefined(like: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> list[jax.Array]:
    """Tangents of the shapes of ``like`` that depend on ``tangents`` in an unknown way: NaN. Transposing raises.

    A primitive, because other linear maps of JAX state their transpose when they are traced; a primitive refuses it
    only when reverse mode asks for it. Batches, and can be differentiated again.
    """
    if not like:
        return []
    return _undefined.bind(*tangents, shapes=tuple((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in like))


def _forward(*tangents: jax.Array, shapes: tuple) -> list[jax.Array]:
    return [jnp.full(shape, jnp.nan, dtype) for shape, dtype in shapes]


def _again(primals: Sequence[Any], tangents: Sequence[Any], shapes: tuple) -> tuple[list, list]:
    moved = [ad.instantiate_zeros(tangent) for tangent in tangents]
    return _undefined.bind(*primals, shapes=shapes), _undefined.bind(*moved, shapes=shapes)


def _batched(tangents: Sequence[Any], axes: Sequence[Any], shapes: tuple) -> tuple[list, list]:
    size = next(leaf.shape[axis] for leaf, axis in zip(tangents, axes, strict=True) if axis is not None)
    return _undefined.bind(*tangents, shapes=tuple(((size, *shape), dtype) for shape, dtype in shapes)), [0] * len(
        shapes
    )


def _refuse(*_: Any, **__: Any) -> Any:
    raise TypeError(
        "The derivative of aux is not defined: aux is whatever the solver reports, and only the solution itself has an "
        "implicit derivative. Recompute the quantity from the solution (aux = f(params, args)) and differentiate that."
    )


_undefined = Primitive("undefined_derivative")
_undefined.multiple_results = True
_undefined.def_impl(_forward)
_undefined.def_abstract_eval(lambda *tangents, shapes: [ShapedArray(shape, dtype) for shape, dtype in shapes])
mlir.register_lowering(_undefined, mlir.lower_fun(_forward, multiple_results=True))
ad.primitive_jvps[_undefined] = _again
ad.primitive_transposes[_undefined] = _refuse
batching.primitive_batchers[_undefined] = _batched
