"""A report reads in a line and describes itself in a paragraph: right, failed, of unknown error, batched, traced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl


@functools.cache
def task(steps):
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2 + jnp.exp(h) * w**2),
            init=lambda key, h: jnp.zeros(2),
            solver=bl.GradientDescent(max_steps=steps, tol=1e-10),
        ),
        outer_loss=lambda w, h, batch: jnp.sum((w - batch) ** 2),
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(np.array([2.0, 4.0]), np.ones(2)),
    )


def reported(h, engine, steps=1000):
    return bl.hypergradient(task(steps), h, engine)[2]


@pytest.mark.slow
def test_a_good_report():
    report = reported(jnp.zeros(()), bl.Implicit())
    assert repr(report).startswith("Report(converged; error of the gradient ") and len(repr(report)) < 250
    text = report.describe()
    assert text.startswith("The gradient can be used. The inner solve ended with status converged after ")
    assert "Newton correction" in text and "gradients" in text and "\n" not in text


@pytest.mark.slow
def test_a_bad_one_says_why_and_what_helps():
    with pytest.warns(UserWarning, match="max_steps"):
        report = reported(jnp.asarray(3.0), bl.Implicit(on_failure="warn"), steps=2)
    assert "cannot be used, because its status is max_steps: raise max_steps" in report.describe()


def test_an_unknown_error_is_not_claimed():
    report = reported(jnp.zeros(()), bl.OneStep())
    text = report.describe()
    assert text.startswith("Both solves ended well, but nothing says how far the gradient is off.")
    assert "The size of the gradient's error is not known" in text


def test_a_solution_whose_curvature_was_not_looked_at_is_said_to_be_of_first_order():
    first = "The solution is known to first order"
    assert first in reported(jnp.zeros(()), bl.Unrolled()).describe()
    assert first not in reported(jnp.zeros(()), bl.Implicit()).describe()


def test_traced_and_batched_reports():
    told = []

    @jax.jit
    @jax.vmap
    def batched(h):
        report = reported(h, bl.OneStep())
        told.append((repr(report), report.describe()))
        return report

    batch = batched(jnp.array([0.0, 1.0]))
    assert told[0][0].startswith("Report(traced") and "outside of jit" in told[0][1]
    assert "up to" in repr(batch) and "nothing says how far" in batch.describe()


def test_a_solution_reads_in_a_line():
    inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.sum((w - h) ** 2), init=lambda key, h: jnp.zeros(3))
    solution = inner.solve(jnp.ones(3), ())
    assert repr(solution).startswith("Solution(Status(converged) after ")
    assert "params float64[3]" in repr(solution)
    batch = jax.vmap(lambda h: inner.solve(h, ()))(jnp.ones((2, 3)))
    assert "params float64[2,3]" in repr(batch)
