"""The rows that hold a solution do not depend on the units of rows, unknowns and objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.kernels.activity import is_regular, read_program, units_of

RNG = np.random.default_rng(0)


def read(program: tuple, at: tuple):
    """The reading, whatever kind of arrays the program has."""
    return read_program(*jax.tree.map(jnp.asarray, (program, at)))


def regular(program: tuple, at: tuple) -> bool:
    return bool(is_regular(jax.tree.map(jnp.asarray, program), read(program, at)))


def known(slack, dual, rows=None):
    """A program with a known solution; the rows that are active hold with slack 0."""
    n, m = 4, len(slack)
    G, x = RNG.normal(size=(m, n)) if rows is None else rows, RNG.normal(size=n)
    A, Q, y = RNG.normal(size=(1, n)), np.eye(n), np.ones(1)
    return (Q, -(Q @ x + A.T @ y + G.T @ dual), A, A @ x, G, G @ x + slack), (x, y, np.asarray(dual))


def rescaled(program, at, rows, columns, cost):
    Q, q, A, b, G, h = program
    x, y, z = at
    scaled = (cost * columns[:, None] * Q * columns, cost * columns * q, A * columns, b)
    return (*scaled, rows[:, None] * G * columns, rows * h), (x / columns, cost * y, cost * z / rows)


@pytest.mark.slow
def test_units_bring_entries_to_size_one_and_follow_every_scale():
    C, Q = RNG.normal(size=(3, 4)) * (RNG.random((3, 4)) < 0.8) + 0, np.eye(4)
    rows, columns = 2.0 ** RNG.integers(-20, 20, 3), 2.0 ** RNG.integers(-20, 20, 4)
    plain = units_of(jnp.asarray(Q), jnp.asarray(C))
    scaled = units_of(jnp.asarray(columns[:, None] * Q * columns), jnp.asarray(rows[:, None] * C * columns))
    assert_allclose(jnp.log2(scaled.columns * columns / plain.columns), 0, atol=1)  # they are rounded to powers of two
    assert_allclose(jnp.log2(scaled.rows * rows / plain.rows), 0, atol=1)


def test_units_are_shared_by_the_rows_of_a_cone():
    units = units_of(jnp.zeros((2, 2)), jnp.array([[1.0, 0], [0, 1e6], [1, 1]]), np.array([0, 0, 1]))
    assert float(units.rows[0]) == float(units.rows[1]) != float(units.rows[2])


@pytest.mark.parametrize("exponent", [0, 3, 6])
def test_the_reading_is_that_of_the_program_unscaled(exponent):
    program, at = known([0.0, 0, 0.5, 1e-3], [0.3, 1e-4, 0, 0])
    reader = jax.jit(read_program)
    for _ in range(10):
        scales = (10.0 ** RNG.integers(-exponent, exponent + 1, size) for size in (4, 4, ()))
        scaled = jax.tree.map(jnp.asarray, rescaled(program, at, *scales))
        found = reader(*scaled)
        assert found.active.tolist() == [True, True, False, False]
        assert bool(is_regular(scaled[0], found))


@pytest.mark.slow
def test_a_weakly_active_and_a_dependent_row_are_not_regular():
    rows = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]])
    for slack, dual in (([0.0, 0, 1], [0.3, 0, 0]), ([0.0, 0, 0], [0.3, 0.2, 0.1])):
        program, at = known(slack, dual, rows)
        assert not regular(program, at)
    program, at = known([0.0, 0, 1], [0.3, 0.2, 0], rows)
    assert regular(program, at)


@pytest.mark.sample(1)
@pytest.mark.parametrize("shift", [0.0, 1e-17])
def test_a_solution_at_zero_and_an_interior_one_are_read_right(shift):
    """Where x or the gradient vanishes, what is left of it is rounding and no unit."""
    Q, A, b, G = np.eye(2), np.zeros((0, 2)), np.zeros(0), -np.eye(2)
    at_zero = (Q, np.array([1.0, 2.0]), A, b, G, np.zeros(2)), (shift * np.ones(2), b, np.array([1.0, 2.0]))
    interior = (Q, -np.ones(2), A, b, G, np.zeros(2)), (np.ones(2), b, shift * np.ones(2))
    assert read(*at_zero).active.tolist() == [True, True]
    assert read(*interior).active.tolist() == [False, False]


@pytest.mark.slow
def test_active_rows_are_told_at_a_solution_and_kink_and_guessed_where_the_residual_is_as_large_as_a_multiplier():
    """min 1/2 x^2 - (1 + kink) x over x <= 1."""
    one = jnp.ones(1)
    for slope, x, z, told in ((2.0, 1.0, 1.0, True), (1.0, 1.0, 0.0, True), (1.0 + 1e-3, 1.0 - 1e-3, 1e-3, False)):
        program = (jnp.eye(1), -slope * one, jnp.zeros((0, 1)), jnp.zeros(0), jnp.eye(1), one)
        assert bool(read_program(program, (x * one, jnp.zeros(0), z * one)).told) is told
