"""The engine that chooses: by size, structure, spectrum and memory, with a reason."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.engines import Point

BIG = 1500


def task_of(loss, features=4, solver=None, batches=None, start=None, penalty=None):
    extra = {} if penalty is None else {"penalty": penalty}
    inner = bl.InnerProblem(
        loss=loss,
        init=start or (lambda key, h: jnp.zeros(features)),
        solver=solver or bl.LBFGS(tol=1e-9),
        **extra,
    )
    return bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - 1.0) ** 2),
        init_hparams=lambda key: jnp.zeros(()),
        batches=batches or bl.full_batch(None, None),
    )


def quadratic(eigenvalues):
    return lambda w, h, batch: 0.5 * jnp.sum(eigenvalues * w**2) - jnp.exp(h) * jnp.sum(w)


def decide(task, engine=None, hparams=None):
    key = jax.random.key(0)
    point = Point(jnp.zeros(()) if hparams is None else hparams, *task.batches(key, 0), key=key)
    return (engine or bl.AutoEngine(quiet=True)).decide(task, point)


def test_small_systems_are_factored():
    engine, reason = decide(task_of(quadratic(jnp.arange(1.0, 5.0))))
    assert engine == bl.Implicit(linear_solve=bl.Dense())
    assert "4 unknowns, 1 hyperparameter" in reason


@pytest.mark.parametrize(
    ("eigenvalues", "solver", "word"),
    [
        (jnp.linspace(1.0, 10.0, BIG), bl.CG(), "well-conditioned"),
        (jnp.logspace(-6, 0, BIG), bl.CG(preconditioner=bl.RandomizedNystrom()), "ill-conditioned"),
        (jnp.linspace(-1.0, 10.0, BIG), bl.MINRES(), "indefinite"),
    ],
)
def test_the_spectrum_decides_for_large_ones(eigenvalues, solver, word):
    engine, reason = decide(task_of(quadratic(eigenvalues), BIG))
    assert engine == bl.Implicit(linear_solve=solver)
    assert word in reason and "Ritz values" in reason


def test_memory_is_a_limit():
    engine, _ = decide(task_of(quadratic(jnp.ones(100)), 100), bl.AutoEngine(memory_budget=1e4, quiet=True))
    assert engine == bl.Implicit(linear_solve=bl.CG())


def test_what_only_the_steps_know_is_differentiated_through_them():
    loss = lambda w, h, batch: jnp.sum(jnp.cosh(w - 1.0))
    learned = task_of(loss, start=lambda key, h: jnp.zeros(4) + h)
    assert isinstance(decide(learned)[0], bl.Forward)
    many = task_of(loss, start=lambda key, h: h[:4])
    assert isinstance(decide(many, hparams=jnp.zeros(30))[0], bl.Unrolled)


def test_minibatches_lead_to_stochastic_engines():
    data = np.ones((20, 4))
    loss = lambda w, h, batch: jnp.mean(batch.weight * (batch.data @ w - 1.0) ** 2) + jnp.exp(h) * jnp.sum(w**2)
    task = task_of(loss, batches=bl.minibatches(data, data, 5))
    assert isinstance(decide(task)[0], bl.SABA)
    assert isinstance(decide(task, bl.AutoEngine(memory_budget=10.0, quiet=True))[0], bl.SOBA)


@pytest.mark.slow
def test_it_prints_why_and_gives_the_gradient_of_what_it_chose(capsys):
    task = task_of(quadratic(jnp.arange(1.0, 5.0)))
    _, grad, _ = bl.hypergradient(task, jnp.zeros(()), bl.AutoEngine())
    assert "bl.AutoEngine: Implicit with Dense, as the system is small" in capsys.readouterr().err
    np.testing.assert_allclose(grad, bl.hypergradient(task, jnp.zeros(()))[1])
    bl.hypergradient(task, jnp.ones(()), bl.AutoEngine())
    assert capsys.readouterr().err == ""  # chosen once


@pytest.mark.slow
def test_a_trainer_records_the_choice():
    task = task_of(quadratic(jnp.arange(1.0, 5.0)))
    result = bl.Trainer(optimizer=optax.sgd(0.1), engine=bl.AutoEngine(quiet=True), steps=2).fit(task)
    assert result.summary["engine"] == "Implicit"
    assert "small" in result.summary["engine_chosen_because"]


@pytest.mark.slow
def test_inside_a_trace_it_chooses_without_values():
    task = task_of(quadratic(jnp.linspace(1.0, 10.0, BIG)), BIG)
    grad = jax.jit(lambda h: bl.hypergradient(task, h, bl.AutoEngine(quiet=True))[1])(jnp.zeros(()))
    np.testing.assert_allclose(grad, bl.hypergradient(task, jnp.zeros(()))[1], rtol=1e-6)
