"""Stochastic engines: directions that average to the full-batch direction, convergence, refusals."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.batches import whole_batch
from bilevel.engines import Point
from bilevel.engines.stochastic.directions import Iterate, inner_part, outer_part

KEYS = jax.random.split(jax.random.key(0), 4)
FEATURES = 3


def data():
    """11 training and 9 validation samples: no multiple of the batch size."""
    with jax.enable_x64(True):
        truth = jnp.array([1.0, -2.0, 0.5])
        x, xv = jax.random.normal(KEYS[0], (11, FEATURES)), jax.random.normal(KEYS[1], (9, FEATURES))
        noise = 0.3 * jax.random.normal(KEYS[2], (11,))
        return (x, x @ truth + noise), (xv, xv @ truth)


def error(params, hparams, batch):
    x, y = batch
    return 0.5 * jnp.mean(batch.weight * (x @ params - y) ** 2)


def loss(params, hparams, batch):
    return error(params, hparams, batch) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)


def mixed(params, hparams, batch):
    """A loss in which hyperparameters and samples meet: each sample has a weight of its own."""
    x, y = batch
    each = 0.5 * jnp.exp(0.3 * x @ hparams) * (x @ params - y) ** 2
    return jnp.mean(batch.weight * each) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)


def first(hparams):
    return 0.3 * jnp.exp(hparams[0])


def task_with(batch_size=0, loss=loss, **extra):
    train, validation = data()
    batches = bl.full_batch(whole_batch(train), whole_batch(validation))
    if batch_size:
        batches = bl.minibatches(train, validation, batch_size)
    inner = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.full(FEATURES, 0.1), **extra)
    return bl.Task(inner=inner, outer_loss=error, init_hparams=lambda key: jnp.full(FEATURES, -1.0), batches=batches)


def carry_of(engine, levels, point, hparams):
    """A carry in general position."""
    carry = engine.first_carry(levels, point)
    return carry._replace(params=jnp.array([0.3, -0.7, 0.2]), adjoint=jnp.array([0.5, 0.1, -0.4]))


ENGINES = [
    bl.SOBA(),
    bl.MASOBA(),
    bl.SABA(),
    bl.AmIGO(inner_steps=0, adjoint_steps=0),
    bl.StocBiO(inner_steps=0, adjoint_steps=0),
    bl.F2SA(inner_steps=0),
]


@pytest.mark.sample(1)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
def test_directions_of_an_epoch_average_to_that_of_the_full_batch(engine):
    hparams, key = jnp.array([-1.0, 0.2, -0.5]), jax.random.key(3)
    levels = task_with(batch_size=3, loss=mixed)
    point = Point(hparams, *levels.batches(key, 0), key=key)
    carry = carry_of(engine, levels, point, hparams)
    step = jax.jit(lambda point: engine.hypergradient(levels, point, carry)[1:])
    blocks = 12  # both epochs, of 4 and of 3 steps, a whole number of times
    results = [step(Point(hparams, *levels.batches(key, number), key=key)) for number in range(blocks)]
    mean = jnp.mean(jnp.stack([grad for grad, _ in results]), axis=0)
    moved = jax.tree.map(lambda *leaves: sum(leaves) / blocks, *[report.carry[:2] for _, report in results])

    full = task_with(loss=mixed)
    plain = bl.SOBA() if isinstance(engine, bl.SABA) else engine
    whole = Point(hparams, *full.batches(key, 0), key=key)
    start = plain.first_carry(full, whole)._replace(params=carry.params, adjoint=carry.adjoint)
    _, exact, report = plain.hypergradient(full, whole, start)
    np.testing.assert_allclose(mean, exact, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(moved[0], report.carry.params, rtol=1e-12)
    np.testing.assert_allclose(moved[1], report.carry.adjoint, rtol=1e-12)


@pytest.mark.slow
def test_recursive_directions_of_an_epoch_average_to_that_of_the_full_batch():
    """SARAH between two passes: what the batches add to the last direction averages to its change."""
    hparams, key, engine = jnp.array([-1.0, 0.2, -0.5]), jax.random.key(3), bl.SRBA(period=100)
    levels, full = (task_with(size, loss=mixed) for size in (3, 0))
    whole = Point(hparams, *full.batches(key, 0), key=key)
    point = Point(hparams, *levels.batches(key, 0), key=key)
    carry = carry_of(engine, levels, point, hparams)
    before = Iterate(jnp.array([0.1, 0.2, -0.3]), jnp.array([-0.2, 0.4, 0.6]), hparams + 0.3)
    parts = inner_part(full, before, whole.inner_batch), outer_part(full, before, whole.outer_batch)
    memory = carry.memory._replace(step=jnp.int32(1), before=before, inner=parts[0], outer=parts[1])
    step = jax.jit(lambda point: engine.hypergradient(levels, point, carry._replace(memory=memory))[1])
    grads = [step(Point(hparams, *levels.batches(key, number), key=key)) for number in range(12)]
    _, exact, _ = bl.SOBA().hypergradient(full, whole, carry._replace(memory=bl.SOBA().first_carry(full, whole).memory))
    np.testing.assert_allclose(np.mean(grads, axis=0), exact, rtol=1e-12, atol=1e-13)
    assert np.std(grads, axis=0).max() > 1e-3


@pytest.mark.parametrize("filled", [False, True])
def test_after_an_epoch_at_one_iterate_the_direction_is_that_of_all_data(filled):
    """Whatever the tables began with: by then each row was replaced once."""
    hparams, key, engine = jnp.array([-1.0, 0.2, -0.5]), jax.random.key(3), bl.SABA(filled=filled)
    levels, full = (task_with(size, loss=mixed) for size in (3, 0))
    point = lambda step: Point(hparams, *levels.batches(key, step), key=key)
    carry = carry_of(engine, levels, point(0), hparams)
    step = jax.jit(lambda point, carry: engine.hypergradient(levels, point, carry)[1:])
    for number in range(5):  # an epoch has 4 steps inside and 3 outside
        grad, report = step(point(number), carry)
        carry = carry._replace(memory=report.carry.memory)
    whole = Point(hparams, *full.batches(key, 0), key=key)
    memory = bl.SOBA().first_carry(full, whole).memory
    _, exact, _ = bl.SOBA().hypergradient(full, whole, carry._replace(memory=memory))
    np.testing.assert_allclose(grad, exact, rtol=1e-12, atol=1e-13)


def test_the_tables_of_samples_are_written_in_place():
    """A loop of steps that may use up its carry copies no table, so a step costs the same for any number of samples."""
    rows = 1009, 1013
    train, validation = [(jnp.ones((number, FEATURES)), jnp.ones(number)) for number in rows]
    task = dataclasses.replace(task_with(loss=mixed), batches=bl.minibatches(train, validation, 8))
    hparams, key, engine = jnp.full(FEATURES, -1.0), jax.random.key(3), bl.SABA()
    point = lambda step: Point(hparams, *task.batches(key, step), key=key)

    def run(carry):
        turn = lambda step, carry: engine.hypergradient(task, point(step), carry)[2].carry
        return jax.lax.fori_loop(0, 20, turn, carry)

    carry = jax.jit(lambda: engine.first_carry(task, point(0)))()
    program = str(jax.jit(run, donate_argnums=0).lower(carry).compile().as_text())
    for number in rows:
        table = rf"= f64\[{number},{FEATURES}\]\S*"
        assert re.search(
            rf"{table} (scatter|dynamic-update-slice)\(", program
        )  # the second where scatters are expanded
        assert not re.search(rf"{table} copy\(", program)


@pytest.mark.sample(1)
@pytest.mark.parametrize("engine", [bl.SABA(filled=True), bl.SRBA(period=5)], ids=lambda engine: type(engine).__name__)
def test_first_direction_with_variance_reduction_is_exact(engine):
    hparams, key = jnp.full(FEATURES, -1.0), jax.random.key(3)
    levels, full = task_with(batch_size=4), task_with()
    point, whole = (Point(hparams, *one.batches(key, 0), key=key) for one in (levels, full))
    _, grad, _ = engine.hypergradient(levels, point, engine.first_carry(levels, point))
    _, exact, _ = bl.SOBA().hypergradient(full, whole, bl.SOBA().first_carry(full, whole))
    np.testing.assert_allclose(grad, exact, rtol=1e-12, atol=1e-14)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "engine",
    [bl.SABA(step_size=0.3, adjoint_step=0.3), bl.SRBA(step_size=0.3, adjoint_step=0.3, period=4)],
    ids=lambda engine: type(engine).__name__,
)
def test_variance_reduced_directions_converge_to_the_hypergradient_at_constant_steps(engine):
    hparams, key = jnp.full(FEATURES, -1.0), jax.random.key(3)
    levels = task_with(batch_size=4)
    _, exact, _ = bl.hypergradient(task_with(), hparams)

    def point(step):
        return Point(hparams, *levels.batches(key, step), key=key)

    def body(step, state):
        _, grad, report = engine.hypergradient(levels, point(step), state[0])
        return report.carry, grad

    carry = engine.first_carry(levels, point(0))
    run = jax.jit(lambda carry: jax.lax.fori_loop(0, 1200, body, (carry, jnp.zeros(FEATURES))))
    np.testing.assert_allclose(run(carry)[1], exact, rtol=1e-8, atol=1e-10)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "engine",
    [
        bl.SOBA(step_size=0.3, adjoint_step=0.3),
        bl.AmIGO(step_size=0.3, adjoint_step=0.3),
        bl.StocBiO(step_size=0.3, adjoint_step=0.3, inner_steps=300, adjoint_steps=300),
        bl.MASOBA(step_size=0.3, adjoint_step=0.3),
        bl.FSLA(step_size=0.3, adjoint_step=0.3),
        bl.MRBO(step_size=0.3, adjoint_step=0.3, adjoint_steps=200),
        bl.VRBO(step_size=0.3, adjoint_step=0.3, adjoint_steps=200),
    ],
    ids=lambda engine: type(engine).__name__,
)
def test_on_full_batches_the_direction_converges_to_the_hypergradient(engine):
    task, hparams = task_with(), jnp.full(FEATURES, -1.0)
    _, exact, _ = bl.hypergradient(task, hparams)
    carry = None
    single = isinstance(engine, bl.SOBA | bl.MASOBA | bl.FSLA | bl.MRBO)
    for _ in range(400 if single else 60):
        _, grad, report = bl.hypergradient(task, hparams, engine, carry=carry)
        carry = report.carry
    np.testing.assert_allclose(grad, exact, rtol=1e-8, atol=1e-10)
    assert report.status.name == "truncated"


PENALISED = {
    "F2SA": (lambda weight: bl.F2SA(step_size=0.2, weight=weight, inner_steps=3000, increase=0.0), 1, {}),
    "VPBGD": (lambda weight: bl.VPBGD(step_size=0.2, weight=weight, inner_steps=3), 1500, {}),
    "MEHA": (lambda weight: bl.MEHA(step_size=0.2, weight=weight), 3000, {}),
    "MEHA, sparse": (lambda weight: bl.MEHA(step_size=0.2, weight=weight), 3000, {"penalty": bl.L1(weight=first)}),
    "MEHA, a set": (lambda weight: bl.MEHA(step_size=0.2, weight=weight), 3000, {"constraint": bl.NonNegative()}),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", PENALISED)
def test_bias_of_penalty_methods_is_inverse_to_the_weight(name):
    made, steps, more = PENALISED[name]
    task, hparams = task_with(**more), jnp.full(FEATURES, -1.0)
    _, exact, _ = bl.hypergradient(task, hparams)
    point = Point(hparams, *task.batches(jax.random.key(0), 0), key=jax.random.key(0))

    @jax.jit
    def gradient(weight):
        engine = made(weight)
        turn = lambda step, state: (lambda out: (out[2].carry, out[1]))(engine.hypergradient(task, point, state[0]))
        return jax.lax.fori_loop(0, steps, turn, (engine.first_carry(task, point), hparams))[1]

    def bias(weight):
        return float(jnp.linalg.norm(gradient(weight) - exact))

    assert bias(100.0) < 0.05 * float(jnp.linalg.norm(exact))
    assert 1.8 < bias(100.0) / bias(200.0) < 2.2


@pytest.mark.parametrize("engine", [bl.SOBA(), bl.SABA(), bl.AmIGO(), bl.F2SA()], ids=lambda one: type(one).__name__)
def test_nonsmooth_inner_problems_are_refused(engine):
    with pytest.raises(ValueError, match=r"smooth inner loss"):
        bl.hypergradient(task_with(3, penalty=bl.L1(weight=0.1)), jnp.zeros(FEATURES), engine)


def test_a_set_that_moves_with_the_hyperparameters_is_refused_by_the_envelope():
    moving = task_with(constraint=bl.Box(lower=lambda h: jnp.minimum(h[0], 0.0), upper=5.0))
    with pytest.raises(ValueError, match=r"stays the same"):
        bl.hypergradient(moving, jnp.zeros(FEATURES), bl.MEHA())
    rows = bl.Functional(inequality=lambda w, h, batch: w - 1)
    with pytest.raises(ValueError, match=r"bl\.MEHA needs an inner loss with penalties and sets"):
        bl.hypergradient(task_with(constraint=rows), jnp.zeros(FEATURES), bl.MEHA())


def test_batches_that_do_not_know_their_samples_are_refused():
    train, validation = data()
    plain = lambda params, hparams, batch: jnp.mean((batch[0] @ params - batch[1]) ** 2)
    inner = bl.InnerProblem(loss=plain, init=lambda key, h: jnp.zeros(FEATURES))
    task = bl.Task(
        inner=inner,
        outer_loss=plain,
        init_hparams=lambda key: jnp.zeros(FEATURES),
        batches=bl.full_batch(train, validation),
    )
    with pytest.raises(ValueError, match=r"bl\.minibatches"):
        bl.hypergradient(task, jnp.zeros(FEATURES), bl.SABA())


def test_diverging_steps_are_reported():
    with pytest.raises(bl.ConvergenceError, match=r"diverged|nonfinite"):
        task, carry = task_with(), None
        for _ in range(200):
            _, _, report = bl.hypergradient(task, jnp.zeros(FEATURES), bl.SOBA(step_size=50.0), carry=carry)
            carry = report.carry


STOCHASTIC = [
    bl.SOBA(),
    bl.SABA(),
    bl.SRBA(period=3),
    bl.AmIGO(inner_steps=4, adjoint_steps=3),
    bl.StocBiO(inner_steps=4, adjoint_steps=3),
    bl.F2SA(inner_steps=4),
    bl.MASOBA(),
    bl.FSLA(),
    bl.TTSA(adjoint_steps=4),
    bl.BSA(inner_steps=3, adjoint_steps=4),
    bl.SUSTAIN(adjoint_steps=4),
    bl.MRBO(adjoint_steps=3),
    bl.VRBO(inner_steps=2, adjoint_steps=2, period=3),
    bl.BOME(inner_steps=3),
    bl.VPBGD(inner_steps=3),
    bl.MEHA(),
]


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("engine", STOCHASTIC, ids=lambda engine: type(engine).__name__)
def test_counters_are_exact(counted, engine):
    """Over four steps, with a pass over the data among them for `SRBA`; what first_carry does is not a step's."""
    train, validation = data()
    inner_loss, outer_loss = counted(mixed), counted(error)
    task = bl.Task(
        inner=bl.InnerProblem(loss=inner_loss, init=lambda key, h: jnp.full(FEATURES, 0.1)),
        outer_loss=outer_loss,
        init_hparams=lambda key: jnp.full(FEATURES, -1.0),
        batches=bl.minibatches(train, validation, 4, 3),
    )
    hparams, carry = jnp.zeros(FEATURES), None
    point = Point(hparams, *task.batches(jax.random.key(0), 0), key=jax.random.key(0))
    carry = engine.first_carry(task, point)
    for step in range(4):
        jax.effects_barrier()
        inner_loss.seen.clear()
        outer_loss.seen.clear()
        batch = task.batches(jax.random.key(0), step)
        _, grad, report = bl.hypergradient(task, hparams, engine, batch=batch, carry=carry)
        jax.block_until_ready((grad, report.carry))
        carry, counts = report.carry, report.counts
        assert int(counts.gradients) == inner_loss.seen["gradients"] + outer_loss.seen["gradients"]
        assert int(counts.hessian_products) == inner_loss.seen["hessian_products"]
        assert int(counts.jacobian_products) == inner_loss.seen["jacobian_products"]
