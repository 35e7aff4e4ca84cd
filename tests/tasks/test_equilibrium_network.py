"""A network with an equilibrium: its gradient, its training beside an explicit network, its refusals."""

import jax
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.tasks import equilibrium_network

SMALL = {"data": "iris", "train": 60, "validation": 40, "width": 4, "batch_size": 20}


def test_the_gradient_is_that_of_differences():
    task = equilibrium_network(**SMALL, solver_steps=200, tol=1e-12, precision="float64")
    weights = task.init_hparams(jax.random.key(0))
    engine = bl.Implicit(linear_solve=bl.GMRES(tol=1e-12), accuracy="residual")
    _, grad, report = bl.hypergradient(task, weights, engine)
    assert report.status.name == "converged"
    step = 1e-5 * np.eye(4)[2]
    value = lambda shift: float(
        bl.hypergradient(task, weights._replace(recurrent=weights.recurrent.at[1].add(shift)), engine)[0]
    )
    np.testing.assert_allclose(grad.recurrent[1, 2], (value(step) - value(-step)) / 2e-5, rtol=1e-6)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="width=0"):
        equilibrium_network(**{**SMALL, "width": 0})


@pytest.mark.slow
def test_it_learns_as_well_as_an_explicit_network(drawn):
    with jax.enable_x64(False):
        task = equilibrium_network(**SMALL, steps=200, learning_rate=0.03)
        engine = bl.Implicit(linear_solve=bl.GMRES(tol=1e-4), accuracy="residual")
        trainer = bl.Trainer(optimizer=optax.adam(0.03), engine=engine, steps=200)
        result = trainer.fit(task, key=jax.random.key(0))
        assert result.summary["test_accuracy"] > max(0.85, result.summary["baseline_test_accuracy"] - 0.06)
        assert drawn(task, result) == {"lanes"}
