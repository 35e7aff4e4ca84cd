"""The inner problem: what follows from the statement, honest statuses, derivatives without further ado."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.foundation.stated import as_start

X = np.random.default_rng(0).normal(size=(30, 6))
Y = X[:, 0] - 2 * X[:, 1] + 0.3 * np.random.default_rng(1).normal(size=30)
BATCH = (X, Y)


def squares(params, hparams, batch):
    x, y = batch
    return 0.5 * jnp.mean((x @ params - y) ** 2)


def ridge_loss(params, hparams, batch):
    return squares(params, hparams, batch) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)


def zeros(key, hparams):
    return jnp.zeros(6)


def ridge(hparams):
    return np.linalg.solve(X.T @ X / 30 + np.diag(np.exp(hparams)), X.T @ Y / 30)


def test_the_solution_and_its_derivative_of_a_smooth_problem():
    inner = bl.InnerProblem(loss=ridge_loss, init=zeros)
    hparams = jnp.linspace(-2.0, 0.0, 6)
    solve = jax.jit(lambda h: inner.solve(h, BATCH))
    solution = solve(hparams)
    np.testing.assert_allclose(solution.params, ridge(hparams), rtol=1e-9)
    assert solution.status.name == "converged"
    assert float(solution.residual) <= 1e-10
    jacobian = jax.jit(jax.jacobian(lambda h: inner.solve(h, BATCH).params))(hparams)
    curvature = X.T @ X / 30 + np.diag(np.exp(hparams))
    np.testing.assert_allclose(
        jacobian, -np.linalg.solve(curvature, np.diag(np.exp(hparams) * ridge(hparams))), rtol=1e-8
    )


@pytest.mark.slow
def test_the_derivative_in_the_data():
    inner = bl.InnerProblem(loss=ridge_loss, init=zeros)
    hparams = jnp.zeros(6)
    jacobian = jax.jit(jax.jacrev(lambda y: inner.solve(hparams, (BATCH[0], y)).params))(BATCH[1])
    np.testing.assert_allclose(jacobian, np.linalg.solve(X.T @ X / 30 + np.eye(6), X.T / 30), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ({}, "Stationary"),
        ({"penalty": bl.L1(weight=0.1)}, "ProximalGradient"),
        ({"constraint": bl.Box(0.0, 1.0)}, "ProjectedGradient"),
        ({"penalty": bl.L1(weight=0.1), "constraint": bl.Box(0.0, 1.0)}, "ProximalGradient"),
    ],
)
def test_the_condition_follows_from_the_statement(statement, name):
    assert type(bl.InnerProblem(loss=squares, init=zeros, **statement).mapping).__name__ == name


@pytest.mark.slow
def test_a_penalty_inside_a_box_is_solved_exactly():
    inner = bl.InnerProblem(loss=squares, init=zeros, penalty=bl.L1(weight=0.05), constraint=bl.Box(0.0, 0.5))
    params = np.asarray(jax.jit(lambda: inner.solve(None, BATCH).params)())
    slope = X.T @ (X @ params - Y) / 30 + 0.05
    inside, at_zero, at_top = (params > 1e-9) & (params < 0.5 - 1e-9), params <= 1e-9, params >= 0.5 - 1e-9
    np.testing.assert_allclose(slope[inside], 0.0, atol=1e-8)
    assert (slope[at_zero] >= -1e-8).all()
    assert (slope[at_top] <= 1e-8).all()
    assert at_top.any()
    assert at_zero.any()


def test_sets_and_penalties_that_do_not_combine_are_refused():
    with pytest.raises(ValueError, match="GroupLasso and the projection on Simplex"):
        bl.InnerProblem(loss=squares, init=zeros, penalty=bl.GroupLasso(weight=1.0), constraint=bl.Simplex())


def test_a_problem_stated_by_a_residual():
    inner = bl.InnerProblem.from_residual(lambda w, h, batch: w**3 + w - h * batch, init=lambda key, h: jnp.zeros(()))
    root = jax.jit(lambda h: inner.solve(h, 2.0).params)
    w = float(root(5.0))
    assert abs(w**3 + w - 10.0) < 1e-9
    np.testing.assert_allclose(jax.jit(jax.grad(root))(5.0), 2.0 / (3 * w**2 + 1), rtol=1e-9)


def test_a_problem_stated_by_a_fixed_point():
    weights = 0.4 * np.random.default_rng(2).normal(size=(4, 4)) / 2
    inner = bl.InnerProblem.from_fixed_point(
        lambda w, h, batch: jnp.tanh(weights @ w + h), init=lambda key, h: jnp.zeros(4)
    )
    h = jnp.arange(4.0) / 4
    w = jax.jit(lambda h: inner.solve(h, None).params)(h)
    np.testing.assert_allclose(w, np.tanh(weights @ w + h), atol=1e-9)
    slope = np.diag(1 - np.asarray(w) ** 2)
    jacobian = jax.jit(jax.jacrev(lambda h: inner.solve(h, None).params))(h)
    np.testing.assert_allclose(jacobian, np.linalg.solve(np.eye(4) - slope @ weights, slope), rtol=1e-7)


class TestStatus:
    def lanes(self, solver):
        inner = bl.InnerProblem(loss=ridge_loss, init=zeros, solver=solver)
        starts = jnp.stack([jnp.zeros(6), jnp.asarray(ridge(np.zeros(6)))])
        return jax.jit(jax.vmap(lambda init: inner.solve(jnp.zeros(6), BATCH, init=init)))(starts)

    def test_is_honest_lane_by_lane(self):
        solution = self.lanes(bl.GradientDescent(max_steps=2, tol=1e-8))
        assert solution.status.code.tolist() == [bl.Code.max_steps, bl.Code.converged]
        assert solution.steps.tolist() == [2, 0]

    def test_the_tolerance_is_relative_to_the_cold_start(self):
        inner = bl.InnerProblem(loss=ridge_loss, init=zeros, solver=bl.LBFGS(tol=1e-3))
        warm = jnp.asarray(ridge(np.zeros(6))) * (1 + 1e-6)
        assert int(jax.jit(lambda: inner.solve(jnp.zeros(6), BATCH, init=warm).steps)()) == 0

    def test_a_loss_without_a_finite_value(self):
        inner = bl.InnerProblem(
            loss=lambda w, h, b: jnp.sum(jnp.log(w)), init=lambda key, h: -jnp.ones(2), solver=bl.LBFGS()
        )
        assert jax.jit(lambda: inner.solve(None, None))().status.name == "nonfinite"

    def test_a_step_that_is_too_long_diverges(self):
        inner = bl.InnerProblem(loss=ridge_loss, init=zeros, solver=bl.GradientDescent(step_size=100.0, max_steps=50))
        assert jax.jit(lambda: inner.solve(jnp.zeros(6), BATCH))().status.name == "diverged"

    def test_single_precision_stalls_at_its_floor_and_says_so(self):
        with jax.enable_x64(False):
            scales = jnp.asarray(np.logspace(0, 3, 6), jnp.float32)
            inner = bl.InnerProblem(
                loss=lambda w, h, b: 0.5 * jnp.sum((b[0] @ (scales * w) - b[1]) ** 2),
                init=zeros,
                solver=bl.LBFGS(tol=1e-12),
            )
            batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (X, Y))
            status = jax.jit(lambda: inner.solve(None, batch))().status
            assert status.name in ("stalled", "converged")
            assert bool(status.ok)


def test_explain_names_the_solver_and_the_reason():
    assert "LBFGS" in bl.InnerProblem(loss=squares, init=lambda key, h: jnp.zeros(5000)).explain(None, BATCH)
    assert "Newton" in bl.InnerProblem(loss=ridge_loss, init=zeros).explain(jnp.zeros(6), BATCH)


def test_a_solver_refuses_what_it_would_ignore():
    inner = bl.InnerProblem(loss=squares, init=zeros, penalty=bl.L1(weight=0.1), solver=bl.LBFGS())
    with pytest.raises(ValueError, match=r"LBFGS minimises smooth losses only .* L1"):
        inner.solve(None, BATCH)


def test_a_problem_without_a_loss_refuses_a_descent_method():
    inner = bl.InnerProblem.from_residual(lambda w, h, b: w - h, init=lambda key, h: jnp.zeros(()), solver=bl.LBFGS())
    with pytest.raises(ValueError, match="has no loss"):
        inner.solve(1.0, None)


@pytest.mark.slow
def test_a_linear_loss_equals_the_opaque_one():
    linear = bl.Linear(design=lambda batch: batch[0], loss=lambda z, w, h, batch: 0.5 * jnp.mean((z - batch[1]) ** 2))
    h = -2.0
    solve = jax.jit(
        lambda h: bl.InnerProblem(loss=linear, init=zeros, penalty=bl.L1(weight=jnp.exp)).solve(h, BATCH).params
    )
    opaque = jax.jit(
        lambda h: bl.InnerProblem(loss=squares, init=zeros, penalty=bl.L1(weight=jnp.exp)).solve(h, BATCH).params
    )
    np.testing.assert_allclose(solve(h), opaque(h), atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(solve))(h), jax.jit(jax.jacfwd(opaque))(h), atol=1e-8)


def fitted(init):
    """Params of the leaves a, of shape (3,), and b, a number, from a warm start."""
    loss = lambda w, h, batch: jnp.sum((w["a"] - batch) ** 2) + (w["b"] - h) ** 2
    start = {"a": jnp.zeros(3), "b": jnp.zeros(())}
    return bl.InnerProblem(loss, lambda key, h: start, solver=bl.LBFGS()).solve(1.0, jnp.arange(3.0), init=init)


@pytest.mark.parametrize("kind", [jnp.float32, jnp.int32, np.float16])
def test_a_warm_start_takes_the_types_of_the_cold_one(kind):
    found = fitted({"a": np.ones(3, kind), "b": np.ones((), kind)})
    assert found.status.name == "converged" and found.params["a"].dtype == jnp.float64
    assert_allclose(found.params["a"], [0.0, 1.0, 2.0], atol=1e-6)


@jax.tree_util.register_dataclass
@dataclass(eq=False)
class Pair:
    """Params without a comparison of their own."""

    a: object
    b: object


def test_a_warm_start_of_a_class_without_a_comparison():
    loss = lambda w, h, batch: jnp.sum((w.a - batch) ** 2) + (w.b - h) ** 2
    start = Pair(jnp.zeros(3), jnp.zeros(()))
    inner = bl.InnerProblem(loss, lambda key, h: start, solver=bl.LBFGS())
    found = inner.run(1.0, jnp.arange(3.0), start, start)
    assert_allclose(as_start(found.params, start).a, found.params.a)


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ({"a": jnp.zeros(4), "b": jnp.zeros(())}, r"\{'a': \(4,\), 'b': \(\)\}.*\{'a': \(3,\), 'b': \(\)\}"),
        ({"a": jnp.zeros(3)}, "same structure"),
        (jnp.zeros(3), "same structure"),
        ({"a": [0.0, 0.0, 0.0], "b": 0.0}, "same structure"),
    ],
    ids=["shape", "a leaf missing", "an array", "a list"],
)
def test_a_warm_start_of_other_shapes_is_refused(init, said):
    with pytest.raises(TypeError, match=said):
        fitted(init)
