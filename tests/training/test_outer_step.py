"""The outer step: its state keeps its types, so that it is compiled once, whatever numbers the user starts from."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest

import bilevel as bl
from bilevel.engines import hypergradients
from bilevel.training.outer_step import first_state, outer_step

ENGINES = (
    bl.Implicit(), bl.Implicit(linear_solve=bl.CG(), refine=True), bl.Adaptive(), bl.ClosedForm(), bl.Unrolled(),
    bl.Forward(), bl.Truncated(steps=2), bl.OneStep(), bl.SOBA(), bl.SABA(), bl.SRBA(), bl.AmIGO(),
    bl.StocBiO(), bl.F2SA(),
)  # fmt: skip


def ridge(precision: str, stochastic: bool, seed: int = 0) -> bl.Task:
    """Starts from a Python number and from what ``jnp.full`` makes of one, which have no dtype of their own."""
    x = jax.random.normal(jax.random.key(seed), (8, 3), precision)

    def error(w, h, batch):
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)

    train, validation = (x, x[:, 0]), (x, x[:, 1])
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: error(w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2),
            init=lambda key, h: jnp.full(3, 0.1),
        ),
        outer_loss=error,
        init_hparams=lambda key: 0.0,
        batches=bl.minibatches(train, validation, 4) if stochastic else bl.full_batch(train, validation),
        precision=precision,
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
def test_the_state_after_a_step_is_of_the_types_before_it(engine, precision):
    with jax.enable_x64(precision == "float64"):
        task, optimizer = ridge(precision, engine.stochastic), optax.adam(0.1)
        before = jax.eval_shape(lambda: first_state(task, optimizer, engine, jax.random.key(0)))
        after, _ = jax.eval_shape(lambda state: outer_step(task, optimizer, engine, state), before)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    named = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(before)]
    for (name, first), second in zip(named, jax.tree.leaves(after), strict=True):
        told = (name, first.shape, first.dtype, first.weak_type)
        assert told == (name, second.shape, second.dtype, second.weak_type)


@pytest.mark.slow
def test_tasks_of_the_same_shapes_and_other_tolerances_compile_nothing_again():
    tasks = [ridge("float64", False, seed) for seed in (0, 1)]
    solvers = [bl.LBFGS(tol=tol) for tol in (1e-10, 1e-6)]
    tasks = [replace(one, inner=one.inner.with_solver(solver)) for one, solver in zip(tasks, solvers, strict=True)]
    compiled = []
    for one in tasks:
        for tol in (1e-10, 1e-4):
            bl.hypergradient(one, 0.0, bl.Implicit(linear_solve=bl.CG(tol=tol), accuracy="residual"))
        program = hypergradients._PROGRAMS[one]
        compiled.append((program.traces, program.compilations))
    assert compiled == [(1, 1), (1, 0)]


OPTIMIZERS = {
    "lbfgs": optax.lbfgs(),
    "polyak_sgd": optax.polyak_sgd(),
    "adafactor": optax.adafactor(0.1),
    "lion": optax.lion(0.1),
    "scheduled": optax.sgd(optax.cosine_decay_schedule(0.1, 10), momentum=0.9),
    "averaged": optax.contrib.schedule_free_adamw(0.1),
    "plateau": optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
    "clipped": optax.chain(optax.clip(1.0), optax.rprop(0.1)),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimisers_state_has_the_types_after_a_step_that_it_had_before(name):
    """optax begins some states with Python numbers, whose weak type would compile a second program at the next step."""
    with jax.enable_x64(True):
        task, engine = ridge("float64", stochastic=False), bl.ClosedForm()
        before = jax.eval_shape(lambda: first_state(task, OPTIMIZERS[name], engine, jax.random.key(0)))
        after, _ = jax.eval_shape(lambda state: outer_step(task, OPTIMIZERS[name], engine, state), before)
    types = [[(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)] for tree in (before, after)]
    assert types[0] == types[1]
