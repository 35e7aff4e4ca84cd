"""The conic mapping: its roots are the solutions, normalised, and its system gives their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel import cones
from bilevel.implicit.attach import solve_system
from bilevel.linear_solve import Dense, materialize

CONE = cones.Product(cones.Zero(1), cones.NonNegative(2), cones.SecondOrder(3))


def known(seed: int = 0, n: int = 3) -> tuple[tuple, tuple]:
    """Data (A, b, c) with a known, strictly complementary solution (x, y, s); the vertex of n active directions."""
    rng = np.random.default_rng(seed)
    A, x = rng.normal(size=(6, n)), rng.normal(size=n)
    axis = np.array([0.6, 0.8])
    s = np.concatenate([[0], [1.0, 0], 0.7 * np.array([1, *axis])])
    y = np.concatenate([[0.3], [0, 1.5], 0.5 * np.array([1, *-axis])])
    data = (A, A @ x + s, -A.T @ y)
    return tuple(map(jnp.asarray, data)), tuple(map(jnp.asarray, (x, y, s)))


def test_the_residual_vanishes_at_the_normalised_solution_only():
    F = bl.optimality.Conic(CONE)
    data, point = known()
    z = F.pack(*point)
    assert_allclose(F(z, *data), 0, atol=1e-13)
    assert float(jnp.linalg.norm(F(2 * z, *data))) > 0.9  # a multiple is no root: tau is normalised
    for multiple in (1.0, 0.1, 30.0):
        assert_allclose(F.natural_residual(multiple * z, *data), 0, atol=1e-12)


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_zero_and_negative_multiples_are_no_solutions(factor):
    F = bl.optimality.Conic(CONE)
    data, point = known()
    assert float(jnp.linalg.norm(F.natural_residual(factor * F.pack(*point), *data))) > 0.5


def test_unpack_inverts_pack():
    F = bl.optimality.Conic(CONE)
    _, point = known()
    for found, expected in zip(F.unpack(2 * F.pack(*point)), point, strict=True):
        assert_allclose(found, expected, atol=1e-14)


@pytest.mark.slow
def test_the_reduced_system_is_symmetric_and_solves_the_full_one():
    F = bl.optimality.Conic(CONE)
    data, point = known()
    z = F.pack(*point)
    system = F.system(z, *data)
    assert system.operator.symmetric is True and system.operator.definite is False
    matrix, _ = materialize(system.operator, system.restrict(z))
    assert_allclose(matrix, matrix.T, atol=1e-13)
    full = jax.jacfwd(lambda z: F(z, *data))(z)
    rhs = jnp.cos(jnp.arange(1.0, z.size + 1))
    assert np.linalg.cond(full) < 1e6  # the radial null space is gone
    assert_allclose(solve_system(system, Dense(), rhs), jnp.linalg.solve(full, rhs), rtol=1e-9)


@pytest.mark.slow
def test_derivatives_against_the_full_jacobian_in_both_modes():
    F = bl.optimality.Conic(CONE)
    data, point = known()
    z = F.pack(*point)
    A = jax.jacfwd(lambda z: F(z, *data))(z)
    expected = jax.tree.map(
        lambda B: -jnp.tensordot(jnp.linalg.inv(A), B, 1), jax.jacfwd(lambda data: F(z, *data))(data)
    )
    for mode in (jax.jacfwd, jax.jacrev):
        found = mode(lambda data: bl.custom_root(F)(lambda init, *data: z)(None, *data))(data)
        for one, other in zip(found, expected, strict=True):
            assert_allclose(one, other, rtol=1e-8, atol=1e-9)


def test_a_vector_of_the_wrong_length_is_refused():
    F = bl.optimality.Conic(CONE)
    data, _ = known()
    with pytest.raises(ValueError, match=r"Conic\.pack"):
        F(jnp.zeros(4), *data)
