"""Public functions called eagerly: traced once for shapes and settings, and never stale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

TARGET = np.array([1.0, -2.0])


def counted():
    """A ridge problem with the solution b / (1 + h), and how often its loss was traced."""
    traces = []

    def loss(w, h, batch):
        traces.append(1)
        return 0.5 * jnp.sum((w - batch) ** 2) + 0.5 * h * jnp.sum(w**2)

    return bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(2)), traces


AROUND = {
    "value": lambda f: f,
    "grad": jax.grad,
    "jacfwd": jax.jacfwd,
    "hessian": jax.hessian,
    "vmap": lambda f: lambda h: jax.vmap(f)(jnp.stack([h, 2 * h])),
    "vmap of grad": lambda f: lambda h: jax.vmap(jax.grad(f))(jnp.stack([h, 2 * h])),
    "vmap of hessian": lambda f: lambda h: jax.vmap(jax.hessian(f))(jnp.stack([h, 2 * h])),
    "grad of vmap": lambda f: jax.grad(lambda h: jnp.sum(jax.vmap(f)(jnp.stack([h, 2 * h])))),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", AROUND)
def test_a_solve_is_traced_once_and_right(name):
    inner, traces = counted()
    total = lambda h: jnp.sum(inner.solve(h, jnp.asarray(TARGET)).params)
    AROUND[name](total)(jnp.array(0.5))
    before = len(traces)
    for h in (jnp.array(1.0), jnp.array(3.0)):
        right = AROUND[name](lambda h: jnp.sum(jnp.asarray(TARGET)) / (1 + h))(h)
        np.testing.assert_allclose(AROUND[name](total)(h), right, rtol=1e-6)
    assert len(traces) == before


@pytest.mark.slow
def test_a_batch_of_problems_is_traced_once():
    inner, traces = counted()
    solve = lambda h: bl.solve_batch(inner, h, jnp.asarray(TARGET), in_axes=(0, None), lanes=2).params
    solve(jnp.ones(3))
    jax.jacobian(solve)(jnp.ones(3))
    before = len(traces)
    h = jnp.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(solve(h), TARGET / (1 + h[:, None]), rtol=1e-6)
    np.testing.assert_allclose(jax.jacobian(solve)(h)[1, :, 1], -TARGET / 4, rtol=1e-6)
    assert len(traces) == before


@pytest.mark.slow
def test_a_global_bound_anew_is_not_stale(monkeypatch):
    inner = bl.InnerProblem(loss=lambda w, h, _: 0.5 * jnp.sum((w - h * TARGET) ** 2), init=lambda key, h: jnp.zeros(2))
    np.testing.assert_allclose(inner.solve(1.0, None).params, TARGET)
    monkeypatch.setitem(globals(), "TARGET", np.array([5.0, 6.0]))
    np.testing.assert_allclose(inner.solve(1.0, None).params, [5.0, 6.0])


@pytest.mark.slow
def test_a_loss_that_closes_over_traced_values_keeps_its_derivative():
    def solved(h):
        inner = bl.InnerProblem(loss=lambda w, _, b: 0.5 * jnp.sum((w - h * b) ** 2), init=lambda key, _: jnp.zeros(2))
        return jnp.sum(inner.solve(None, jnp.asarray(TARGET)).params)

    assert abs(float(jax.grad(solved)(2.0)) - TARGET.sum()) < 1e-9
    assert abs(float(jax.jit(jax.grad(solved))(2.0)) - TARGET.sum()) < 1e-9


def test_a_problem_that_asks_for_values_is_solved_as_it_is():
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w - h) ** 2),
        init=lambda key, h: np.asarray(h) * np.ones(2),
    )
    for _ in range(2):
        assert inner.solve(3.0, None).params.tolist() == [3.0, 3.0]


@pytest.mark.slow
def test_changed_weights_of_a_penalty_are_seen():
    for weight in (0.5, 1.0):
        inner = bl.InnerProblem(
            loss=lambda w, h, b: 0.5 * jnp.sum((w - b) ** 2), init=lambda key, h: jnp.zeros(2), penalty=bl.L1(weight)
        )
        np.testing.assert_allclose(inner.solve(None, jnp.array([3.0, -2.0])).params, [3 - weight, weight - 2])


class TestLevelOne:
    def test_a_decorated_solver_is_traced_once(self):
        traces = []

        def condition(w, theta):
            traces.append("condition")
            return w**2 - theta

        @bl.custom_root(condition)
        def root(init, theta):
            traces.append("solver")
            return jnp.sqrt(theta)

        root(1.0, 4.0)
        jax.grad(root, argnums=1)(1.0, 4.0)
        jax.vmap(root, (None, 0))(1.0, jnp.ones(2))
        before = list(traces)
        assert (float(root(1.0, 9.0)), float(jax.grad(root, argnums=1)(1.0, 9.0))) == (3.0, pytest.approx(1 / 6))
        assert jax.vmap(root, (None, 0))(1.0, jnp.array([4.0, 16.0])).tolist() == [2.0, 4.0]
        assert traces == before

    def test_a_number_of_steps_stays_a_python_integer(self):
        @bl.custom_root(lambda w, theta, steps: w**2 - theta)
        def root(init, theta, steps=8):
            for _ in range(steps):
                init = 0.5 * (init + theta / init)
            return init

        assert abs(float(jax.grad(lambda theta: root(1.0, theta, steps=9))(4.0)) - 0.25) < 1e-9

    def test_root_derivatives_are_traced_once(self):
        traces = []

        def condition(w, theta, power):
            traces.append(1)
            return w**power - theta

        pulled = lambda theta: float(bl.root_vjp(condition, jnp.sqrt(theta), (theta, 2), 1.0)[0])
        assert abs(pulled(4.0) - 0.25) < 1e-12
        before = len(traces)
        assert abs(pulled(9.0) - 1 / 6) < 1e-12
        assert len(traces) == before


@pytest.mark.slow
def test_projections_are_what_they_are_under_jit():
    point = jnp.array([0.3, 2.0, -1.0])
    for project in (bl.projections.simplex, bl.projections.isotonic, bl.prox.total_variation):
        for at in (point, point + 1.0):
            np.testing.assert_allclose(project(at), jax.jit(project)(at), atol=1e-12)


@pytest.mark.slow
def test_a_hypergradient_sees_a_global_bound_anew(monkeypatch):
    task = bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, _: 0.5 * jnp.sum((w - h * TARGET) ** 2), init=lambda key, h: jnp.zeros(2)
        ),
        outer_loss=lambda w, h, _: jnp.sum(w),
        init_hparams=lambda key: jnp.ones(()),
        batches=bl.full_batch(None, None),
    )
    assert abs(float(bl.hypergradient(task, jnp.ones(()))[1]) + 1) < 1e-9
    monkeypatch.setitem(globals(), "TARGET", np.array([5.0, 6.0]))
    assert abs(float(bl.hypergradient(task, jnp.ones(()))[1]) - 11) < 1e-9


def test_the_precision_of_products_is_a_setting_of_the_program():
    traces = []
    root = bl.custom_root(lambda w, h: w - h)(lambda init, h: (traces.append(1), 1.0 * h)[1])
    root(0.0, 2.0)
    with jax.default_matmul_precision("highest"):
        root(0.0, 2.0)
    assert len(traces) == 2
