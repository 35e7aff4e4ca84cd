"""Levenberg-Marquardt, Gauss-Newton and the dogleg, with matrices and by products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.kernels.lsmr import lsmr
from bilevel.kernels.orthogonal import damped, minimum_norm, triangle

SOLVERS = {
    f"{kind.__name__}{'' if dense else ' by products'}": kind(dense=dense)
    for kind in (bl.LevenbergMarquardt, bl.GaussNewton, bl.Dogleg)
    for dense in (512, 0)
}
RNG = np.random.default_rng(1)
TIMES = np.linspace(0.0, 3.0, 15)


def rosenbrock(w, h, batch):
    return jnp.array([10 * (w[1] - w[0] ** 2), h - w[0]])


def decay(w, h, batch):
    """One hyperparameter, a tree of params, residuals that do not vanish."""
    return [w["size"] * jnp.exp(-w["rate"] * TIMES) - batch, h * w["size"]]


def solved(residual, start, solver, h=1.0, batch=None, **parts):
    inner = bl.InnerProblem(
        loss=bl.LeastSquares(residual), init=lambda key, h: jax.tree.map(jnp.asarray, start), solver=solver, **parts
    )
    return inner.solve(h, batch)


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_curved_valley_and_a_start_at_the_solution(solver):
    found = solved(rosenbrock, np.array([-1.2, 1.0]), SOLVERS[solver])
    assert found.status.name == "converged" and found.order == "second order"
    assert_allclose(found.params, 1.0, rtol=1e-7)
    there = solved(rosenbrock, np.ones(2), SOLVERS[solver])
    assert there.status.name == "converged" and int(there.steps) == 0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.sample(1)
def test_fits_under_jit_and_vmap_are_the_same(solver):
    batches = 2 * np.exp(-0.5 * TIMES) + 0.1 * RNG.standard_normal((3, 15))
    start = {"size": np.array(1.0), "rate": np.array(1.0)}
    solve = lambda batch: solved(decay, start, SOLVERS[solver], 0.1, batch)
    many = jax.jit(jax.vmap(solve))(batches)
    assert many.status.name == "converged"
    one = solve(batches[1])
    assert_allclose(many.params["rate"][1], one.params["rate"], rtol=1e-8)


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", SOLVERS)
def test_more_unknowns_than_residuals_and_dependent_columns(solver):
    """A rank of 2 in 4 unknowns, consistent: Gauss and Newton's steps from zero end at the solution of least norm in
    the units of the columns, here of one length."""
    basis = np.linalg.qr(RNG.standard_normal((4, 2)))[0].T
    matrix = np.concatenate([basis, basis[:1] + basis[1:]])
    matrix = matrix / np.linalg.norm(matrix, axis=0)
    right = matrix @ RNG.standard_normal(4)
    found = solved(lambda w, h, batch: matrix @ w - right, np.zeros(4), SOLVERS[solver])
    assert found.status.name == "converged"
    assert_allclose(matrix @ found.params, right, rtol=1e-7)
    assert_allclose(found.params, np.linalg.lstsq(matrix, right, rcond=1e-10)[0], rtol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", SOLVERS)
def test_boxes(solver):
    """Against the enumeration of faces: the unconstrained solution leaves the box on two sides."""
    matrix, right = RNG.standard_normal((8, 3)), 3 * RNG.standard_normal(8)
    found = solved(
        lambda w, h, batch: matrix @ w - right,
        np.zeros(3),
        SOLVERS[solver],
        constraint=bl.Box(-0.1, np.array([9, 9, 0.2])),
    )
    assert found.status.name == "converged"
    optimize = pytest.importorskip("scipy.optimize")
    witness = optimize.lsq_linear(matrix, right, ([-0.1] * 3, [9, 9, 0.2]), tol=1e-14)
    assert_allclose(found.params, witness.x, atol=1e-8)


def test_digits_that_normal_equations_lose():
    """A condition of 1e9: J'J is singular in float64, and half of the digits remain by orthogonal factors."""
    left, right = (np.linalg.qr(RNG.standard_normal((n, n)))[0] for n in (6, 3))
    matrix = (left[:, :3] * [1.0, 3e-5, 1e-9]) @ right
    truth = np.array([1.0, -2.0, 3.0])
    rows = triangle(jnp.asarray(matrix), jnp.asarray(matrix @ truth))
    assert_allclose(minimum_norm(rows), truth, rtol=1e-5)
    assert_allclose(damped(rows, jnp.array(1e-30)), truth, rtol=1e-5)
    scale = np.linalg.norm(matrix, axis=0)
    assert_allclose(
        damped(triangle(jnp.asarray(matrix / scale), jnp.asarray(matrix @ truth)), jnp.array(1e-30)) / scale,
        truth,
        rtol=1e-5,
    )


