"""Empty sets, found from their parameters alone, or from a projection that is undefined."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from bilevel.constraints import catalogue, linear_sets, sets
from bilevel.foundation.typing import HParams, Params
from bilevel.penalties import Parts, Penalty, parameters
from bilevel.penalties.parts import is_penalty


def crossed(lower: Any, upper: Any) -> jax.Array:
    """Whether a lower bound is above its upper bound anywhere; each is a number, an array, or a tree of either."""
    below, above = jax.tree.leaves(lower), jax.tree.leaves(upper)
    number = max(len(below), len(above))
    below, above = (bounds * number if len(bounds) == 1 else bounds for bounds in (below, above))
    return _any([jnp.asarray(a) > jnp.asarray(b) for a, b in zip(below, above, strict=True)])


def negative(size: Any) -> jax.Array:
    return _any([jnp.asarray(leaf) < 0 for leaf in jax.tree.leaves(size)])


def unbalanced(rows: Any, columns: Any) -> jax.Array:
    """Whether a mass is negative, or the sums differ by more than rounding."""
    rows, columns = jnp.asarray(rows), jnp.asarray(columns)
    difference = jnp.abs(jnp.sum(rows, axis=-1) - jnp.sum(columns, axis=-1))
    rounding = 1e3 * jnp.finfo(difference.dtype).eps * jnp.sum(jnp.abs(rows), axis=-1)
    return negative((rows, columns)) | jnp.any(difference > rounding)


def _any(conditions: list[jax.Array]) -> jax.Array:
    return jnp.any(jnp.stack([jnp.any(condition) for condition in conditions]))


CROSSED = (crossed, "a lower bound is above its upper bound")
NEGATIVE = (negative, "its radius, side, scale or total is negative")
UNBALANCED = (unbalanced, "a mass is negative, or rows and columns have different sums")
RULES: dict[type[Penalty], tuple[Callable[..., jax.Array], str]] = {
    sets.Box: CROSSED,
    sets.Simplex: NEGATIVE,
    catalogue.Hypercube: NEGATIVE,
    catalogue.L1Ball: NEGATIVE,
    catalogue.L2Ball: NEGATIVE,
    catalogue.LInfBall: NEGATIVE,
    catalogue.L1Sphere: NEGATIVE,
    catalogue.L2Sphere: NEGATIVE,
    catalogue.CappedSimplex: (lambda upper, total: negative((upper, total)), NEGATIVE[1]),
    catalogue.SparseSimplex: (lambda number, total: negative(total), NEGATIVE[1]),
    catalogue.BoxSection: (lambda lower, upper, weights, total: crossed(lower, upper), CROSSED[1]),
    linear_sets.Transport: UNBALANCED,
}


# Whether these hold a point depends on the shape of the params too, or takes as much work as to find one; where they
# hold none, their projections are NaN.
BY_PROJECTION = (
    catalogue.CappedSimplex,
    catalogue.BoxSection,
    linear_sets.Hyperplane,
    linear_sets.HalfSpace,
    linear_sets.AffineSet,
    linear_sets.Polyhedron,
)


def is_empty(penalty: Penalty, hparams: HParams, params: Params) -> jax.Array | bool:
    """Whether the set ``penalty`` holds no point of the shapes of ``params`` at these hyperparameters; a parameter of
    NaN tells nothing. The result is Python's False for a set that is never empty, so that nothing is compiled."""
    if isinstance(penalty, Parts):
        found = penalty.each(lambda part, piece: is_empty(part, hparams, piece), params)
        conditions = [condition for condition in found if condition is not False]
        return _any(conditions) if conditions else False
    penalty = penalty.as_set
    empty = parameters_exclude(penalty, hparams)
    if not isinstance(penalty, BY_PROJECTION):
        return empty
    origin = jax.tree.map(jnp.zeros_like, params)
    lost = _any([jnp.isnan(leaf) for leaf in jax.tree.leaves(penalty.prox(origin, 1.0, hparams))])
    known = [~jnp.isnan(jnp.asarray(leaf)) for leaf in jax.tree.leaves(parameters(penalty, hparams))]
    return empty | (lost & jnp.all(jnp.stack([jnp.all(leaf) for leaf in known])))


def parameters_exclude(penalty: Penalty, hparams: HParams) -> jax.Array | bool:
    """Whether the parameters of a set alone tell that it is empty."""
    rule, _ = RULES.get(type(penalty), (None, ""))
    return False if rule is None else rule(*parameters(penalty, hparams))


def refuse_empty(penalty: Penalty, hparams: HParams) -> None:
    """Raises ValueError where values are concrete and the parameters alone tell that the set is empty."""
    if isinstance(penalty, Parts):
        for part in jax.tree.leaves(penalty.parts, is_leaf=is_penalty):
            refuse_empty(part, hparams)
        return
    found = parameters_exclude(penalty, hparams)
    if isinstance(found, Tracer) or not bool(found):
        return
    names = [field.name for field in dataclasses.fields(penalty)]
    values = ", ".join(f"{name}={value}" for name, value in zip(names, parameters(penalty, hparams), strict=True))
    _, reason = RULES[type(penalty)]
    raise ValueError(f"bl.{type(penalty).__name__}({values}) holds no point: {reason}. Give a set that is not empty.")
