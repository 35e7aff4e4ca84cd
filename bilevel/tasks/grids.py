"""The best of a grid of settings: the baseline that a bilevel search is compared with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def lowest(losses: Iterable[Any], what: str) -> int:
    """The index of the lowest loss. Losses that are not finite are left out with a warning, because NaN is the least of
    all for `numpy.argmin`. Raises ValueError where none is left. ``what`` names the grid in these sentences.

    >>> lowest([3.0, 1.0, 2.0], "the grid of penalties")
    1
    """
    numbers = [float(loss) for loss in losses]
    usable = [index for index, loss in enumerate(numbers) if math.isfinite(loss)]
    if not usable:
        raise ValueError(
            f"None of the {len(numbers)} losses on {what} is a finite number: look for NaN or infinite values in the "
            "data, or choose another grid."
        )
    if len(usable) < len(numbers):
        warnings.warn(
            f"{len(numbers) - len(usable)} of {len(numbers)} losses on {what} are no finite numbers and are left out "
            "of the baseline.",
            stacklevel=2,
        )
    return min(usable, key=numbers.__getitem__)


class Highest(NamedTuple):
    """The best of scores that are traced, where nothing can be raised or warned of."""

    index: jax.Array  # of the raveled scores; 0 where none is finite
    score: jax.Array  # NaN where none is finite
    left_out: jax.Array  # how many are not finite


def highest(scores: jax.Array) -> Highest:
    """The highest of the finite scores, because NaN is the highest of all for `jnp.argmax`.

    >>> best = highest(jnp.array([1.0, jnp.nan, 2.0]))
    >>> int(best.index), float(best.score), int(best.left_out)
    (2, 2.0, 1)
    """
    usable = jnp.isfinite(scores)
    index = jnp.argmax(jnp.where(usable, scores, -jnp.inf))
    score = jnp.where(jnp.any(usable), jnp.ravel(scores)[index], jnp.nan)
    return Highest(index, score, jnp.sum(~usable))
