"""Engines that differentiate steps: memory, learned starts and step sizes, refusals."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.engines import Carry, Point
from bilevel.engines.unrolling.forward_over_reverse import forward_over_reverse

KEYS = jax.random.split(jax.random.key(4), 4)


def network(params, hparams, batch):
    """A network of two layers on its own samples, each with a weight that is a hyperparameter."""
    first, second = params
    outputs = jnp.tanh(jnp.tanh(batch[0] @ first) @ second)
    return jnp.mean(jax.nn.sigmoid(hparams) * jnp.sum((outputs - batch[1]) ** 2, axis=1))


def network_task(steps):
    batch = jax.random.normal(KEYS[0], (200, 10)), jax.random.normal(KEYS[1], (200, 3))
    solver = bl.GradientDescent(max_steps=steps, tol=0.0, step_size=0.05)
    init = lambda key, h: (
        0.3 * jax.random.normal(KEYS[2], (10, 40)),
        0.3 * jax.random.normal(KEYS[3], (40, 3)),
    )
    inner = bl.InnerProblem(loss=network, init=init, solver=solver)
    outer = lambda params, hparams, batch: network(params, jnp.zeros(200), batch)
    return bl.Task(
        inner=inner,
        outer_loss=outer,
        init_hparams=lambda key: jnp.zeros(200),
        batches=bl.full_batch(batch, batch),
        warm_start=False,
    )


@pytest.mark.slow
def test_memory_is_an_eighth_of_that_of_a_naive_scan_at_equal_gradients():
    steps = 64
    task = network_task(steps)
    point = Point(jnp.zeros(200), *task.batches(jax.random.key(0), 0), key=jax.random.key(0))
    carry = Carry(task.inner.init(point.key, point.hparams), jnp.zeros(()))

    def unrolled(hparams):
        return bl.Unrolled().hypergradient(task, point._replace(hparams=hparams), carry)[1]

    def naive(hparams):
        def value(hparams):
            def step(params, _):
                slopes = jax.grad(network)(params, hparams, point.inner_batch)
                return jax.tree.map(lambda w, slope: w - 0.05 * slope, params, slopes), None

            params, _ = jax.lax.scan(step, carry.params, length=steps)
            return task.outer_loss(params, hparams, point.outer_batch)

        return jax.grad(value)(hparams)

    compiled = [jax.jit(function).lower(point.hparams).compile() for function in (unrolled, naive)]
    np.testing.assert_allclose(compiled[0](point.hparams), compiled[1](point.hparams), rtol=1e-9)
    used, naive_use = (program.memory_analysis() for program in compiled)
    assert used is not None and naive_use is not None
    assert 8 * used.temp_size_in_bytes <= naive_use.temp_size_in_bytes


@pytest.mark.slow
def test_forward_over_reverse_has_the_same_derivatives():
    batch = jax.random.normal(KEYS[0], (20, 10)), jax.random.normal(KEYS[1], (20, 3))
    params = (jax.random.normal(KEYS[2], (10, 4)), jax.random.normal(KEYS[3], (4, 3)))
    hparams = jnp.linspace(-1.0, 1.0, 20)
    mixed = forward_over_reverse(network)

    def twice(loss):
        def slope(params, hparams):
            value, slopes = jax.value_and_grad(loss)(params, hparams, batch)
            return value**2 + sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(slopes))

        return jax.grad(slope, argnums=(0, 1))(params, hparams)

    for one, other in zip(jax.tree.leaves(twice(mixed)), jax.tree.leaves(twice(network)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def meta_task(solver, start):
    inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum(jnp.cosh(w - batch)), init=start, solver=solver)
    return bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: jnp.sum((w - batch) ** 2),
        init_hparams=lambda key: jnp.zeros(2),
        batches=bl.full_batch(jnp.array([1.0, -1.0]), jnp.array([0.5, 0.5])),
        warm_start=False,
    )


def difference(task, hparams, engine, width=1e-6):
    value = lambda h: float(bl.hypergradient(task, h, engine)[0])
    units = jnp.eye(hparams.size)
    return np.array([(value(hparams + width * e) - value(hparams - width * e)) / (2 * width) for e in units])


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [bl.Unrolled, bl.Forward])
def test_a_learned_start(kind):
    solver = bl.GradientDescent(max_steps=3, step_size=0.2)
    task, hparams = meta_task(solver, lambda key, h: h), jnp.array([0.3, -0.2])
    engine = kind(on_failure="warn")
    with pytest.warns(UserWarning, match="max_steps"):
        np.testing.assert_allclose(
            bl.hypergradient(task, hparams, engine)[1], difference(task, hparams, engine), rtol=1e-6
        )


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [bl.Unrolled, bl.Forward])
def test_a_learned_step_size(kind):
    solver = bl.GradientDescent(max_steps=3, step_size=lambda h: 0.1 * jnp.exp(h[0]))
    task, hparams = meta_task(solver, lambda key, h: jnp.zeros(2)), jnp.array([0.3, -0.2])
    engine = kind(on_failure="warn")
    with pytest.warns(UserWarning, match="max_steps"):
        np.testing.assert_allclose(
            bl.hypergradient(task, hparams, engine)[1], difference(task, hparams, engine), rtol=1e-6, atol=1e-9
        )


def test_truncation_needs_a_step():
    with pytest.raises(ValueError, match="at least one step"):
        bl.Truncated(steps=0)


def quartic_task():
    """One unknown, whose solution is h: w + w**3 = h + h**3."""

    def loss(w, h, batch):
        return 0.5 * (w - h) ** 2 * (1 + 0.5 * (w + h) ** 2)

    return bl.Task(
        inner=bl.InnerProblem(
            loss=loss,
            init=lambda key, h: jnp.zeros(()),
            solver=bl.GradientDescent(max_steps=200, tol=1e-13, step_size=0.2),
        ),
        outer_loss=lambda w, h, batch: w**3,
        init_hparams=lambda key: jnp.ones(()),
        batches=bl.full_batch(None, None),
    )


@pytest.mark.slow
def test_the_unrolled_gradient_has_derivatives_in_forward_mode_only():
    task, h = quartic_task(), jnp.array(0.8)
    gradient = lambda h: bl.hypergradient(task, h, bl.Unrolled())[1]
    slope, curvature = jax.jit(lambda h: jax.jvp(gradient, (h,), (1.0,)))(h)
    np.testing.assert_allclose([slope, curvature], [3 * h**2, 6 * h], rtol=1e-9)
    with pytest.raises(TypeError, match=r"bl\.Unrolled.*jax\.jacfwd"):
        jax.eval_shape(jax.grad(gradient), h)


def test_the_error_is_judged_at_the_solution_where_the_start_is_steep():
    """The gradient of exp(w) at 20 is 1e8 times that at the solution. A residual beside it is no error beside the
    solution."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: jnp.exp(w) - h * w, init=lambda key, h: jnp.array(20.0), solver=bl.LBFGS(tol=1e-7)
    )
    task = bl.Task(inner, lambda w, h, batch: w**2, lambda key: jnp.array(3.0), bl.full_batch(0.0, 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the status says that the steps ended too early, too
        _, grad, report = bl.hypergradient(task, jnp.array(3.0), bl.Unrolled(on_failure="warn"))
    w = float(report.params)
    assert report.inner_status.name == "max_steps" or abs(w - np.log(3.0)) < 1e-4
    assert float(report.error_inner) >= 0.2 * abs(w - np.log(3.0)) / abs(w) * abs(float(grad))


@pytest.mark.slow
def test_the_start_of_an_interior_point_method_stays_visible():
    """The reverse pass ends at the start, so a start that is cut off would look like a derivative that has
    converged."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: jnp.sum(jnp.exp(w - h)) + 0.5 * jnp.sum((w - h) ** 2),
        init=lambda key, h: -jnp.ones(2),
        constraint=bl.Functional(inequality=lambda w, h, batch: jnp.sum(w, keepdims=True) - h[0]),
        solver=bl.InteriorPoint(tol=1e-1),
    )
    hparams = jnp.array([0.3, 0.5])
    task = bl.Task(inner, lambda w, h, b: jnp.sum((w - 1) ** 2), lambda key: hparams, bl.full_batch(None, None))
    _, loose, report = bl.hypergradient(task, hparams, bl.Unrolled())
    tight = dataclasses.replace(task, inner=inner.with_solver(bl.InteriorPoint(tol=1e-12)))
    _, exact, _ = bl.hypergradient(tight, hparams, bl.Implicit())
    error = float(jnp.linalg.norm(loose - exact))
    assert error > 1e-3 * float(jnp.linalg.norm(exact))
    assert 1e-4 < float(report.adjoint_residual) < 1
    assert error < 10 * float(report.error_estimate)


@pytest.mark.parametrize("engine", [bl.Unrolled(), bl.Forward()])
def test_a_loose_solution_near_a_kink_says_that_its_face_is_not_known(engine):
    """w0 is 0 at the solution, and its derivative is 0; the steps stop before they reach it."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w - jnp.stack([h, 5.2])) ** 2),
        init=lambda key, h: jnp.array([1.0, 5.0]),
        penalty=bl.L1(0.2),
        solver=bl.ProximalGradient(step_size=0.1, tol=0.1),
    )
    task = bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: w[0],
        init_hparams=lambda key: jnp.array(0.19),
        batches=bl.full_batch(0.0, 0.0),
    )
    _, grad, report = bl.hypergradient(task, jnp.array(0.19), engine)
    assert int(report.weakly_active) == 1
    np.testing.assert_allclose(report.margin, 0.01, rtol=1e-6)
    assert float(report.error_estimate) >= abs(float(grad)) > 0.5
