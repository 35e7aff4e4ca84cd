"""Optimisers of optax that ask for the loss, its gradient or the function itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl


def task_of(solver: bl.Solver = bl.Newton()):
    """w = 2 / (1 + exp(a)), judged by (w - 1)^2 / 2: the best a is 0, with loss 0."""
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum((w - 2.0) ** 2) + 0.5 * jnp.exp(h["a"]) * jnp.sum(w**2),
            init=lambda key, h: jnp.zeros(2),
            solver=solver,
        ),
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - 1.0) ** 2),
        init_hparams=lambda key: {"a": jnp.array(1.5)},
        batches=bl.full_batch(0.0, 0.0),
    )


OUTER = [
    pytest.param(optax.polyak_sgd(max_learning_rate=5.0), 30, id="polyak"),
    pytest.param(optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(patience=3)), 60, id="plateau"),
    pytest.param(optax.lbfgs(), 6, id="lbfgs", marks=pytest.mark.slow),
]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("optimizer", "steps"), OUTER)
def test_the_outer_loop_gives_what_is_asked_for(optimizer, steps):
    result = bl.Trainer(optimizer=optimizer, engine=bl.Implicit(accuracy="residual"), steps=steps).fit(
        task_of(), key=jax.random.key(0)
    )
    assert abs(float(result.last_hparams["a"])) < 1e-2
    assert result.summary["status"] == "completed"


INNER = [
    pytest.param(bl.Optax(optax.polyak_sgd(max_learning_rate=1.0, f_min=2.0), tol=1e-6), id="polyak"),
    pytest.param(
        bl.Optax(optax.chain(optax.sgd(0.2), optax.contrib.reduce_on_plateau(patience=50)), tol=1e-6), id="plateau"
    ),
    pytest.param(bl.Optax(optax.lbfgs(), tol=1e-6), id="lbfgs"),
]


@pytest.mark.parametrize("solver", INNER)
def test_an_inner_solver_gives_what_is_asked_for(solver):
    inner = task_of(solver).inner
    solution = inner.solve({"a": jnp.array(0.0)}, None)
    assert solution.status.name == "converged"
    np.testing.assert_allclose(solution.params, 1.0, rtol=1e-4)


def test_reverse_mode_over_a_line_search_is_refused_in_a_sentence():
    with pytest.raises(TypeError, match=r"has a loop in it \(a line search\).*bl.Forward"):
        bl.hypergradient(task_of(bl.Optax(optax.lbfgs())), {"a": jnp.array(0.0)}, bl.Unrolled(steps=3))


@pytest.mark.slow
def test_forward_mode_takes_it():
    task = task_of(bl.Optax(optax.lbfgs(), tol=1e-9))
    _, grad, report = bl.hypergradient(task, {"a": jnp.array(0.5)}, bl.Forward())
    exact = bl.hypergradient(task_of(), {"a": jnp.array(0.5)})[1]
    assert abs(float(grad["a"] - exact["a"])) <= max(float(report.error_estimate), 1e-9)
