"""Saddle systems by a factor of their first block, held against their matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.linear_solve.base import Operator, Saddle
from bilevel.linear_solve.condensed import Condensed, is_invertible, matrix_of


def saddle_of(n: int, held: int, bent: int, off: int, seed: int = 0, dtype=jnp.float64) -> Saddle:
    """C with ``held`` rows without a corner, ``bent`` with one, and rows of zeros beside a corner of 1."""
    rng = np.random.default_rng(seed)
    d = np.concatenate([np.ones(held), rng.uniform(0.05, 0.95, bent), np.zeros(off)])
    rows = d[:, None] * rng.standard_normal((len(d), n))
    return Saddle(*(jnp.asarray(part, dtype) for part in (rows, np.where(d > 0, d * (1 - d), 1), d)))


def operator_of(saddle: Saddle) -> Operator:
    matrix = matrix_of(saddle)
    return Operator(lambda v: matrix @ v, symmetric=True, definite=False, saddle=saddle)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize(("held", "bent", "off"), [(5, 0, 4), (2, 6, 3), (0, 7, 0)])
def test_it_solves_as_the_matrix_does(held, bent, off, dtype):
    saddle = saddle_of(5, held, bent, off, dtype=dtype)
    rhs = jnp.asarray(np.random.default_rng(1).standard_normal(5 + held + bent + off), dtype)
    found = Condensed()(operator_of(saddle), rhs)
    exact = np.linalg.solve(np.asarray(matrix_of(saddle), float), np.asarray(rhs, float))
    np.testing.assert_allclose(found.value, exact, rtol=0, atol=200 * jnp.finfo(dtype).eps * np.abs(exact).max())
    assert found.status.ok and int(found.factorizations) == 1


def test_nearly_dependent_rows_keep_the_digits_that_they_have():
    """Two held rows at an angle of 1e-6: the shift outweighs them, so the matrix is factored."""
    saddle = saddle_of(5, 3, 4, 0)
    near = saddle.rows.at[1].set(saddle.rows[0] + 1e-6 * saddle.rows[1])
    saddle = saddle._replace(rows=near)
    exact = jnp.arange(1.0, 13.0)
    found = Condensed()(operator_of(saddle), matrix_of(saddle) @ exact)
    np.testing.assert_allclose(found.value, exact, rtol=1e-3)  # a condition number of 1e12
    assert found.status.ok and int(found.factorizations) > 1


def test_a_singular_system_gives_the_solution_of_least_norm_or_says_singular():
    saddle = saddle_of(5, 3, 4, 0)
    saddle = saddle._replace(rows=saddle.rows.at[1].set(saddle.rows[0]))
    matrix = np.asarray(matrix_of(saddle))
    consistent = jnp.asarray(matrix @ np.arange(1.0, 13.0))
    found = Condensed()(operator_of(saddle), consistent)
    assert found.status.ok
    np.testing.assert_allclose(found.value, np.linalg.pinv(matrix) @ consistent, rtol=1e-7)
    impossible = Condensed()(operator_of(saddle), jnp.zeros(12).at[5].set(1.0).at[6].set(-1.0))
    assert impossible.status.name == "singular"


def test_the_lanes_of_a_batch_are_solved_apart():
    """One of three is singular, and one holds NaN."""
    saddles = [saddle_of(4, 2, 3, 1, seed) for seed in range(3)]
    saddles[1] = saddles[1]._replace(rows=saddles[1].rows.at[1].set(saddles[1].rows[0]))
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *saddles)
    rhs = jax.random.normal(jax.random.key(0), (3, 10)).at[2, 0].set(jnp.nan)
    found = jax.jit(jax.vmap(lambda saddle, rhs: Condensed()(operator_of(saddle), rhs)))(batch, rhs)
    names = [bl.Status.of(code).name for code in found.status.code]
    assert names == ["converged", "singular", "nonfinite"]
    np.testing.assert_allclose(found.value[0], np.linalg.solve(matrix_of(saddles[0]), rhs[0]), rtol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_invertible_means_what_the_singular_values_say(seed):
    saddle = saddle_of(6, 1 + seed % 5, 6, seed % 3, seed)
    assert is_invertible(saddle)
    values = np.linalg.svd(matrix_of(saddle), compute_uv=False)
    assert values[-1] > 1e-6 * values[0]
    twice = saddle._replace(rows=jnp.concatenate([saddle.rows, saddle.rows[:1]]))
    twice = twice._replace(corner=jnp.append(twice.corner, 0), shift=jnp.append(twice.shift, 1))
    assert not is_invertible(twice)
    flat = saddle._replace(rows=saddle.rows.at[:, 0].set(0))  # an unknown that nothing holds
    assert not is_invertible(flat)


def test_auto_chooses_it_and_says_so():
    operator = operator_of(saddle_of(5, 2, 4, 0))
    assert isinstance(bl.AutoLinear().choose(operator, jnp.ones(11)), Condensed)
    assert "saddle" in bl.AutoLinear().explain(operator, jnp.ones(11))
    assert not isinstance(bl.AutoLinear(dense=10).choose(operator, jnp.ones(11)), Condensed)
    with pytest.raises(ValueError, match="Condensed factors a saddle, which the system does not state"):
        Condensed()(lambda x: x, jnp.ones(2))
