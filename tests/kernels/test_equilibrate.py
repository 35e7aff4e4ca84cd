"""Equilibration: entries of size 1, one scale for a cone, and the same solutions in other units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.kernels.conic import Data, solve_conic
from bilevel.kernels.equilibrate import equilibrate, units
from bilevel.kernels.second_orders import SecondOrders


def program(spread, lengths, dtype="float64"):
    """A program over cones of these lengths whose rows and columns differ by up to 10^(2 spread)."""
    rng = np.random.default_rng(spread)
    n, m, p = 4, sum(lengths), 2
    columns, rows = 10.0 ** rng.uniform(-spread, spread, n), 10.0 ** rng.uniform(-spread, spread, m + p)
    root = rng.normal(size=(n, n))
    P = columns[:, None] * (root @ root.T + np.eye(n)) * columns
    G = rows[:m, None] * rng.normal(size=(m, n)) * columns
    E = rows[m:, None] * rng.normal(size=(p, n)) * columns
    parts = (P, columns * rng.normal(size=n), E, rows[m:], G, rows[:m])
    return Data(*(jnp.asarray(part, dtype) for part in parts)), SecondOrders(lengths)


scaled_by = jax.jit(equilibrate, static_argnums=1)


def largest(matrix, axis):
    return jnp.max(jnp.abs(matrix), axis=axis)


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spread", [0, 3])
def test_every_row_and_column_has_a_largest_entry_near_one(spread, dtype):
    data, cones = program(spread, (1,) * 6, dtype)
    scaled, scales = scaled_by(data, cones)
    assert all(leaf.dtype == dtype for leaf in (*scaled, *scales))
    across = jnp.concatenate([largest(scaled.G, 1), largest(scaled.E, 1)])
    down = jnp.maximum(jnp.maximum(largest(scaled.G, 0), largest(scaled.E, 0)), largest(scaled.P, 0) / scales.cost)
    for sizes in (across, down):
        assert 0.25 < float(jnp.min(sizes)) and float(jnp.max(sizes)) < 4
    assert_allclose(jnp.maximum(largest(scaled.P, None), largest(scaled.q, None)), 1, rtol=1e-6)


def test_the_conditions_of_the_scaled_program_are_those_of_the_program():
    data, cones = program(3, (3, 1, 2))
    scaled, (columns, rows, bounds, cost) = scaled_by(data, cones)
    rng = np.random.default_rng(1)
    x, y, z = (jnp.asarray(rng.normal(size=part.shape)) for part in (data.q, data.e, data.h))
    inside = scaled.P @ x + scaled.q + scaled.E.T @ y + scaled.G.T @ z
    at = columns * x
    stationary = data.P @ at + data.q + data.E.T @ (rows * y / cost) + data.G.T @ (bounds * z / cost)
    assert_allclose(cost * columns * stationary, inside, rtol=1e-10, atol=1e-12)
    assert_allclose(rows * (data.E @ at - data.e), scaled.E @ x - scaled.e, rtol=1e-10, atol=1e-12)
    assert_allclose(bounds * (data.G @ at - data.h), scaled.G @ x - scaled.h, rtol=1e-10, atol=1e-12)


def test_a_cone_has_one_scale_for_all_of_its_rows():
    data, cones = program(3, (3, 1, 2))
    _, scales = scaled_by(data, cones)
    bounds = np.asarray(scales.bounds)
    assert len(set(bounds[:3])) == len(set(bounds[4:])) == 1
    assert len({bounds[0], bounds[3], bounds[4]}) == 3


def test_zero_rows_and_columns_keep_a_finite_scale():
    data, cones = program(0, (1,) * 6)
    scaled, scales = scaled_by(
        data._replace(
            P=data.P.at[0].set(0).at[:, 0].set(0),
            q=data.q.at[0].set(0),
            E=data.E.at[:, 0].set(0).at[1].set(0),
            G=data.G.at[:, 0].set(0).at[2].set(0),
        ),
        cones,
    )
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in (*scaled, *scales))
    assert float(scales.columns[0]) == float(scales.rows[1]) == float(scales.bounds[2]) == 1


def test_the_units_of_a_proof_do_not_depend_on_the_objective():
    data, cones = program(2, (3, 1, 2))
    other = data._replace(P=1e6 * data.P, q=-data.q)
    for one, two in zip(units(data, cones), units(other, cones), strict=True):
        assert_allclose(one, two, rtol=1e-14)


@pytest.mark.parametrize("spread", [0, 3, 6])
def test_it_changes_no_solution(spread):
    rng, n, m = np.random.default_rng(0), 4, 6
    root = rng.normal(size=(n, n))
    columns, rows = 10.0 ** rng.uniform(-spread, spread, n), 10.0 ** rng.uniform(-spread, spread, m)
    G = rows[:, None] * rng.normal(size=(m, n)) * columns
    P = columns[:, None] * (root @ root.T + np.eye(n)) * columns
    data = Data(*map(jnp.asarray, (P, columns * rng.normal(size=n), np.zeros((0, n)), np.zeros(0), G, rows)))
    cones = SecondOrders((1,) * m)
    scaled, scales = scaled_by(data, cones)
    entries = jnp.maximum(jnp.max(jnp.abs(scaled.G), axis=0), jnp.max(jnp.abs(scaled.P), axis=0))
    assert float(jnp.max(entries)) < 4 and float(jnp.min(entries)) > 0.05
    found = jax.jit(lambda data: solve_conic(data, cones, units(data, cones), 1e-12, 60))(scaled)
    x, z = scales.columns * found.x, scales.bounds * found.z / scales.cost
    stationary = data.P @ x + data.q + data.G.T @ z
    assert float(jnp.max(jnp.abs(stationary) / (jnp.abs(data.P) @ jnp.abs(x) + jnp.abs(data.q)))) < 1e-7
    assert float(jnp.max((data.G @ x - data.h) / data.h)) < 1e-7
