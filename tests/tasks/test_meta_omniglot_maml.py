"""Implicit MAML on characters: the network against flax's, the hypergradient against the formula, and it learns."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.networks.convolutional import SmoothConvolutional
from bilevel.tasks import meta_omniglot_maml
from bilevel.tasks.adaptation import Adaptation

SMALL: dict[str, Any] = {
    "data": "digits", "way": 3, "shots": 2, "queries": 2, "lanes": 2, "held_out": 4, "rotations": False, "pool": 1,
    "test_episodes": 20, "channels": 2, "depth": 2,
}  # fmt: skip
EXACT = {**SMALL, "precision": "float64", "tol": 1e-11}


def test_a_block_is_the_convolution_of_flax():
    """Also on images of odd and unequal sides, and with weights of its own in each lane."""

    class Expected(linen.Module):
        @linen.compact
        def __call__(self, images):
            x = images[..., None]
            for number in range(2):
                x = linen.silu(
                    linen.GroupNorm(num_groups=3)(
                        linen.Conv(3, (3, 3), use_bias=False, name=f"convolution_{number}")(x)
                    )
                )
                x = linen.avg_pool(x, (2, 2), (2, 2))
            return linen.Dense(4)(x.reshape(len(x), -1))

    images = jax.random.normal(jax.random.key(0), (2, 5, 7, 4))
    network = SmoothConvolutional((3, 3), outputs=4)
    weights: Any = jax.vmap(lambda key: network.init(key, images[0]))(jax.random.split(jax.random.key(1), 2))
    own = weights["params"]
    renamed = {"Dense_0": own["outputs"]}
    for number, width in enumerate((1, 3)):
        block = own[f"block_{number}"]
        kernel = block["kernel"].reshape(2, 3, 3, width, 3)
        renamed[f"convolution_{number}"] = {"kernel": kernel}
        renamed[f"GroupNorm_{number}"] = {"scale": own[f"block_{number}_scale"], "bias": own[f"block_{number}_shift"]}
    found: Any = jax.vmap(network.apply)(weights, images)
    for lane in range(2):
        theirs = jax.tree.map(lambda leaf, lane=lane: leaf[lane], renamed)
        expected: Any = Expected().apply({"params": theirs}, images[lane])
        assert_allclose(found[lane], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_hypergradient_is_the_formula_of_implicit_maml():
    """mean_t (I + H_t / proximity)^{-1} grad_t, H_t the Hessian of the support loss of episode t, grad_t the slope of
    its query loss, both at the adapted weights. No damping stands in the system."""
    proximity = 2.0
    task = meta_omniglot_maml(**EXACT, proximity=proximity, rates="fixed", rate=1.0, head_rate=1.0)
    hparams = task.init_hparams(jax.random.key(0))
    support, drawn = task.batches(jax.random.key(1), 0)
    _, grad, report = bl.hypergradient(task, hparams, bl.Implicit(linear_solve=bl.CG()), batch=(support, drawn))
    assert report.status.name == "converged"
    network = SmoothConvolutional((2, 2), outputs=3)
    flat, unravel = ravel_pytree(hparams.weights)
    known = jnp.repeat(jnp.arange(3), 2)

    def entropy(weights, images):
        logits: Any = network.apply({"params": unravel(weights)}, images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, known))

    expected, first_order = jnp.zeros_like(flat), jnp.zeros_like(flat)
    for lane in range(2):
        adapted = flat + ravel_pytree(jax.tree.map(lambda leaf, lane=lane: leaf[lane], report.params))[0]
        pull = proximity * (adapted - flat) + jax.grad(entropy)(adapted, support[lane])
        assert jnp.max(jnp.abs(pull)) < 1e-9
        system = jnp.eye(len(flat)) + jax.hessian(entropy)(adapted, support[lane]) / proximity
        slope = jax.grad(entropy)(adapted, drawn.query[lane])
        expected += jnp.linalg.solve(system, slope) / 2
        first_order += slope / 2
    found = ravel_pytree(grad.weights)[0]
    assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert jnp.linalg.norm(expected - first_order) > 0.02 * jnp.linalg.norm(expected)  # what damping would leave


@pytest.mark.slow
@pytest.mark.parametrize("method", [{"rates": "layer"}, {"rates": "each"}, {"adapt": "head"}])
def test_the_hypergradient_is_that_of_differences(method, agrees_with_differences):
    task = meta_omniglot_maml(**EXACT, proximity=0.5, rate=0.3, head_rate=1.0, **method)
    agrees_with_differences(task, task.init_hparams(jax.random.key(1)), rtol=1e-5, step=1e-3)


def test_rates_by_layer_are_numbers_that_move_the_weights_of_their_array():
    adaptation = Adaptation(SmoothConvolutional((2,), outputs=2), "head", 1.0, 0.25)
    hparams = adaptation.first(jax.random.key(0), "layer", (4, 4))
    assert {name: jnp.shape(leaf) for name, leaf in hparams.log_rates["outputs"].items()} == {"kernel": (), "bias": ()}
    ones = jax.tree.map(jnp.ones_like, adaptation.start(hparams, 3))
    moved = adaptation.weights(ones, hparams)["params"]
    assert_allclose(moved["outputs"]["kernel"] - hparams.weights["outputs"]["kernel"], 0.5, rtol=1e-5)
    assert_allclose(moved["block_0"]["kernel"][2], hparams.weights["block_0"]["kernel"])


@pytest.mark.slow
def test_training_raises_the_accuracy_on_classes_that_it_has_not_seen(drawn):
    """From a rate at which the first weights adapt little. 101 test episodes do not fill the last of their lanes."""
    task = meta_omniglot_maml(**{**SMALL, "shots": 1, "test_episodes": 101, "lanes": 4, "channels": 16}, head_rate=0.1)
    trainer = bl.Trainer(optimizer=optax.adam(3e-3), engine=bl.Implicit(linear_solve=bl.CG()), steps=60)
    result = trainer.fit(task)
    summary = result.summary
    assert summary["test_accuracy"] > summary["baseline_untrained"] + 0.1
    assert 0 < summary["test_accuracy_ci95"] < 0.1 and summary["test_converged"] > 0.9
    assert 1 / 3 < summary["baseline_nearest_image"] <= 1
    assert drawn(task, result) == {"queries"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"way": 1}, "way=1"),
        ({"way": 5}, "lower way"),
        ({"shots": 500}, "need 502 images of a class"),
        ({"pool": 3}, "task.pool=3"),
        ({"depth": 0}, "depth=0"),
        ({"channels": 12}, "task.channels=12"),
        ({"proximity": 0.0}, "task.proximity, task.rate, task.head_rate and task.tol must be positive"),
        ({"rate": -1.0}, "must be positive"),
        ({"head_rate": 0.0}, "must be positive"),
        ({"tol": float("nan")}, "must be positive"),
        ({"adapt": "tail"}, "task.adapt=tail: choose one of all, head"),
        ({"rates": "some"}, "task.rates=some: choose one of each, layer, fixed"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(ValueError, match=words):
        meta_omniglot_maml(**{**SMALL, **settings})
