"""Robustness of the two solvers of problems that are constrained by functions, over the same programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl

SOLVERS = {"InteriorPoint": bl.InteriorPoint(), "OperatorSplitting": bl.OperatorSplitting()}


def known(seed: int, spread: float) -> tuple[dict, bl.PrimalDual]:
    """A program with a known, strictly complementary solution; columns from 10^-spread to 10^spread."""
    rng = np.random.default_rng(seed)
    columns, on = np.logspace(-spread, spread, 6), np.arange(8) < 3
    root, A, G = (rng.normal(size=(rows, 6)) * columns for rows in (6, 2, 8))
    x, nu = rng.normal(size=6) / columns, rng.normal(size=2)
    lam, slack = np.where(on, rng.uniform(0.5, 2, 8), 0), np.where(on, 0, rng.uniform(0.5, 2, 8))
    Q = root.T @ root + 0.1 * np.diag(columns**2)
    data = {"Q": Q, "q": -(Q @ x + A.T @ nu + G.T @ lam), "A": A, "b": A @ x, "G": G, "h": G @ x + slack}
    return {name: jnp.asarray(value) for name, value in data.items()}, bl.PrimalDual(*map(jnp.asarray, (x, nu, lam)))


def problem(solver: str, size: int) -> bl.InnerProblem:
    rows = bl.Functional(equality=lambda w, h, t: t["A"] @ w - t["b"], inequality=lambda w, h, t: t["G"] @ w - t["h"])
    return bl.InnerProblem(
        lambda w, h, t: 0.5 * w @ t["Q"] @ w + t["q"] @ w, lambda key, h: jnp.zeros(size), constraint=rows,
        solver=SOLVERS[solver],
    )  # fmt: skip


@functools.cache
def compiled(solver: str, size: int):
    """(data, start) -> solution: one compilation for all programs of a size."""
    inner = problem(solver, size)
    return jax.jit(lambda data, start: inner.solve(None, data, init=start))


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_from_zero_from_the_solution_and_from_far_away(solver, spread):
    """Also with columns from 1e-4 to 1e4; a start at the solution takes no step."""
    columns, solve = np.logspace(-spread, spread, 6), compiled(solver, 6)
    for seed in range(4):
        data, at = known(seed, spread)
        for start in (0.0, 1e4):
            found = solve(data, jax.tree.map(lambda leaf, start=start: jnp.full_like(leaf, start), at))
            assert found.status.name == "converged"
            assert_allclose(found.params * columns, at.primal * columns, atol=1e-5 if spread else 1e-7)
        assert int(solve(data, at).steps) == 0


CORNERS = {
    "definite": (jnp.eye(2), jnp.array([-2.0, -2.0])),
    "linear": (jnp.zeros((2, 2)), jnp.array([-1.0, -1.0])),
    "rank one": (jnp.ones((2, 2)), jnp.array([-2.0, -2.0])),
}


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_degenerate_vertex_with_a_redundant_row(solver):
    """Four lines through one point of the plane, two of them the same: the vertex moves with all of them."""
    G = jnp.array([[1.0, 0], [0, 1], [1, 1], [1, 1]])
    inner = problem(solver, 2)

    def moved(t, Q, q):
        data = {"Q": Q, "q": q, "A": jnp.zeros((0, 2)), "b": jnp.zeros(0)}
        found = inner.solve(None, data | {"G": G, "h": t * jnp.array([0.5, 0.5, 1.0, 1.0])})
        return found.params, found.status

    both = jax.jit(lambda Q, q: (moved(1.0, Q, q), jax.jacrev(lambda t: moved(t, Q, q)[0])(1.0)))
    for name, corner in CORNERS.items():
        (params, status), slope = both(*corner)
        assert bool(status.ok), name
        assert_allclose(params, [0.5, 0.5], atol=1e-7, err_msg=name)
        assert_allclose(slope, [0.5, 0.5], atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_infeasible_lanes_under_vmap_and_jit(solver):
    box = jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
    data = {"Q": jnp.eye(2), "q": jnp.ones(2), "A": jnp.zeros((0, 2)), "b": jnp.zeros(0), "G": box}
    inner = problem(solver, 2)
    found = jax.jit(jax.vmap(lambda h: inner.solve(None, data | {"h": h})))(
        jnp.array([[1.0, 1, 1, 1], [-1.0, 1, -1, 1], [0.0, 0, 0, 0]])
    )
    assert [bl.Code(int(code)).name for code in found.status.code] == ["converged", "infeasible", "converged"]
    assert_allclose(found.params[::2], [[-1, -1], [0, 0]], atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_single_precision(solver):
    data, at = known(0, 0.0)
    with jax.enable_x64(False):
        single = {name: value.astype(jnp.float32) for name, value in data.items()}
        inner = problem(solver, 6)
        found = jax.jit(lambda data: inner.solve(None, data))(single)
        assert found.params.dtype == jnp.float32 and bool(found.status.ok)
        assert_allclose(found.params, at.primal, atol=1e-3)
