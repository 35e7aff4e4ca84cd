"""Badly scaled, rank-deficient, single-precision and warm-started problems."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(40, 8))
TARGET = MATRIX @ np.array([1.0, -2.0, 0.0, 0.5, 0.0, 3.0, 0.0, -1.0]) + 0.1 * RNG.normal(size=40)
SCALES = np.logspace(-4, 4, 8)
SOLVERS = {
    "ActiveSetNewton": bl.ActiveSetNewton(),
    "BlockCoordinateDescent": bl.BlockCoordinateDescent(tol=1e-10),
    "WorkingSet": bl.WorkingSet(bl.BlockCoordinateDescent(), sizes=(4,)),
    "Auto": bl.Auto(),
}


def lasso(weight, solver, constraint=None):
    """The weight may be one for each coordinate; the tolerance is that of the residual in these coordinates."""
    loss = bl.Linear(design=lambda batch: batch[0], loss=lambda z, w, h, batch: 0.5 * jnp.mean((z - batch[1]) ** 2))
    penalty = bl.L1(weight=weight) if constraint is None else bl.Zero()
    return bl.InnerProblem(loss, lambda key, h: jnp.zeros(8), penalty, constraint or bl.Free(), solver)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_columns_from_1e_minus_4_to_1e4(solver):
    """Columns and weights scaled together: the solution is that of the well scaled problem in other units. The residual
    is measured in these units, where the smallest column counts for 1e-8 of the largest: hence the tolerance."""
    weights = lambda h: jnp.exp(h) * jnp.asarray(SCALES)
    tight = replace(SOLVERS[solver], tol=1e-15)
    scaled = lasso(weights, tight).solve(-2.0, (jnp.asarray(MATRIX * SCALES), jnp.asarray(TARGET)))
    plain = lasso(jnp.exp, bl.ActiveSetNewton()).solve(-2.0, (jnp.asarray(MATRIX), jnp.asarray(TARGET)))
    assert bool(scaled.status.ok)
    assert_allclose(scaled.params * SCALES, plain.params, atol=1e-6)
    assert_allclose(scaled.params == 0, plain.params == 0)


FAR_SCALES = np.array([1e8, 1e8, 1.0, 1.0, 1.0, 1.0, 1e-8, 1e-8])


def hypergradient_in_units(scales, solver):
    """Of the lasso whose columns and weights are multiplied by ``scales``: it depends on them only by rounding."""
    batch = (jnp.asarray(MATRIX * scales), jnp.asarray(TARGET))
    inner = lasso(lambda h: jnp.exp(h) * jnp.asarray(scales), solver)
    outer = lambda w, h, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)
    task = bl.Task(inner, outer, lambda key: jnp.asarray(-3.0), bl.full_batch(batch, batch))
    return bl.hypergradient(task, jnp.asarray(-3.0), bl.Implicit(on_failure="warn"))


@pytest.mark.slow
def test_the_derivative_does_not_depend_on_the_units_of_columns():
    """The curvature along the smallest columns is 1e-32 of the largest and was lost beside 1: a singular system."""
    right = hypergradient_in_units(np.ones(8), bl.ActiveSetNewton())[1]
    found, report = hypergradient_in_units(FAR_SCALES, bl.ActiveSetNewton())[1:]
    assert report.status.name == "converged"
    assert_allclose(found, right, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The inner solve ended")
@pytest.mark.parametrize("solver", [bl.ProximalGradient(), bl.SpectralProximalGradient()])
def test_a_tolerance_in_bad_units_is_told_by_the_estimate(solver):
    """The norm of the residual does not see the smallest columns: steps in these coordinates end early, and say so."""
    right = hypergradient_in_units(np.ones(8), bl.ActiveSetNewton())[1]
    found, report = hypergradient_in_units(FAR_SCALES, solver)[1:]
    assert report.inner_status.name != "stalled"
    assert abs(float(found - right)) <= 3 * float(report.error_estimate)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_rank_deficient_designs(solver):
    """A column twice: solutions are not unique, their predictions and the optimality condition are."""
    matrix = np.concatenate([MATRIX[:, :7], MATRIX[:, :1]], axis=1)
    batch = (jnp.asarray(matrix), jnp.asarray(TARGET))
    inner = lasso(jnp.exp, SOLVERS[solver])
    found = inner.solve(-2.0, batch)
    assert bool(found.status.ok)
    slope = matrix.T @ (matrix @ np.asarray(found.params) - TARGET) / 40
    assert np.all(np.abs(slope) <= np.exp(-2.0) + 1e-8)
    other = inner.solve(-2.0, batch, init=jnp.ones(8))
    assert_allclose(matrix @ found.params, matrix @ other.params, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [bl.LBFGSB(tol=1e-10), bl.ActiveSetNewton(), bl.BlockCoordinateDescent(tol=1e-10)])
def test_a_degenerate_box(solver):
    """Bounds that coincide, bounds that are infinite, and a solution exactly at a bound with zero multiplier."""
    lower = jnp.array([0.3, -jnp.inf, 0.0, 0.0, -1.0, -jnp.inf, 0.0, -jnp.inf])
    upper = jnp.array([0.3, jnp.inf, 0.0, 1.0, 1.0, 1.0, jnp.inf, jnp.inf])
    inner = lasso(0.0, solver, bl.Box(lower, upper))
    found = inner.solve(0.0, (jnp.asarray(MATRIX), jnp.asarray(TARGET)))
    assert bool(found.status.ok)
    assert np.all(found.params >= lower) and np.all(found.params <= upper) and float(found.params[0]) == 0.3
    slope = MATRIX.T @ (MATRIX @ np.asarray(found.params) - TARGET) / 40
    assert_allclose(np.clip(found.params - slope, lower, upper), found.params, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [*SOLVERS, "LBFGSB", "MirrorDescent"])
def test_float32(solver):
    """The tolerance asked for is out of reach: the status says converged or stalled, and the result is right."""
    solvers = SOLVERS | {"LBFGSB": bl.LBFGSB(tol=1e-10), "MirrorDescent": bl.MirrorDescent(tol=1e-10)}
    sets = {"LBFGSB": bl.Box(-0.5, 1.0), "MirrorDescent": bl.Simplex(scale=1.5)}
    inner = lasso(jnp.exp, solvers[solver], sets.get(solver))
    witness = lasso(jnp.exp, bl.ActiveSetNewton(), sets.get(solver))
    exact = witness.solve(-2.0, (jnp.asarray(MATRIX), jnp.asarray(TARGET))).params
    with jax.enable_x64(False):
        found = inner.solve(jnp.float32(-2.0), (jnp.asarray(MATRIX), jnp.asarray(TARGET)))
        assert found.params.dtype == jnp.float32
    assert bool(found.status.ok)
    assert_allclose(found.params, exact, atol=2e-5)


PATHS = {"small steps": 0.02, "large steps": 0.5}
FAMILIES = {
    "lasso": lambda solver: lasso(jnp.exp, solver),
    "box": lambda solver: lasso(jnp.exp, solver, bl.Box(-0.5, lambda h: jnp.exp(h + 2.0))),
}


WARM = {
    "lasso": bl.ProximalGradient(tol=1e-8),
    "box": bl.ActiveSetNewton(),
}


@pytest.mark.parametrize("family", ["lasso", pytest.param("box", marks=pytest.mark.slow)])
def test_a_warm_start_never_takes_more_steps(family):
    """The law of the warm-start suite (experiments/solvers/warm_start.py), on its smallest path."""
    inner = FAMILIES[family](WARM[family])
    batch = (jnp.asarray(MATRIX), jnp.asarray(TARGET))
    solve = jax.jit(lambda h, start: inner.solve(h, batch, init=start))
    params, totals = solve(jnp.asarray(-1.0), jnp.zeros(8)).params, np.zeros(2)
    for number in range(1, 5):
        h = jnp.asarray(-1.0 - 0.02 * number)
        warm, cold = solve(h, params), solve(h, jnp.zeros(8))
        assert_allclose(warm.params, cold.params, atol=1e-6)
        totals += [int(found.counts.gradients) + int(found.counts.hessian_products) for found in (warm, cold)]
        params = warm.params
    assert totals[0] < totals[1]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_warm_starts_along_a_path_do_not_lose(solver, family, path):
    """Each warm arm against its own cold arm, at every point of the path."""
    inner = FAMILIES[family](SOLVERS[solver])
    batch = (jnp.asarray(MATRIX), jnp.asarray(TARGET))
    solve = jax.jit(lambda h, start: inner.solve(h, batch, init=start))
    params, costs = jnp.zeros(8), []
    for number in range(6):
        h = jnp.asarray(-1.0 - PATHS[path] * number)
        warm, cold = solve(h, params), solve(h, jnp.zeros(8))
        assert bool(warm.status.ok) and bool(cold.status.ok)
        assert_allclose(warm.params, cold.params, atol=1e-7)
        costs.append(tuple(int(found.counts.gradients + found.counts.hessian_products) for found in (warm, cold)))
        params = warm.params
    warm_total, cold_total = (sum(cost[arm] for cost in costs[1:]) for arm in range(2))
    assert warm_total <= 1.1 * cold_total + 2, costs
