"""What an accelerator computes is what the CPU computes.

Skipped where JAX has none. `pytest -m gpu` runs these tests alone; with JAX_NUM_CPU_DEVICES=2 BILEVEL_ACCELERATOR=cpu a
second device of the CPU stands for the accelerator, which tries the tests themselves.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.tasks import hyperclean, logistic

pytestmark = pytest.mark.gpu

PLATFORM = os.environ.get("BILEVEL_ACCELERATOR", "gpu")
SETS = {
    "simplex": bl.projections.simplex,
    "l1_ball": bl.projections.l1_ball,
    "isotonic": bl.projections.isotonic,
    "capped_simplex": lambda point: bl.projections.capped_simplex(point, 2.0),
    "psd": lambda point: bl.projections.psd_cone(point[:9].reshape(3, 3) + point[:9].reshape(3, 3).T),
    "second_order": bl.projections.second_order_cone,
}


@pytest.fixture(scope="module")
def accelerator():
    try:
        devices = jax.devices(PLATFORM)
    except RuntimeError:
        pytest.skip(f"JAX has no {PLATFORM} here, and these tests compare one with the CPU")
    cpu = jax.devices("cpu")[0]
    others = [device for device in devices if device != cpu]
    if not others:
        pytest.skip("with BILEVEL_ACCELERATOR=cpu a second device is needed: JAX_NUM_CPU_DEVICES=2")
    return others[0]


@pytest.fixture
def compare(accelerator):
    """Checks that ``compute()`` lies on the accelerator and equals what the CPU computes."""

    def check(compute, rtol, atol=1e-12):
        found = {}
        for device in (accelerator, jax.devices("cpu")[0]):
            with jax.default_device(device):
                found[device] = jax.block_until_ready(compute())
        there, here = found.values()
        assert all(leaf.devices() == {accelerator} for leaf in jax.tree.leaves(there) if isinstance(leaf, jax.Array))
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=rtol, atol=atol), there, here)

    return check


def test_the_hypergradient_of_the_default_task(compare):
    def compute():
        value, gradient, report = bl.hypergradient(hyperclean(), jnp.zeros(900))
        assert report.status.name == "converged"
        return value, gradient

    compare(compute, 1e-7)


def test_a_batch_of_programs_and_its_derivative(compare):
    random = np.random.default_rng(0)
    roots, G = random.normal(size=(16, 8, 8)), random.normal(size=(16, 6, 8))
    data = roots @ roots.transpose(0, 2, 1) + np.eye(8), random.normal(size=(16, 8)), G, random.random((16, 6))

    def total(Q, q, G, h):
        solution = jax.vmap(lambda Q, q, G, h: bl.quadratic_program(Q, q, G=G, h=h))(Q, q, G, h)
        return jnp.sum(solution.params**3), solution.params

    compare(lambda: jax.jit(jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True))(*map(jnp.asarray, data)), 1e-7)


def test_a_program_without_jit(compare):
    compare(
        lambda: bl.quadratic_program(2.0 * jnp.eye(3), -jnp.arange(3.0), G=jnp.ones((1, 3)), h=jnp.ones(1)).params, 1e-9
    )


@pytest.mark.parametrize("name", SETS)
def test_a_projection_and_its_derivative(compare, name):
    point = np.random.default_rng(1).normal(size=12)
    direction = np.random.default_rng(2).normal(size=12)
    compare(lambda: jax.jvp(SETS[name], (jnp.asarray(point),), (jnp.asarray(direction),)), 1e-9)


def test_a_short_run(compare):
    def compute():
        result = bl.Trainer(optimizer=optax.adam(0.1), steps=3).fit(
            logistic(data="iris", train=60, validation=40, stop=20)
        )
        assert result.summary["status"] == "completed"
        return result.hparams, np.array([line["outer/loss"] for line in result.metrics])

    compare(compute, 1e-7)


def test_samples_that_are_read_on_the_host(compare):
    x = np.random.default_rng(0).normal(size=(64, 5))
    data = bl.Streamed((x, x @ np.ones(5)))

    def error(params, hparams, batch):
        inputs, targets = batch.data
        return 0.5 * jnp.mean(batch.weight * (inputs @ params - targets) ** 2)

    def compute():
        task = bl.Task(
            inner=bl.InnerProblem(
                loss=lambda w, h, batch: error(w, h, batch) + 0.5 * jnp.exp(h) * w @ w,
                init=lambda key, h: jnp.zeros(5),
            ),
            outer_loss=error,
            init_hparams=lambda key: jnp.array(-2.0),
            batches=bl.minibatches(data, data, batch_size=16),
        )
        return bl.Trainer(optimizer=optax.adam(0.1), steps=3).fit(task).hparams

    compare(compute, 1e-7)