def test_lsmr_is_the_damped_solution():
    matrix, rhs = jnp.asarray(RNG.standard_normal((7, 4))), jnp.asarray(RNG.standard_normal(7))
    for damping in (0.0, 0.3):
        x, steps = lsmr(lambda v: matrix @ v, lambda r: matrix.T @ r, rhs, jnp.array(damping), jnp.array(1e-13), 30)
        assert_allclose(x, jnp.linalg.solve(matrix.T @ matrix + damping * jnp.eye(4), matrix.T @ rhs), rtol=1e-10)
        assert int(steps) <= 6


@pytest.mark.sample(1)
@pytest.mark.parametrize("solver", ["LevenbergMarquardt", "Dogleg by products"])
def test_float32(solver):
    with jax.enable_x64(False):
        found = solved(rosenbrock, np.array([-1.2, 1.0], np.float32), SOLVERS[solver])
        assert found.params.dtype == jnp.float32 and found.status.name in ("converged", "stalled")
        assert_allclose(found.params, 1.0, rtol=1e-4)


UNROLLED = {
    "free": {},
    "robust": {"rho": bl.losses.HuberRho(lambda h: h)},
    "box": {"constraint": bl.Box(0.0, lambda h: 1 + h)},  # "size" ends at its upper bound
}


def fitted(rho=None, **parts):
    """A task whose derivative has every part: an outlier, residuals that do not vanish, a tree of params."""
    target = jnp.asarray(2 * np.exp(-0.5 * TIMES) + 0.1 * np.cos(9 * TIMES)).at[3].set(5.0)
    loss = bl.LeastSquares(decay) if rho is None else bl.LeastSquares(decay, rho=rho)
    start = lambda key, h: {"size": jnp.ones(()), "rate": jnp.ones(())}
    inner = bl.InnerProblem(loss, start, solver=bl.LevenbergMarquardt(), **parts)
    return bl.Task(
        inner, lambda w, h, b: w["size"] ** 2 + 3 * w["rate"], lambda key: jnp.array(0.3), bl.full_batch(target, target)
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("case", UNROLLED)
def test_the_derivative_through_the_steps_is_the_implicit_one(case):
    task, h = fitted(**UNROLLED[case]), jnp.array(0.3)
    _, implicit, _ = bl.hypergradient(task, h)
    _, unrolled, report = bl.hypergradient(task, h, bl.Unrolled())
    assert report.status.name == "converged"
    assert_allclose(unrolled, implicit, rtol=1e-6)


@pytest.mark.slow
def test_a_budget_of_steps_has_the_derivative_of_those_steps():
    """The damping and the units of the coordinates depend on the hyperparameter too."""
    task, h, step = fitted(), jnp.array(0.3), 1e-5
    engine = bl.Unrolled(steps=4)
    _, gradient, report = bl.hypergradient(task, h, engine)
    assert report.status.name == "truncated"
    value = lambda h: float(bl.hypergradient(task, h, engine)[0])
    assert_allclose(gradient, (value(h + step) - value(h - step)) / (2 * step), rtol=1e-7)
    assert_allclose(bl.hypergradient(task, h, bl.Forward(steps=4))[1], gradient, rtol=1e-10)


def test_steps_without_a_factor_have_no_derivative():
    task = fitted()
    with pytest.raises(ValueError, match=r"through a factor of the Jacobian.*larger dense="):
        bl.hypergradient(task.with_solver(bl.LevenbergMarquardt(dense=1)), jnp.array(0.3), bl.Unrolled())
    with pytest.raises(ValueError, match="does not allow"):
        bl.hypergradient(task.with_solver(bl.Dogleg()), jnp.array(0.3), bl.Unrolled())


@pytest.mark.slow
def test_bad_data_and_no_minimum_are_said():
    bad = solved(lambda w, h, batch: w - batch, np.zeros(2), bl.LevenbergMarquardt(), batch=jnp.array([1.0, jnp.nan]))
    assert bad.status.name == "nonfinite"
    runs = solved(lambda w, h, batch: jnp.exp(-w), np.zeros(1), bl.LevenbergMarquardt(max_steps=2000))
    assert runs.status.name != "converged"


def test_refusals():
    with pytest.raises(ValueError, match=r"state it as bl.LeastSquares"):
        bl.InnerProblem(lambda w, h, batch: jnp.sum(w**2), lambda key, h: jnp.ones(2), solver=bl.Dogleg()).solve(
            1.0, None
        )
    with pytest.raises(ValueError, match="keeps to a box by projection"):
        solved(rosenbrock, np.zeros(2), bl.GaussNewton(), constraint=bl.L2Ball())
