"""Minimisers minimise: no saddle and no maximum is converged, and starts on one are left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.solvers.curvature import least_curvature
from bilevel.solvers.lanczos import PRODUCTS

SOLVERS = {"Auto": bl.Auto(), "Newton by products": bl.Newton(linear_solve=bl.CG()), "LBFGS": bl.LBFGS(tol=1e-10)}


def product_of_two(w, h, batch):
    """Zero is a saddle; the minima are at w0 = w1 = +- sqrt(1 - h)."""
    return 0.5 * (w[0] * w[1] - 1) ** 2 + 0.5 * h * jnp.sum(w**2)


def double_well(w, h, batch):
    """From zero the gradient never leaves w1 = 0, which is a saddle."""
    return 0.5 * (w[0] - h) ** 2 - 0.5 * w[1] ** 2 + 0.25 * w[1] ** 4


def problem(loss, start, **parts):
    return bl.InnerProblem(loss=loss, init=lambda key, h: jnp.asarray(start), **parts)


@pytest.mark.slow
def test_hypergradients_beside_a_saddle():
    """The 40 starts of which 10 were silently wrong and 12 failed: the derivative of w0 w1 = 1 - h is -1."""
    task = bl.Task(
        inner=bl.InnerProblem(loss=product_of_two, init=lambda key, h: 0.1 * jax.random.normal(key, (2,))),
        outer_loss=lambda w, h, batch: w[0] * w[1],
        init_hparams=lambda key: jnp.array(0.3),
        batches=bl.full_batch(0.0, 0.0),
    )
    for seed in range(40):
        _, grad, report = bl.hypergradient(task, jnp.array(0.3), key=jax.random.key(seed))
        assert report.status.name == "converged" and report.order == "second order"
        assert_allclose(grad, -1.0, rtol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_flat_start_moves(solver):
    found = problem(lambda w, h, batch: jnp.sum(w**4 / 4 - w**2 / 2), [0.1] * 5, solver=SOLVERS[solver]).solve(
        0.0, None
    )
    assert found.status.name == "converged" and found.order == "second order"
    assert_allclose(jnp.abs(found.params), 1.0, atol=1e-6)


@pytest.mark.sample(2)
@pytest.mark.parametrize("solver", [*SOLVERS, "GradientDescent", "FIRE"])
def test_a_saddle_by_symmetry_is_left(solver):
    solvers = SOLVERS | {"GradientDescent": bl.GradientDescent(max_steps=2000), "FIRE": bl.FIRE()}
    found = problem(double_well, [0.0, 0.0], solver=solvers[solver]).solve(0.7, None)
    assert found.status.name == "converged" and found.order == "second order"
    assert_allclose(jnp.abs(found.params), [0.7, 1.0], atol=1e-5)


PARTS = {
    "L1": ({"penalty": bl.L1(weight=0.1)}, [0.6, 0.945649]),  # w1^3 - w1 + 0.1 = 0
    "Box": ({"constraint": bl.Box(-2.0, 2.0)}, [0.7, 1.0]),
    "Box inside": ({"constraint": bl.Box(-0.5, 0.5)}, [0.5, 0.5]),
    "L2Ball": ({"constraint": bl.L2Ball(3.0)}, [0.7, 1.0]),
}
PARTED = {
    "Auto": bl.Auto(),
    "ProximalGradient": bl.ProximalGradient(max_steps=3000, tol=1e-8),
    "ProximalNewton": bl.ProximalNewton(),
    "LBFGSB": bl.LBFGSB(tol=1e-10),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("solver", PARTED)
def test_curvature_on_the_active_face(solver, parts):
    """Inside a box, and on the faces of sets and penalties; under L1 zero is a minimum in w1, whatever the loss."""
    kwargs, expected = PARTS[parts]
    if (solver, parts) in (("ProximalNewton", "L2Ball"), ("LBFGSB", "L1"), ("LBFGSB", "L2Ball")):
        pytest.skip("the solver refuses this set")
    start = [0.0, 0.3] if parts == "L1" else [0.0, 0.0]
    found = problem(double_well, start, solver=PARTED[solver], **kwargs).solve(0.7, None)
    assert found.status.name == "converged" and found.order == "second order"
    assert_allclose(jnp.abs(found.params), expected, atol=1e-5)


@pytest.mark.slow
def test_a_minimum_on_a_kink_is_one():
    found = problem(double_well, [0.0, 0.0], penalty=bl.L1(weight=0.1)).solve(0.7, None)
    assert found.status.name == "converged" and float(found.curvature) == 0
    assert_allclose(found.params, [0.6, 0.0], atol=1e-8)


def network(w, h, batch):
    """A network of 25 weights: 2 inputs, 6 hidden units, 1 output."""
    x, y = batch
    hidden = jnp.tanh(x @ w[:12].reshape(2, 6) + w[12:18])
    return 0.5 * jnp.mean((hidden @ w[18:24] + w[24] - y) ** 2) + 0.5 * h * jnp.sum(w**2)


@pytest.mark.slow
def test_networks_end_at_minima():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(40, 2)))
    batch = (x, jnp.sin(2 * x[:, 0]) * x[:, 1])
    inner = bl.InnerProblem(loss=network, init=lambda key, h: 0.5 * jax.random.normal(key, (25,)))
    solve = jax.jit(lambda key: inner.solve(1e-3, batch, key=key))
    for seed in range(20):
        found = solve(jax.random.key(seed))
        assert found.status.name == "converged"
        hessian = jax.hessian(network)(found.params, 1e-3, batch)
        assert float(jnp.linalg.eigvalsh(hessian)[0]) > -1e-8
        assert float(network(found.params, 1e-3, batch)) < float(network(jnp.zeros(25), 1e-3, batch))


@pytest.mark.slow
def test_under_vmap_each_lane_is_judged():
    """Of two starts at the solution of one lane only, that one ends at a minimum of its own."""
    inner = problem(double_well, [0.0, 0.0], solver=bl.LBFGS(tol=1e-10))
    starts = jnp.array([[0.7, 1.0], [0.0, 0.0], [0.7, -1.0]])
    found = jax.vmap(lambda start: inner.solve(0.7, None, init=start))(starts)
    assert found.status.code.tolist() == [0, 0, 0]
    assert_allclose(jnp.abs(found.params), jnp.array([[0.7, 1.0]] * 3), atol=1e-6)


@pytest.mark.slow
def test_trees_and_single_precision():
    def loss(w, h, batch):
        return double_well(jnp.concatenate([w["a"], w["b"]]), h, batch)

    for solver in (bl.Auto(), bl.LBFGS()):
        inner = bl.InnerProblem(loss, lambda key, h: {"a": jnp.zeros(1), "b": jnp.zeros(1)}, solver=solver)
        with jax.enable_x64(False):
            found = inner.solve(jnp.float32(0.7), None)
        assert bool(found.status.ok) and found.params["a"].dtype == jnp.float32
        assert_allclose(jnp.abs(found.params["b"]), [1.0], atol=1e-3)


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", [bl.Auto(), bl.LBFGS()])
def test_a_saddle_that_cannot_be_left_is_indefinite(solver):
    """Where rounding hides every decrease of the loss."""
    loss = lambda w, h, batch: 1e18 + double_well(w, h, batch) + 0.05 * w[1] ** 4
    inner = problem(loss, [0.0, 0.0], solver=solver)
    assert inner.solve(0.0, None).status.name == "indefinite"


@pytest.mark.slow
def test_the_least_curvature_of_many_unknowns():
    """Lanczos' method finds one direction among a thousand, and none where there is none."""
    for least in (-0.3, 0.1):
        diagonal = jnp.linspace(0.1, 1.0, 1000).at[500].set(least)
        inner = problem(lambda w, h, batch: 0.5 * jnp.sum(batch * w**2), [0.0] * 1000)
        found = least_curvature(inner.at(0.0, diagonal), jnp.zeros(1000))
        assert (float(found.least) < -0.2) == (least < 0) and PRODUCTS <= 16
    assert float(found.least) == 0


@pytest.mark.slow
def test_unrolled_steps_from_a_saddle_claim_no_minimum():
    """Nothing on the way of gradient steps factors a matrix: they stay at w1 = 0, and the report claims neither a look
    at the curvature nor an error."""
    inner = problem(double_well, [0.0, 0.0], solver=bl.GradientDescent())
    task = bl.Task(inner, lambda w, h, batch: w[0] + w[1], lambda key: jnp.array(0.3), bl.full_batch(0.0, 0.0))
    for engine in (bl.Unrolled(), bl.Unrolled(steps=20)):
        _, _, report = bl.hypergradient(task, jnp.array(0.3), engine)
        assert_allclose(report.params, [0.3, 0.0], atol=1e-8)
        assert report.order == "first order"
        assert np.isnan(report.curvature) and np.isinf(report.error_estimate)


@pytest.mark.slow
def test_roots_are_no_minima():
    """A residual with an indefinite derivative is none of this: its root is converged."""
    inner = bl.InnerProblem.from_residual(
        lambda w, h, batch: jnp.array([1.0, -1.0]) * (w - h), lambda key, h: jnp.zeros(2)
    )
    found = inner.solve(1.0, None)
    assert found.status.name == "converged" and found.order == "first order"
