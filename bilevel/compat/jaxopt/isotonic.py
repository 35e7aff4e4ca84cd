"""Isotonic regression, by `bl.projections.isotonic`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bilevel import projections


def isotonic_l2_pav(y: Any, y_min: Any = -jnp.inf, y_max: Any = jnp.inf, increasing: bool = True) -> jax.Array:
    """The monotone sequence between ``y_min`` and ``y_max`` that is nearest to y."""
    return projections.isotonic(y, y_min, y_max, increasing=increasing)
