"""Which hyperparameters can reach the outer loss is read from the programs, by name, before anything is run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.engines import Point
from bilevel.engines.influence import influence

X = np.random.default_rng(0).normal(size=(12, 3))
Y = X @ np.array([1.0, -1.0, 0.5])
START = {"used": jnp.zeros(()), "misspelt": jnp.zeros(2)}


def error(w, h, batch):
    return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)


def ridge(w, h, batch):
    return error(w, h, batch) + 0.5 * jnp.exp(h["used"]) * jnp.sum(w**2)


def accuracy(w, h, batch):
    return jnp.mean((batch[0] @ w > 0) == (batch[1] > 0))


def task(outer_loss=error, loss=ridge, init=lambda key, h: jnp.zeros(3), start=START, **more):
    prior = more.pop("prior", None)
    return bl.Task(
        inner=bl.InnerProblem(loss=loss, init=init, **more),
        outer_loss=outer_loss,
        init_hparams=lambda key: start,
        batches=bl.full_batch((X[:8], Y[:8]), (X[8:], Y[8:])),
        **({} if prior is None else {"prior": prior}),
    )


def reached(task, engine: bl.Engine = bl.Implicit()):
    key = jax.random.key(0)
    inner_batch, outer_batch = task.batches(key, 0)
    found = influence(engine, task, Point(task.init_hparams(key), inner_batch, outer_batch, key))
    return [name for name, flag in found.reached.items() if flag]


USED, BOTH = ["hparams['used']"], ["hparams['misspelt']", "hparams['used']"]
NOTHING = {
    "accuracy": accuracy,
    "sign": lambda w, h, batch: jnp.mean(jnp.sign(batch[0] @ w) * batch[1]),
    "rounded": lambda w, h, batch: jnp.mean(jnp.round(batch[0] @ w)),
    "stopped": lambda w, h, batch: jnp.sum(jax.lax.stop_gradient(w) ** 2),
    "constant": lambda w, h, batch: jnp.mean(batch[1] ** 2),
}
ONE = {
    "loss": {},
    "penalty": {"loss": error, "penalty": bl.L1(weight=lambda h: jnp.exp(h["used"]))},
    "set": {"loss": error, "constraint": bl.Box(lower=lambda h: -jnp.exp(h["used"]) * jnp.ones(3), upper=1.0)},
    "functions": {"loss": error, "constraint": bl.Functional(inequality=lambda w, h, batch: w - h["used"])},
    "outer loss": {"loss": error, "outer_loss": lambda w, h, batch: error(w, h, batch) + h["used"] ** 2},
    "accuracy and prior": {"outer_loss": accuracy, "prior": lambda h: h["used"] ** 2},
}


@pytest.mark.parametrize("outer_loss", NOTHING)
def test_an_outer_loss_without_a_derivative_is_reached_by_nothing(outer_loss):
    assert reached(task(outer_loss=NOTHING[outer_loss])) == []


@pytest.mark.parametrize("way", ONE)
def test_every_way_to_the_outer_loss_is_seen(way):
    assert reached(task(**ONE[way])) == USED


def test_a_leaf_is_reached_by_the_prior():
    assert reached(task(prior=lambda h: jnp.sum(h["misspelt"] ** 2))) == BOTH


def test_a_leaf_that_is_held_constant_by_hand_is_no_mistake():
    held = task(loss=lambda w, h, batch: ridge(w, h, batch) + jnp.sum(jax.lax.stop_gradient(h["misspelt"]) * w[:2]))
    key = jax.random.key(0)
    inner_batch, outer_batch = held.batches(key, 0)
    found = influence(bl.Implicit(), held, Point(START, inner_batch, outer_batch, key))
    assert (found.reached, found.without_path) == ({"hparams['used']": True}, [])
    assert found.held == ["hparams['misspelt']"]


def test_a_run_calls_a_constant_by_hand_no_fault(caplog):
    held = task(loss=lambda w, h, batch: ridge(w, h, batch) + jnp.sum(jax.lax.stop_gradient(h["misspelt"]) * w[:2]))
    summary = bl.Trainer(optimizer=optax.sgd(0.1), steps=2).fit(held).summary
    assert (summary["without_gradient"], summary["held_constant"]) == ([], ["hparams['misspelt']"])
    assert "exactly 0" not in caplog.text


def test_the_start_is_seen_by_engines_that_differentiate_steps():
    learned = task(loss=error, init=lambda key, h: h, start=jnp.ones(3))
    assert reached(learned) == []
    assert reached(learned, bl.Unrolled()) == ["hparams"]
    sizes = bl.GradientDescent(step_size=lambda h: jnp.exp(h), max_steps=5)
    assert reached(task(loss=error, start=jnp.zeros(()), solver=sizes), bl.Forward()) == ["hparams"]


@pytest.mark.slow
def test_a_start_drawn_from_the_key_is_no_number_to_look_at():
    inner = bl.InnerProblem(
        loss=lambda w, h, b: 0.5 * jnp.sum((w - b) ** 2),
        init=lambda key, h: jax.random.normal(key, (2,)),
        solver=bl.GradientDescent(max_steps=20),
    )
    task = bl.Task(
        inner=inner,
        outer_loss=lambda w, h, b: jnp.sum(w) + 0.0 * h,
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(jnp.ones(2), None),
    )
    with pytest.warns(UserWarning):
        assert float(bl.hypergradient(task, jnp.zeros(()), bl.Unrolled())[1]) == 0


@pytest.mark.slow
def test_a_hypergradient_that_is_zero_by_construction_says_so_once():
    twice = task()
    with pytest.warns(UserWarning, match=r"hparams\['misspelt'\] cannot reach the outer loss.*misspelt name"):
        _, grad, _ = bl.hypergradient(twice, START)
    assert not np.any(grad["misspelt"]) and np.any(grad["used"])
    bl.hypergradient(twice, START)  # a second warning would be an error


def test_a_run_that_cannot_learn_anything_is_refused_before_it_begins():
    with pytest.raises(ValueError, match=r"hparams.*0 by construction: outer_loss has no derivative.*accuracy"):
        bl.Trainer(steps=2).fit(task(outer_loss=accuracy))
    with pytest.raises(ValueError, match=r"only the start of the inner solver .* bl\.Unrolled\(\)"):
        bl.Trainer(steps=2).fit(task(loss=error, init=lambda key, h: h, start=jnp.ones(3)))


@pytest.mark.slow
def test_a_run_with_an_idle_leaf_names_it_before_and_after(caplog):
    with pytest.warns(UserWarning, match=r"hparams\['misspelt'\] cannot reach the outer loss"):
        result = bl.Trainer(optimizer=optax.sgd(0.1), steps=3).fit(task())
    assert result.summary["without_gradient"] == ["hparams['misspelt']"]
    assert "hparams['misspelt'] was exactly 0 at every step" in caplog.text


@pytest.mark.slow
def test_a_gradient_that_happens_to_be_zero_at_every_step_is_told(caplog):
    """A penalty so large that the solution is all zeros, from where no step leads away."""
    start = {"used": jnp.array(5.0)}
    sparse = task(loss=error, penalty=bl.L1(weight=lambda h: jnp.exp(h["used"])), start=start)
    result = bl.Trainer(optimizer=optax.adam(0.1), steps=3).fit(sparse)
    assert not np.any(result.params)
    assert result.summary["without_gradient"] == ["hparams['used']"]
    assert "was exactly 0 at every step" in caplog.text
