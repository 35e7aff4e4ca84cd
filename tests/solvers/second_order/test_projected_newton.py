"""Newton's method in a box: descent from rough starts, active bounds, saddles, losses without curvature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl


def rosenbrock(w, h, batch):
    return 100 * (w[1] - w[0] ** 2) ** 2 + (h - w[0]) ** 2


def rational(w, h, batch):
    """One of the shape of PALMER1 of CUTEst: a pole, and a loss that flattens out far away."""
    x = np.linspace(0.2, 1.8, 12)
    return jnp.sum((w[0] * x**2 + w[1] / (w[2] + x**2 / w[3]) - (0.4 * x**2 + 2 / (0.5 + x**2))) ** 2)


def problem(loss, start, box, **parts):
    return bl.InnerProblem(loss=loss, init=lambda key, h: jax.tree.map(jnp.asarray, start), constraint=box, **parts)


SOLVER = bl.ProjectedNewton()
UP = np.array([0.5, 9.0])


@pytest.mark.slow
def test_active_bounds_derivatives_and_batches():
    """With w0 = 1/2 at its bound, w1 = 1/4 whatever h is; below the bound the minimum is at (h, h^2)."""
    inner = problem(rosenbrock, np.array([-1.2, 1.0]), bl.Box(upper=UP))
    assert "ProjectedNewton" in inner.explain(1.0, None)
    hparams = jnp.array([1.0, 0.3])
    found = jax.jit(jax.vmap(lambda h: inner.solve(h, None)))(hparams)
    assert found.status.name == "converged" and found.order == "second order"
    assert_allclose(found.params, [[0.5, 0.25], [0.3, 0.09]], rtol=1e-7)
    slopes = jax.vmap(jax.jacobian(lambda h: inner.solve(h, None).params))(hparams)
    assert_allclose(slopes, [[0, 0], [1, 0.6]], atol=1e-6)


@pytest.mark.slow
def test_a_rough_start_descends():
    start = np.array([1.0, 1.0, 1.0, 1.0])
    found = problem(rational, start, bl.Box(lower=1e-5)).solve(None, None)
    assert found.status.name == "converged"
    assert float(rational(found.params, None, None)) < 1e-12


@pytest.mark.parametrize("start", [[0.0, 0.0], [0.0, 0.3]])
def test_a_saddle_is_left_and_a_loss_without_curvature_ends_at_a_bound(start):
    """A saddle in w1, and a linear loss in w0."""
    loss = lambda w, h, batch: w[0] - 0.5 * w[1] ** 2 + 0.25 * w[1] ** 4
    found = problem(loss, np.array(start), bl.Box(lower=-2.0, upper=2.0), solver=SOLVER).solve(None, None)
    assert found.status.name == "converged"
    assert_allclose([found.params[0], jnp.abs(found.params[1])], [-2, 1], atol=1e-8)


@pytest.mark.slow
def test_float32_trees_and_bad_data():
    loss = lambda w, h, batch: jnp.sum(jnp.cosh(w["a"] - h)) + jnp.sum(w["b"] ** 4 - batch * w["b"])
    start = {"a": np.zeros(2, np.float32), "b": np.ones((1, 1), np.float32)}
    inner = problem(loss, start, bl.Box(upper=0.5), solver=SOLVER)
    with jax.enable_x64(False):
        found = inner.solve(jnp.float32(1.0), jnp.float32(0.5))
        assert found.params["a"].dtype == jnp.float32 and bool(found.status.ok)
        assert_allclose(found.params["a"], 0.5)
        assert_allclose(found.params["b"], [[0.5]], rtol=1e-4)
    assert inner.solve(1.0, jnp.nan).status.name == "nonfinite"


def test_it_refuses_what_is_no_box():
    with pytest.raises(ValueError, match="would ignore L2Ball"):
        problem(rosenbrock, np.zeros(2), bl.L2Ball(), solver=SOLVER).solve(1.0, None)


@pytest.mark.parametrize("box", [bl.Box(lower=0.0), bl.Box(lower=-1.0, upper=1.0)])
def test_corners_do_not_jam(box):
    """Robust losses from 0, a corner of the first box: a projection may undo a whole step there, a coordinate may stay
    at its bound to rounding, and the terms of the loss cancel, so that rounding hides the decrease."""
    rng, cases, n = np.random.default_rng(0), 400, 6
    X, truth, shift = rng.normal(size=(cases, 6, n)), rng.normal(size=(cases, n)), 0.1 * rng.normal(size=(cases, n))
    y = np.einsum("kij,kj->ki", X, truth) / 2.4 + 0.3 * rng.normal(size=(cases, 6))
    ridge = np.exp(rng.uniform(-6, 0, size=cases))

    def loss(w, h, batch):
        X, y, shift = batch
        return jnp.mean(1 - jnp.exp(-0.5 * (X @ w - y) ** 2)) + 0.5 * h * (w @ w) + shift @ w

    solver = bl.ProjectedNewton(max_steps=100)
    inner = problem(loss, np.zeros(n), box, solver=solver)
    one = jax.jit(inner.solve)
    codes = [int(one(ridge[k], (X[k], y[k], shift[k])).status.code) for k in range(cases)]
    assert max(codes) <= bl.Code.stalled, np.bincount(codes)
