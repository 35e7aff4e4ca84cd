"""Inner problems with flax networks: equal to hand-written ones, state carried, the derivative that of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.networks.floats import as_floats, from_floats

KEY = 3
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(12, 3)), RANDOM.normal(size=(12, 1))
HELD_X, HELD_Y = RANDOM.normal(size=(8, 3)), RANDOM.normal(size=(8, 1))
STEPS = 5


class Normalised(linen.Module):
    """Two layers with BatchNorm and dropout."""

    @linen.compact
    def __call__(self, x, train=False):
        x = linen.BatchNorm(use_running_average=not train, momentum=0.7)(linen.Dense(4)(x))
        x = linen.Dropout(0.3, deterministic=not train)(jnp.tanh(x))
        return linen.Dense(1)(x)


class NormalisedNNX(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.7, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(jnp.tanh(self.norm(self.first(x)))))


def ridge(model, hparams, batch, **mode):
    x, y = batch
    weights = model.variables["params"] if isinstance(model, linen.Module) else nnx.state(model, nnx.Param)
    size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(weights))
    return jnp.mean((model(x, **mode) - y) ** 2) + jnp.exp(hparams) * size


def linen_loss(model, hparams, batch):
    return ridge(model, hparams, batch, train=True)


def outer_loss(params, hparams, batch):
    model = params.model()
    return jnp.mean((model(batch[0]) - batch[1]) ** 2)


def task_of(inner, outer=outer_loss):
    return bl.Task(
        inner=inner,
        outer_loss=outer,
        init_hparams=lambda key: jnp.array(-3.0),
        batches=bl.full_batch((X, Y), (HELD_X, HELD_Y)),
    )


def problems():
    """One problem of each kind of module, with BatchNorm, dropout and minibatches; in training mode at both levels."""
    settings = {"optimizer": optax.sgd(0.1, momentum=0.5), "batch_size": 7}
    yield bl.networks.inner_problem(Normalised(), linen_loss, example=(X,), streams=("dropout",), **settings)
    yield bl.networks.inner_problem(lambda rngs: NormalisedNNX(rngs), ridge, **settings)


@pytest.mark.slow
def test_a_network_without_state_is_the_hand_written_problem():
    module = linen.Dense(1)
    inner = bl.networks.inner_problem(module, ridge, optax.sgd(0.2), example=(X,), tol=1e-10, max_steps=5000)

    def loss(weights, hparams, batch):
        size = jnp.sum(weights["kernel"] ** 2) + jnp.sum(weights["bias"] ** 2)
        return jnp.mean((batch[0] @ weights["kernel"] + weights["bias"] - batch[1]) ** 2) + jnp.exp(hparams) * size

    by_hand = bl.InnerProblem(
        loss=loss,
        init=lambda key, hparams: {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)},
        solver=bl.Optax(optax.sgd(0.2), tol=1e-10, max_steps=5000),
    )
    plain = lambda weights, hparams, batch: jnp.mean((batch[0] @ weights["kernel"] + weights["bias"] - batch[1]) ** 2)
    found = bl.hypergradient(task_of(inner), jnp.array(-3.0), bl.Implicit())
    expected = bl.hypergradient(task_of(by_hand, plain), jnp.array(-3.0), bl.Implicit())
    assert_allclose(found[0], expected[0], rtol=1e-8)
    assert_allclose(found[1], expected[1], rtol=1e-8)
    assert found[2].status.name == "converged"
    assert jax.tree.structure(found[2].params.weights) == jax.tree.structure(expected[2].params)


@pytest.mark.slow
def test_the_state_is_that_of_a_hand_written_loop():
    module = Normalised()
    fixed = module.init(jax.random.key(0), X)["params"]  # because flax draws in float32, where a compiled draw differs
    inner = bl.networks.inner_problem(
        module, linen_loss, optax.sgd(0.1), example=(X,), streams=("dropout",), start=lambda drawn, hparams: fixed
    )
    first = inner.init(jax.random.key(KEY), -3.0)
    weights, carried = first.weights, first.carried.network
    for _ in range(STEPS):
        rngs = {"dropout": jax.random.fold_in(jax.random.split(carried["key"])[1], 0)}

        def loss(weights, carried=carried, rngs=rngs):
            variables = {"params": weights, "batch_stats": carried["batch_stats"]}
            out, moved = module.apply(variables, X, train=True, mutable=["batch_stats"], rngs=rngs)
            size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(weights))
            return jnp.mean((out - Y) ** 2) + jnp.exp(-3.0) * size, moved

        slopes, moved = jax.grad(loss, has_aux=True)(weights)
        weights = jax.tree.map(lambda w, g: w - 0.1 * g, weights, slopes)
        carried = {"batch_stats": moved["batch_stats"], "key": jax.random.split(carried["key"])[0]}
    engine = bl.Unrolled(steps=STEPS)
    params = bl.hypergradient(task_of(inner), jnp.array(-3.0), engine, key=jax.random.key(KEY))[2].params
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-6, atol=1e-7), params.weights, weights)  # float32
    jax.tree.map(
        lambda a, b: assert_allclose(a, b, rtol=1e-6),
        params.carried.network["batch_stats"],
        carried["batch_stats"],
    )
    assert jnp.all(jax.random.key_data(params.carried.network["key"]) == jax.random.key_data(carried["key"]))


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow, id="linen"), pytest.param(1, id="nnx")])
def test_the_hypergradient_through_training_is_the_derivative(number):
    """With BatchNorm, dropout and minibatches. The outer loss is in training mode, because the running statistics of
    evaluation mode are carried and have the derivative zero."""
    inner = list(problems())[number]

    def outer(params, hparams, batch):
        model = params.model(training=True)
        return jnp.mean((model(batch[0], **({"train": True} if number == 0 else {})) - batch[1]) ** 2)

    task, engine, key = task_of(inner, outer), bl.Unrolled(steps=STEPS), jax.random.key(KEY)
    at = lambda h: bl.hypergradient(task, jnp.array(h), engine, key=key)
    _, grad, report = at(-3.0)
    assert report.status.name == "truncated" and int(report.inner_steps) == STEPS
    assert_allclose(grad, (at(-3.0 + 1e-5)[0] - at(-3.0 - 1e-5)[0]) / 2e-5, rtol=1e-7)
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), report.params.state, inner.init(key, -3.0).state)
    assert all(jax.tree.leaves(moved.network["norm" if number else "batch_stats"])), "the statistics moved"


@pytest.mark.slow
def test_the_implicit_hypergradient_leaves_the_state_out():
    class Smooth(linen.Module):
        @linen.compact
        def __call__(self, x, train=False):
            return linen.Dense(1)(linen.BatchNorm(use_running_average=not train, momentum=0.5)(x))

    inner = bl.networks.inner_problem(Smooth(), linen_loss, optax.sgd(0.3), example=(X,), tol=1e-9)

    def outer(params, hparams, batch):
        return jnp.mean((params.model()(batch[0], train=True) - batch[1]) ** 2)

    task, engine = task_of(inner, outer), bl.Implicit(linear_solve=bl.CG(tol=1e-12))
    at = lambda h: bl.hypergradient(task, jnp.array(h), engine)
    _, grad, report = at(-3.0)
    assert report.status.name == "converged"
    assert_allclose(grad, (at(-3.0 + 1e-4)[0] - at(-3.0 - 1e-4)[0]) / 2e-4, rtol=1e-6)
    jacobian = jax.jacobian(lambda h: inner.solve(h, (X, Y)).params)(-3.0)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(jacobian.state))
    assert all(jnp.all(leaf != 0) for leaf in jax.tree.leaves(jacobian.weights["Dense_0"]["bias"]))
    mean = report.params.carried.network["batch_stats"]["BatchNorm_0"]["mean"]
    assert_allclose(mean, X.mean(axis=0), rtol=1e-6)  # the running average has reached the batch's


@pytest.mark.slow
def test_a_run_carries_the_state_and_logs_the_metrics():
    def loss(model, hparams, batch):
        value = linen_loss(model, hparams, batch)
        return value, {"half": 0.5 * value}

    inner = bl.networks.inner_problem(
        Normalised(), loss, optax.sgd(0.1), example=(X,), streams=("dropout",), has_aux=True
    )
    outer = bl.Measured(lambda w, h, batch: (outer_loss(w, h, batch), {"size": jnp.sum(w.weights["Dense_1"]["bias"])}))
    trainer = bl.Trainer(optimizer=optax.adam(0.1), engine=bl.Unrolled(steps=STEPS), steps=2)
    result = trainer.fit(task_of(inner, outer), key=jax.random.key(KEY))
    model = result.params.model()
    assert_allclose(jnp.mean((model(HELD_X) - HELD_Y) ** 2), result.summary["best_outer_loss"], rtol=1e-10)
    assert all(line["train/half"] > 0 and "validation/size" in line for line in result.metrics)
    assert "train_half" in result.summary


@pytest.mark.slow
def test_weights_may_start_at_hyperparameters_and_steps_may_be_learned():
    inner = bl.networks.inner_problem(
        linen.Dense(1),
        lambda model, hparams, batch: jnp.mean((model(batch[0]) - batch[1]) ** 2),
        lambda hparams: optax.sgd(jnp.exp(hparams["rate"])),
        example=(X,),
        start=lambda weights, hparams: hparams["weights"],
    )
    hparams = {"rate": jnp.log(0.1), "weights": {"kernel": jnp.ones((3, 1)), "bias": jnp.zeros(1)}}
    value, grad, _ = bl.hypergradient(task_of(inner), hparams, bl.Unrolled(steps=1))

    def by_hand(hparams):
        loss = lambda w, x, y: jnp.mean((x @ w["kernel"] + w["bias"] - y) ** 2)
        slopes = jax.grad(loss)(hparams["weights"], X, Y)
        stepped = jax.tree.map(lambda w, g: w - jnp.exp(hparams["rate"]) * g, hparams["weights"], slopes)
        return loss(stepped, HELD_X, HELD_Y)

    expected = jax.value_and_grad(by_hand)(hparams)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-10), (value, grad), expected)


def test_products_take_factors_of_bfloat16_on_request():
    """In the program; XLA on a CPU multiplies in float32 all the same."""
    with jax.enable_x64(False):
        for products, rounded in (("float32", False), ("bfloat16", True)):
            loss = lambda model, hparams, batch: jnp.sum(model(batch) ** 2)
            inner = bl.networks.inner_problem(linen.Dense(2), loss, example=(jnp.ones((2, 3)),), products=products)
            program = jax.jit(inner.loss).lower(inner.init(jax.random.key(0), 0.0), 0.0, jnp.ones((2, 3))).as_text()
            assert ("lhs_precision_type = bf16" in program) == rounded


def test_keys_and_counters_survive_as_numbers():
    tree = {
        "key": jax.random.key(7),
        "count": jnp.uint32(2**32 - 3),
        "below": jnp.int32(-5),
        "flag": jnp.bool_(True),
        "wide": jnp.arange(-2, 2, dtype=jnp.int64) * 2**40,
        "mean": jnp.arange(3.0),
    }
    for x64 in (True, False):
        with jax.enable_x64(x64):
            kept = {name: leaf for name, leaf in tree.items() if x64 or name != "wide"}
            numbers = as_floats(kept)
            assert {leaf.dtype for leaf in jax.tree.leaves(numbers)} == {jnp.result_type(float)}
            back = from_floats(numbers, kept)
            assert jnp.all(jax.random.key_data(back.pop("key")) == jax.random.key_data(kept.pop("key")))
            assert all(
                jnp.all(back[name] == leaf) and back[name].dtype == leaf.dtype
                for name, leaf in kept.items()
                if name != "mean"
            )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"module": 3}, "is no network"),
        ({"module": lambda rngs: nnx.Linear(1, 1, rngs=rngs), "streams": ("dropout",)}, "Leave streams out"),
        ({"module": linen.Dense(1), "products": "int8"}, "products='int8'"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(ValueError, match=words):
        bl.networks.inner_problem(loss=linen_loss, **settings)


def test_a_minibatch_larger_than_the_data_is_refused():
    inner = bl.networks.inner_problem(linen.Dense(1), ridge, example=(X,), batch_size=100)
    with pytest.raises(ValueError, match="batch_size=100"):
        inner.solve(-3.0, (X, Y))
