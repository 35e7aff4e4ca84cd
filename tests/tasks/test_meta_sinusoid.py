"""Meta-learning on sinusoids: each method is its textbook step, its hypergradient the derivative, and it learns."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.tasks import meta_sinusoid
from bilevel.tasks.perceptrons import perceptron

SMALL: dict[str, Any] = {"sinusoids": 3, "held_out": 6, "width": 6, "precision": "float64"}


@pytest.mark.sample(1)
@pytest.mark.parametrize("method", [{"rates": "fixed"}, {"rates": "each", "steps": 2}, {"adapt": "head"}])
def test_the_hypergradient_is_that_of_the_textbook_step(method):
    """Against jax.grad through explicit gradient steps on the weights: MAML, Meta-SGD of two steps, ANIL."""
    task, steps = meta_sinusoid(**SMALL, rate=0.02, **method), method.get("steps", 1)
    hparams = task.init_hparams(jax.random.key(1))
    support, query = task.batches(jax.random.key(2), 5)
    network = perceptron(6, 6, 1)

    def error(weights, x, y):
        return jnp.mean((network.apply({"params": weights}, x) - y) ** 2)

    def outer(hparams):
        def adapted(x, y, x_query, y_query):
            weights = hparams.weights
            for _ in range(steps):
                slopes = jax.grad(error)(weights, x, y)
                for layer in slopes if method.get("adapt") != "head" else ["layers_4"]:
                    rates = jax.tree.map(jnp.exp, hparams.log_rates.get(layer)) if hparams.log_rates else 0.02
                    step = lambda w, g, r: w - r * g
                    rates = rates if hparams.log_rates else jax.tree.map(lambda w: 0.02, weights[layer])
                    weights = {**weights, layer: jax.tree.map(step, weights[layer], slopes[layer], rates)}
            return error(weights, x_query, y_query)

        return jnp.mean(jax.vmap(adapted)(support.x[:3], support.y[:3], query.x, query.y))

    engine = bl.Unrolled(steps=steps)
    value, grad, _ = bl.hypergradient(task, hparams, engine, batch=(support, query))
    expected, slopes = jax.jit(jax.value_and_grad(outer))(hparams)
    assert_allclose(value, expected, rtol=1e-10)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-8, atol=1e-12), grad, slopes)


@pytest.mark.slow
def test_meta_learning_lowers_the_error_after_one_step():
    task = meta_sinusoid(sinusoids=10, held_out=30)
    trainer = bl.Trainer(optimizer=optax.adam(0.003), engine=bl.Unrolled(steps=1), steps=600)
    summary = trainer.fit(task).summary
    assert summary["mse_after"] < 0.77 < 2.0 < summary["mse_before"]


@pytest.mark.slow
def test_implicit_maml_is_the_derivative_of_its_solution(agrees_with_differences):
    task = meta_sinusoid(**SMALL, proximity=50.0, rates="fixed").with_solver(bl.LBFGS(tol=1e-9, max_steps=5000))
    agrees_with_differences(task, task.init_hparams(jax.random.key(1)), rtol=1e-5, step=1e-4)


@pytest.mark.slow
def test_held_out_sinusoids_do_not_enter_the_outer_loss_and_figures_are_drawn(drawn):
    task = meta_sinusoid(**SMALL)
    hparams = task.init_hparams(jax.random.key(1))
    params = task.inner.init(jax.random.key(0), hparams)
    _, query = task.batches(jax.random.key(0), 0)
    gradient = jax.grad(task.outer_loss)(params, hparams, query)
    assert all(jnp.all(leaf[3:] == 0) and jnp.any(leaf[:3] != 0) for leaf in jax.tree.leaves(gradient))
    result = bl.Result(hparams, jax.tree.map(np.asarray, params), hparams, params, [], {})
    assert drawn(task, result) == {"adaptation"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shots": 0}, "shots=0"),
        ({"rate": float("nan")}, "rate=nan positive"),
        ({"proximity": -1.0}, "proximity=-1.0 not negative"),
        ({"adapt": "tail"}, "choose one of all, head"),
        ({"rates": "x"}, "choose one of each"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(ValueError, match=words):
        meta_sinusoid(**settings)
