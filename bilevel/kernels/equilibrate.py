"""Rows and columns of a program brought to size 1, because the tolerances of a solver refer to data of that size."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.kernels import equilibrate_operators
from bilevel.kernels.conic import Data, Units
from bilevel.kernels.equilibrate_operators import Groups, Squares, equilibrium, squares_of
from bilevel.kernels.second_orders import SecondOrders


class Scales(NamedTuple):
    """x = columns * x^, y = rows * y^ / cost, z = bounds * z^ / cost, s = s^ / bounds."""

    columns: jax.Array
    rows: jax.Array
    bounds: jax.Array
    cost: jax.Array


def equilibrate(data: Data, cones: SecondOrders) -> tuple[Data, Scales]:
    """The program with rows and columns of length about 1; a cone has one scale for all of its rows."""
    P, q, E, e, G, h = data
    columns, both, cost = equilibrium(q, *_stacked(data, cones))
    rows, bounds = both[: e.size], both[e.size :]
    scaled_E, scaled_G = rows[:, None] * E * columns[None, :], bounds[:, None] * G * columns[None, :]
    scaled_P = cost * columns[:, None] * P * columns[None, :]
    scaled = Data(scaled_P, cost * columns * q, scaled_E, rows * e, scaled_G, bounds * h)
    return scaled, Scales(columns, rows, bounds, cost)


def units(data: Data, cones: SecondOrders) -> Units:
    """The units of a proof, from [E; G] alone, because a proof of infeasibility uses nothing else."""
    columns, rows, _ = equilibrate_operators.units(data.q, *_stacked(data, cones))
    return Units(columns, rows[: data.e.size], rows[data.e.size :])


def _stacked(data: Data, cones: SecondOrders) -> tuple[Squares, Groups]:
    equalities = data.e.size
    owner = np.concatenate([np.arange(equalities), equalities + cones.owner])
    return squares_of(data.P, jnp.concatenate([data.E, data.G])), Groups(owner, equalities + len(cones.lengths))
