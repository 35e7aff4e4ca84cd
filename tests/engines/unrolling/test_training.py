"""Trainings: `bl.Optax` with a number of steps, whose settings are hyperparameters."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl

STEPS, SAMPLES = 6, 10
INPUTS = np.random.default_rng(0).normal(size=(SAMPLES, 3))
TARGETS = INPUTS @ np.array([1.0, -2.0, 0.5]) + 0.3
HPARAMS = {"rate": np.array(-2.0), "decay": np.array(0.6), "start": np.array([0.2, -0.1, 0.4])}


def predicted(params, inputs):
    return jnp.tanh(inputs @ params["w"]) + params["b"]


def loss(params, hparams, batch):
    x, y = batch
    return jnp.mean(batch.weight * (predicted(params, x) - y) ** 2)


def init(key, hparams):
    return {"w": hparams["start"], "b": 0.1 * jax.random.normal(key, ())}


def rate(hparams):
    return jnp.exp(hparams["rate"])


def staircase(hparams):
    """A rate for each third of the training."""
    return optax.sgd(lambda count: rate(hparams) * jnp.array([1.0, 0.7, 0.3])[3 * jnp.asarray(count) // STEPS])


def injected(hparams):
    return optax.inject_hyperparams(optax.sgd)(learning_rate=rate(hparams), momentum=hparams["decay"])


def chained(hparams):
    decayed = optax.add_decayed_weights(hparams["decay"])
    return optax.chain(optax.clip_by_global_norm(1.0), decayed, optax.sgd(rate(hparams), momentum=0.5, nesterov=True))


TRANSFORMATIONS = {
    "momentum": lambda h: optax.sgd(rate(h), momentum=h["decay"]),
    "adam": lambda h: optax.adam(rate(h), b1=h["decay"], eps_root=1e-8),
    "adamw": lambda h: optax.adamw(rate(h), weight_decay=h["decay"]),
    "staircase": staircase,
    "injected": injected,
    "chained": chained,
    "polyak": lambda h: optax.polyak_sgd(max_learning_rate=10.0, scaling=rate(h), f_min=-h["decay"]),
    "adafactor-like": lambda h: optax.chain(optax.scale_by_rms(h["decay"], eps=1e-6), optax.scale(-rate(h))),
    "lbfgs": lambda h: optax.lbfgs(rate(h), memory_size=3, linesearch=None),
}
DRAWS = {"whole": None, "drawn": bl.draw_samples(4)}


def task_of(transformation, draw=None, steps=STEPS, **fields):
    more = {} if draw is None else {"draw": draw}
    solver = bl.Optax(transformation, steps=steps, **more)
    return bl.Task(
        inner=bl.InnerProblem(loss=loss, init=init, solver=solver),
        outer_loss=lambda params, hparams, batch: jnp.mean((predicted(params, batch[0]) - batch[1]) ** 2),
        init_hparams=lambda key: jax.tree.map(jnp.asarray, HPARAMS),
        batches=bl.full_batch(bl.whole_batch((INPUTS, TARGETS)), (0.5 * INPUTS, TARGETS)),
        **fields,
    )


def by_hand(transformation, draw, key=None, steps=STEPS, hparams=HPARAMS, held=0):
    """The outer loss of a plain loop over optax; ``held`` first steps are constants."""
    key = jax.random.key(0) if key is None else key
    whole = bl.whole_batch((INPUTS, TARGETS))
    stop = jax.lax.stop_gradient
    params = init(key, hparams)
    state = transformation(hparams).init(params)
    for step in range(steps):
        if step == held and held:
            params, state = stop(params), stop(state)
        batch = whole if draw is None else draw(key, step, whole)
        made = optax.with_extra_args_support(transformation(hparams))
        value = lambda params, batch=batch: loss(params, hparams, batch)
        found, slope = jax.value_and_grad(value)(params)
        updates, state = made.update(slope, state, params, value=found, grad=slope, value_fn=value)
        params = optax.apply_updates(params, updates)
    return jnp.mean((predicted(params, 0.5 * INPUTS) - TARGETS) ** 2)


@pytest.mark.sample(1)
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_engine_differentiates_the_training(name, draw):
    """Values and gradients of `Unrolled` and `Forward` are those of a plain loop, and of central differences; the
    gradient of `Truncated` is that of the loop whose first steps are constants."""
    transformation, draw = TRANSFORMATIONS[name], DRAWS[draw]
    task = task_of(transformation, draw)
    value, slope = jax.jit(jax.value_and_grad(lambda h: by_hand(transformation, draw, hparams=h)))(HPARAMS)
    for engine in (bl.Unrolled(), bl.Forward()):
        found, grad, report = bl.hypergradient(task, HPARAMS, engine)
        np.testing.assert_allclose(found, value, rtol=1e-12)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12), grad, slope)
        assert report.status.name == "truncated" and int(report.inner_steps) == STEPS
    held = lambda h: by_hand(transformation, draw, hparams=h, held=STEPS - 3)
    found, grad, report = bl.hypergradient(task, HPARAMS, bl.Truncated(steps=3))
    np.testing.assert_allclose(found, value, rtol=1e-12)
    cut = jax.jit(jax.grad(held))(HPARAMS)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12), grad, cut)
    assert report.status.name == "truncated" and int(report.inner_steps) == STEPS


@pytest.mark.slow
def test_the_gradient_is_that_of_central_differences():
    task = task_of(TRANSFORMATIONS["adam"], DRAWS["drawn"])
    _, grad, _ = bl.hypergradient(task, HPARAMS, bl.Unrolled())
    for name in ("rate", "decay"):

        def value(shift, name=name):
            return float(bl.hypergradient(task, {**HPARAMS, name: HPARAMS[name] + shift}, bl.Unrolled())[0])

        np.testing.assert_allclose(grad[name], (value(1e-5) - value(-1e-5)) / 2e-5, rtol=1e-7)


@pytest.mark.slow
def test_forward_mode_takes_a_line_search():
    """The step after optax.lbfgs with its line search is scaled by a hyperparameter."""
    transformation = lambda h: optax.chain(optax.lbfgs(memory_size=3), optax.scale(1 - 0.1 * rate(h)))
    task = task_of(transformation, steps=3)
    value = lambda shift: float(bl.hypergradient(task, {**HPARAMS, "rate": HPARAMS["rate"] + shift}, bl.Forward())[0])
    _, grad, report = bl.hypergradient(task, HPARAMS, bl.Forward())
    np.testing.assert_allclose(grad["rate"], (value(1e-5) - value(-1e-5)) / 2e-5, rtol=1e-6)
    assert int(report.counts.gradients) > 3


@pytest.mark.slow
def test_under_jit_and_vmap_and_in_float32():
    task = task_of(TRANSFORMATIONS["momentum"], DRAWS["drawn"], precision="float32")
    with jax.enable_x64(False):
        hparams = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf), jnp.asarray(leaf)]), HPARAMS)
        gradient = jax.jit(jax.vmap(lambda h: bl.hypergradient(task, h, bl.Unrolled())[1]))
        many = gradient(hparams)
        _, one, _ = bl.hypergradient(task, jax.tree.map(jnp.asarray, HPARAMS), bl.Unrolled())
    jax.tree.map(lambda lanes, leaf: np.testing.assert_allclose(lanes[1], leaf, rtol=1e-4, atol=1e-6), many, one)


@pytest.mark.slow
def test_draws_and_start_are_those_of_the_key():
    transformation, draw = TRANSFORMATIONS["momentum"], DRAWS["drawn"]
    task = task_of(transformation, draw)
    values = [float(bl.hypergradient(task, HPARAMS, bl.Unrolled(), key=jax.random.key(n))[0]) for n in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
    np.testing.assert_allclose(values[2], by_hand(transformation, draw, jax.random.key(2)), rtol=1e-12)
    solution = task.inner.solve(HPARAMS, bl.whole_batch((INPUTS, TARGETS)), key=jax.random.key(2))
    assert solution.status.name == "truncated" and int(solution.steps) == STEPS
    judged = jnp.mean((predicted(solution.params, 0.5 * INPUTS) - TARGETS) ** 2)
    np.testing.assert_allclose(judged, values[2], rtol=1e-12)


REFUSED = [bl.Implicit(), bl.ClosedForm(), bl.SOBA(), bl.Adaptive(bl.Implicit())]


@pytest.mark.parametrize("engine", REFUSED, ids=lambda one: type(one).__name__)
def test_an_engine_that_needs_a_solution_refuses(engine):
    with pytest.raises(ValueError, match=r"bl\.Optax\(steps=6\) trains.*Use bl\.Unrolled"):
        bl.hypergradient(task_of(TRANSFORMATIONS["momentum"]), HPARAMS, engine)


def test_the_derivative_of_trained_params_is_refused():
    inner, batch = task_of(TRANSFORMATIONS["momentum"]).inner, bl.whole_batch((INPUTS, TARGETS))
    with pytest.raises(TypeError, match=r"of a training.*bl\.hypergradient with bl\.Unrolled"):
        jax.grad(lambda h: inner.solve(h, batch).params["b"])(jax.tree.map(jnp.asarray, HPARAMS))
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), HPARAMS)
    with pytest.raises(ValueError, match=r"use jax\.vmap\(inner\.solve\)"):
        bl.solve_batch(inner, stacked, batch, in_axes=(0, None))


@pytest.mark.parametrize(
    ("settings", "sentence"), [({"steps": -1}, "train for 1, 2"), ({"draw": bl.draw_samples(4)}, "needs steps=")]
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        bl.Optax(optax.sgd(0.1), **settings)


@pytest.mark.slow
def test_the_choice_of_an_engine_is_one_that_differentiates_steps(capsys):
    bl.hypergradient(task_of(TRANSFORMATIONS["momentum"]), HPARAMS, bl.AutoEngine())
    assert "Forward, as a training of 6 steps has no other derivative" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_of_forward_is_flat_in_the_steps():
    """The compiled program keeps no state for each step."""

    def temporary(engine, steps):
        task = task_of(TRANSFORMATIONS["momentum"], steps=steps)
        program = jax.jit(lambda h: bl.hypergradient(task, h, engine)[1])
        told = program.lower(jax.tree.map(jnp.asarray, HPARAMS)).compile().memory_analysis()
        assert told is not None
        return told.temp_size_in_bytes

    assert temporary(bl.Forward(), 10_000) <= 1.01 * temporary(bl.Forward(), 100)


@pytest.mark.slow
def test_a_setting_alone_has_an_influence():
    """A hyperparameter that only the transformation reads is no misspelt name, and a run tunes it."""
    task = task_of(TRANSFORMATIONS["momentum"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = bl.Trainer(optimizer=optax.adam(0.1), engine=bl.Unrolled(), steps=8).fit(task, key=jax.random.key(0))
    assert result.summary["best_outer_loss"] < result.summary["initial_outer_loss"]
    assert result.summary["status"] == "completed" and not result.summary["without_gradient"]
