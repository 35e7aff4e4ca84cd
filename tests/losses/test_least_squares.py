"""Sums of squares stated by their residuals: the same problem as the plain loss, and what the adjoint may leave out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((12, 3)), RNG.standard_normal(12)
START = {"size": np.array([0.5, -0.2]), "shift": np.array(0.1)}


def residual(params, hparams, batch):
    """Two leaves; nonlinear, with residuals that do not vanish."""
    w = jnp.append(params["size"], params["shift"])
    return {"fit": jnp.tanh(X @ w) - batch, "prior": [jnp.exp(0.5 * hparams) * w]}


def plain(params, hparams, batch):
    found = residual(params, hparams, batch)
    return 0.5 * (jnp.sum(found["fit"] ** 2) + jnp.sum(found["prior"][0] ** 2))


def problem(loss, **parts):
    return bl.InnerProblem(loss=loss, init=lambda key, h: jax.tree.map(jnp.asarray, START), **parts)


def flat(params):
    return jnp.append(params["size"], params["shift"])


DERIVATIVES = {
    "forward and reverse": lambda solve: lambda h, batch: (jax.jacfwd(solve)(h, batch), jax.jacrev(solve, 1)(h, batch)),
    "second": lambda solve: lambda h, batch: jax.jacfwd(jax.jacrev(twice(solve), has_aux=True), has_aux=True)(h, batch),
}


def twice(solve):
    """The solution also as it is, so that a derivative and the value compile one solve."""
    return lambda h, batch: (found := solve(h, batch), found)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["forward and reverse", pytest.param("second", marks=pytest.mark.slow)])
def test_equal_to_the_plain_loss_in_value_and_all_derivatives(order):
    stated, other = problem(bl.LeastSquares(residual)), problem(plain, solver=bl.Newton())
    assert "LevenbergMarquardt" in stated.explain(0.3, Y)

    def taken(inner):
        solve = lambda h, batch: flat(inner.solve(h, batch).params)
        return jax.jit(DERIVATIVES[order](solve))(0.3, Y)

    for one, two in zip(taken(stated), taken(other), strict=True):
        assert_allclose(one, two, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
def test_the_implicit_derivative_is_that_of_finite_differences():
    loss, step = bl.LeastSquares(residual, rho=bl.losses.CauchyRho(scale=jnp.exp)), 1e-4
    inner = problem(loss, solver=bl.LevenbergMarquardt(tol=1e-14))
    solve = jax.jit(lambda h: flat(inner.solve(h, Y).params))
    central = (solve(0.3 + step) - solve(0.3 - step)) / (2 * step)
    assert_allclose(jax.jacobian(solve)(0.3), central, rtol=1e-7)


@pytest.mark.sample(1)
@pytest.mark.parametrize("rho", [bl.losses.HuberRho(scale=0.7), bl.losses.CauchyRho(scale=0.7)])
def test_robust_losses_are_those_of_scipy(rho):
    optimize = pytest.importorskip("scipy.optimize")
    found = problem(bl.LeastSquares(residual, rho=rho)).solve(0.3, Y)
    assert found.status.name == "converged" and found.order == "second order"

    def stacked(w):
        parts = residual({"size": w[:2], "shift": w[2]}, 0.3, Y)
        return np.concatenate([parts["fit"], parts["prior"][0]])

    kind = type(rho).__name__.lower().removesuffix("rho")
    witness = optimize.least_squares(
        stacked, [0.5, -0.2, 0.1], loss=kind, f_scale=0.7, xtol=1e-14, ftol=1e-14, gtol=1e-12
    )
    assert_allclose(flat(found.params), witness.x, atol=1e-6)  # SciPy's Jacobian is by differences
    assert_allclose(bl.LeastSquares(residual, rho=rho)(found.params, 0.3, Y), witness.cost, rtol=1e-12)


SMALL = np.tanh(X @ [0.4, -0.3, 0.2]) + 0.02 * Y  # targets with small residuals where the prior is weak
WEAK = -6.0


def outer(adjoint, target=SMALL, hparams=WEAK, **engine):
    """The hypergradient of a distance, with its report."""
    task = bl.Task(
        inner=problem(bl.LeastSquares(residual, adjoint=adjoint)),
        outer_loss=lambda w, h, batch: jnp.sum(flat(w) ** 2),
        init_hparams=jnp.asarray,
        batches=bl.full_batch(target, target),
    )
    return bl.hypergradient(task, jnp.array(hparams), bl.Implicit(**engine))


@pytest.mark.slow
def test_the_error_of_the_gauss_newton_adjoint_is_estimated():
    for target, hparams, grade in ((SMALL, WEAK, "estimate"), (Y, 0.3, "residual")):
        _, exact, _ = outer("exact", target, hparams)
        _, grad, report = outer("gauss_newton", target, hparams)
        error = float(jnp.abs(grad - exact))
        assert report.adjoint_status.name == "truncated" and report.inner_status.name == "converged"
        assert error > 1e-6 * abs(float(exact)), "what was left out has an effect here"
        assert report.error_grade == grade
        assert 0.5 * error <= float(report.error_estimate) <= 5 * error or grade == "residual"
        assert float(report.error_estimate) >= 0.5 * error


def test_a_free_claim_knows_nothing_of_the_gauss_newton_adjoint():
    _, _, report = outer("gauss_newton", accuracy="residual")
    assert float(report.error_estimate) == np.inf


@pytest.mark.slow
def test_refining_removes_most_of_the_error():
    _, exact, _ = outer("exact")
    _, grad, _ = outer("gauss_newton")
    _, refined, _ = outer("gauss_newton", refine=True)
    assert abs(float(refined - exact)) < 0.1 * abs(float(grad - exact))


@pytest.mark.slow
def test_gauss_newton_in_a_box_and_saddles_by_the_exact_hessian():
    """w0 w1 = 1 has a saddle at zero, where J'J = 0 sees no curvature."""
    loss = bl.LeastSquares(lambda w, h, batch: jnp.atleast_1d(w[0] * w[1] - h), adjoint="gauss_newton")
    for solver in (bl.Auto(), bl.Newton()):
        found = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(2), solver=solver).solve(1.0, None)
        assert found.status.name == "converged"
        assert_allclose(found.params[0] * found.params[1], 1.0, rtol=1e-6)
    shrunk = bl.LeastSquares(lambda w, h, batch: jnp.append(w, h * w) - batch, adjoint="gauss_newton")
    boxed = bl.InnerProblem(
        loss=shrunk, init=lambda key, h: jnp.zeros(2), constraint=bl.Box(upper=jnp.array([1.0, 9.0]))
    )
    solve = lambda h: boxed.solve(h, jnp.array([5.0, 4.0, 0.0, 0.0])).params
    assert_allclose(solve(1.0), [1.0, 2.0])
    assert_allclose(jax.jacobian(solve)(1.0), [0.0, -2.0], atol=1e-9)


def test_refusals():
    with pytest.raises(ValueError, match="no entries"):
        problem(bl.LeastSquares(lambda w, h, batch: jnp.zeros(0))).solve(0.3, Y)
    with pytest.raises(ValueError, match="real and imaginary parts"):
        problem(bl.LeastSquares(lambda w, h, batch: jnp.ones(2) * 1j)).solve(0.3, Y)
    with pytest.raises(ValueError, match="exact, gauss_newton"):
        bl.LeastSquares(residual, adjoint="newton")
    with pytest.raises(ValueError, match='use adjoint="exact"'):
        problem(bl.LeastSquares(residual, adjoint="gauss_newton"), constraint=bl.Functional(equality=lambda w, *_: w))
