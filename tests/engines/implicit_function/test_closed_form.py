"""The closed form of ridge-like problems, by Woodbury's identity and without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

KEYS = jax.random.split(jax.random.key(6), 5)


def ridge(samples, features, classes=0, structured=True):
    shape = (features, classes) if classes else (features,)
    x, xv = jax.random.normal(KEYS[0], (samples, features)), jax.random.normal(KEYS[1], (samples, features))
    targets = jax.random.normal(KEYS[2], (samples, *shape[1:])), jax.random.normal(KEYS[3], (samples, *shape[1:]))
    weights = jax.random.uniform(KEYS[4], (samples, *(1 for _ in shape[1:])), minval=0.5, maxval=2.0)

    def of_predictions(z, w, h, batch):
        penalty = 0.5 * jnp.sum(jnp.exp(h).reshape(-1, *(1 for _ in shape[1:])) * w**2)
        return 0.5 * jnp.sum(weights * (z - batch[1]) ** 2) / samples + penalty

    linear = bl.Linear(design=lambda batch: batch[0], loss=of_predictions)
    loss = linear if structured else lambda w, h, batch: linear(w, h, batch)
    inner = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.full(shape, 0.1), solver=bl.Newton(tol=1e-13))
    return bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2),
        init_hparams=lambda key: jnp.zeros(features),
        batches=bl.full_batch((x, targets[0]), (xv, targets[1])),
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize(("samples", "features", "classes"), [(8, 20, 0), (8, 20, 3), (30, 6, 0), (30, 6, 3)])
def test_it_is_the_derivative(samples, features, classes, structured):
    task, hparams = ridge(samples, features, classes, structured), jnp.linspace(-3.0, 0.0, features)
    value, grad, report = bl.hypergradient(task, hparams, bl.ClosedForm())
    exact_value, exact, _ = bl.hypergradient(task, hparams, bl.Implicit(linear_solve=bl.Dense()))
    np.testing.assert_allclose(value, exact_value, rtol=1e-10)
    np.testing.assert_allclose(grad, exact, rtol=0, atol=1e-9 * np.max(np.abs(exact)))
    assert report.status.name == "converged"
    assert int(report.counts.factorizations) == 1


@pytest.mark.slow
def test_a_loss_that_is_not_quadratic_fails_and_says_why():
    task = ridge(8, 20)
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: jnp.sum(jnp.exp(h)) * jnp.sum(jnp.cosh(w - 3.0)), init=task.inner.init
    )
    task = bl.Task(inner=inner, outer_loss=task.outer_loss, init_hparams=task.init_hparams, batches=task.batches)
    with pytest.raises(bl.ConvergenceError, match="quadratic in its params"):
        bl.hypergradient(task, jnp.zeros(20), bl.ClosedForm())


def test_a_penalty_known_by_its_prox_is_refused():
    task = ridge(8, 20)
    inner = bl.InnerProblem(loss=task.inner.loss, init=task.inner.init, penalty=bl.L1(weight=0.1))
    task = bl.Task(inner=inner, outer_loss=task.outer_loss, init_hparams=task.init_hparams, batches=task.batches)
    with pytest.raises(ValueError, match=r"bl\.Implicit"):
        bl.hypergradient(task, jnp.zeros(20), bl.ClosedForm())


def test_a_start_at_the_solution_is_converged_and_its_error_is_judged_beside_the_solution():
    """Its gradient is rounding, so nothing is small relative to it."""
    task, hparams = ridge(30, 6), jnp.linspace(-3.0, 0.0, 6)
    cold = task.inner.solve(hparams, task.batches(jax.random.key(0), 0)[0]).params
    inner = bl.InnerProblem(loss=task.inner.loss, init=lambda key, h: cold)
    again = bl.Task(inner, task.outer_loss, task.init_hparams, task.batches)
    _, grad, report = bl.hypergradient(again, hparams, bl.ClosedForm())
    _, exact, _ = bl.hypergradient(task, hparams, bl.Implicit(linear_solve=bl.Dense()))
    assert report.status.name == "converged"
    assert np.linalg.norm(grad - exact) <= 10 * float(report.error_estimate) + 1e-12


@pytest.mark.parametrize("columns", [(), (3,)])
def test_a_quadratic_loss_is_solved_by_one_factor_of_its_matrix(columns):
    root, targets = jax.random.normal(KEYS[0], (6, 6)), jax.random.normal(KEYS[1], (6, *columns))
    loss = bl.Quadratic(
        matrix=lambda h, batch: root @ root.T + jnp.diag(jnp.exp(h)), linear=lambda h, batch: batch * jnp.cos(h[0])
    )
    task = bl.Task(
        inner=bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros((6, *columns))),
        outer_loss=lambda w, h, batch: jnp.sum(jnp.sin(w)) + h[1] ** 2,
        init_hparams=lambda key: jnp.zeros(6),
        batches=bl.full_batch(targets, ()),
    )
    hparams = jnp.linspace(-1.0, 1.0, 6)
    value, grad, report = bl.hypergradient(task, hparams, bl.ClosedForm())
    exact = lambda h: jnp.linalg.solve(loss.matrix(h, targets), loss.linear(h, targets))
    expected, slope = jax.value_and_grad(lambda h: task.outer_loss(exact(h), h, ()))(hparams)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(grad, slope, rtol=1e-10)
    assert report.status.name == "converged"
    assert int(report.counts.hessian_products) == 3  # the check and the refinement of the adjoint, and no matrix


def test_a_stack_of_quadratics_is_solved_lane_by_lane():
    """As many matrices as lanes; the value and the slope are the sums of those of each lane."""
    roots, targets = jax.random.normal(KEYS[0], (4, 6, 6)), jax.random.normal(KEYS[1], (4, 6, 2))

    def task_of(roots, shape):
        loss = bl.Quadratic(
            matrix=lambda h, batch: roots @ roots.mT + jnp.diag(jnp.exp(h)),
            linear=lambda h, batch: batch * jnp.cos(h[0]),
        )
        inner = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(shape))
        outer = lambda w, h, batch: jnp.sum(jnp.sin(w))
        return bl.Task(inner, outer, lambda key: jnp.zeros(6), bl.full_batch(targets, ()))

    hparams = jnp.linspace(-1.0, 1.0, 6)
    value, grad, report = bl.hypergradient(task_of(roots, (4, 6, 2)), hparams, bl.ClosedForm())
    assert report.status.name == "converged" and int(report.counts.hessian_products) == 3
    single = [
        bl.hypergradient(task_of(root, (6, 2)), hparams, bl.ClosedForm(), batch=(target, ()))
        for root, target in zip(roots, targets, strict=True)
    ]
    np.testing.assert_allclose(value, sum(one[0] for one in single), rtol=1e-12)
    np.testing.assert_allclose(grad, sum(one[1] for one in single), rtol=1e-10)


def test_a_matrix_that_is_not_definite_fails():
    task = bl.Task(
        inner=bl.InnerProblem(
            loss=bl.Quadratic(matrix=lambda h, batch: jnp.diag(h), linear=lambda h, batch: batch),
            init=lambda key, h: jnp.zeros(2),
        ),
        outer_loss=lambda w, h, batch: jnp.sum(w),
        init_hparams=lambda key: jnp.ones(2),
        batches=bl.full_batch(jnp.array([1.0, 2.0]), ()),
    )
    with pytest.raises(bl.ConvergenceError):
        bl.hypergradient(task, jnp.array([1.0, -1.0]), bl.ClosedForm())


@pytest.mark.parametrize("samples", [6, 1])
def test_a_quadratic_without_a_minimum_is_refused(samples):
    """By the matrix itself, and by Woodbury's identity, whose kernel is positive although the ridge is negative."""
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(samples, 2))), jnp.ones(samples)
    loss = bl.Linear(
        design=lambda batch: batch[0],
        loss=lambda z, w, h, batch: 0.01 * jnp.sum((z - batch[1]) ** 2) - h * jnp.sum(w**2),
    )
    inner = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(2))
    outer = lambda w, h, batch: jnp.sum(w)
    task = bl.Task(inner, outer, lambda key: jnp.array(1.0), bl.full_batch((x, y), None))
    with pytest.raises(bl.ConvergenceError, match="indefinite"):
        bl.hypergradient(task, jnp.array(1.0), bl.ClosedForm())
