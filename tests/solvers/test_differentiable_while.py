"""The loop with a reverse mode of its own, against the same steps written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.solvers.differentiable_while import differentiable_while, segment_length

AT = np.array([0.7, -0.4, 0.2])


def moved(x, hparams, data):
    return jnp.sin(data @ x) * hparams + 0.1


def looped(hparams, data, most, used):
    """At most ``most`` steps that end after ``used``, on a state with an integer, a boolean and a key in it."""

    def advance(state):
        x, number, even, key = state
        return (moved(x, hparams, data), number + 1, ~even, key), number + 1 < used

    begin = (0.3 * hparams, jnp.int32(0), jnp.bool_(True), jax.random.key(0))
    return differentiable_while(advance, begin, jnp.bool_(used > 0), most)


def written_out(hparams, data, used):
    x = 0.3 * hparams
    for _ in range(used):
        x = moved(x, hparams, data)
    return x


def total(loop):
    return lambda *args: jnp.sum(loop(*args) ** 3)


DATA = np.random.default_rng(0).normal(size=(3, 3))


@pytest.mark.parametrize(("most", "used"), [(0, 0), (1, 1), (9, 9), (10, 7), (50, 4), (7, 0)])
def test_values_and_derivatives_are_those_of_the_steps(most, used):
    ours = total(lambda h, data: looped(h, data, most, used)[0])
    theirs = total(lambda h, data: written_out(h, data, used))
    np.testing.assert_allclose(jax.jit(ours)(AT, DATA), theirs(AT, DATA), rtol=1e-14)
    for one, other in zip(
        jax.jit(jax.grad(ours, argnums=(0, 1)))(AT, DATA), jax.grad(theirs, argnums=(0, 1))(AT, DATA), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    assert int(looped(AT, DATA, most, used)[1]) == used


@pytest.mark.slow
def test_second_derivatives_and_batches():
    ours = total(lambda h: looped(h, DATA, 9, 5)[0])
    theirs = total(lambda h: written_out(h, DATA, 5))
    np.testing.assert_allclose(jax.jacfwd(jax.grad(ours))(AT), jax.hessian(theirs)(AT), rtol=1e-11)
    lanes = np.stack([AT, 0.5 * AT])
    np.testing.assert_allclose(jax.vmap(jax.grad(ours))(lanes), jax.vmap(jax.grad(theirs))(lanes), rtol=1e-12)
    summed = jax.grad(lambda lanes: jnp.sum(jax.vmap(ours)(lanes)))(lanes)
    np.testing.assert_allclose(summed, jax.vmap(jax.grad(theirs))(lanes), rtol=1e-12)


def test_lanes_stop_each_in_its_own_time():
    def value(hparams, used):
        advance = lambda state: ((moved(state[0], hparams, DATA), state[1] + 1), state[1] + 1 < used)
        return jnp.sum(differentiable_while(advance, (hparams, jnp.int32(0)), jnp.bool_(True), 20)[0])

    found = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))(AT, jnp.array([1, 4, 9]))
    for lane, used in zip(found, (1, 4, 9), strict=True):
        np.testing.assert_allclose(lane, jax.grad(value)(AT, used), rtol=1e-12)


def test_single_precision():
    with jax.enable_x64(False):
        slope = jax.grad(lambda h: jnp.sum(looped(h, jnp.asarray(DATA, jnp.float32), 9, 5)[0]))(AT.astype(np.float32))
    assert slope.dtype == jnp.float32
    exact = jax.grad(lambda h: jnp.sum(written_out(h, DATA, 5)))(AT)
    np.testing.assert_allclose(slope, exact, rtol=2e-5)


def test_steps_that_were_not_taken_are_not_differentiated():
    """The step after the last would divide by zero, and so would its derivative."""

    def value(h):
        advance = lambda x: (h * jnp.sqrt(x - 1.0) + 1.0, x > 2.0)
        return differentiable_while(advance, jnp.float64(5.0), jnp.bool_(True), 100)

    assert np.isfinite(jax.grad(value)(0.5))


def test_only_states_are_stored_never_data():
    """What reverse mode adds to the memory of the loop does not depend on the size of the data."""
    steps, unknowns = 400, 4

    def extra(samples):
        data = jax.ShapeDtypeStruct((samples, unknowns), jnp.float64)

        def value(h, data):
            slope = lambda w: data.T @ jnp.tanh(data @ w) / samples + h * w
            advance = lambda w: (w - 0.1 * slope(w), jnp.max(jnp.abs(w)) > 1e-9)
            return jnp.sum(differentiable_while(advance, jnp.ones(unknowns), jnp.bool_(True), steps))

        used = jax.jit(jax.grad(value)).lower(1.0, data).compile().memory_analysis()
        assert used is not None
        return used.temp_size_in_bytes, samples * unknowns * 8

    small, large = extra(100), extra(100_000)
    assert large[0] - small[0] <= 3 * large[1]  # a few copies of what a step works on
    assert large[0] < segment_length(steps) * large[1] / 5


@pytest.mark.slow
def test_group_lasso_by_blocks_has_a_derivative():
    """A residual that is zero has no derivative: the stopping rule's is not taken."""
    loss = bl.Linear(design=lambda batch: batch, loss=lambda z, w, h, batch: 0.5 * jnp.sum((z - 1.0) ** 2))
    inner = bl.InnerProblem(
        loss=loss,
        init=lambda key, h: jnp.zeros((2, 2)),
        penalty=bl.GroupLasso(jnp.exp),
        solver=bl.BlockCoordinateDescent(max_steps=20),
    )
    task = bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: jnp.sum(w**2),
        init_hparams=lambda key: jnp.array(-1.0),
        batches=bl.full_batch(jnp.eye(2), None),
    )
    _, grad, _ = bl.hypergradient(task, jnp.array(-1.0), bl.Unrolled())
    weight = np.exp(-1.0)  # w = 1 - weight / sqrt(2), four times
    np.testing.assert_allclose(grad, 4 * 2 * (1 - weight / np.sqrt(2)) * -weight / np.sqrt(2), rtol=1e-10)


def test_reverse_mode_twice_is_refused_with_the_remedy():
    ours = total(lambda h: looped(h, DATA, 9, 5)[0])
    with pytest.raises(TypeError, match="forward mode: jax.jacfwd"):
        jax.eval_shape(jax.jacrev(jax.grad(ours)), AT)


def test_what_is_only_walked_takes_the_form_that_forward_mode_takes():
    @jax.custom_vjp
    def cubed(x):
        return x**3

    cubed.defvjp(lambda x: (x**3, x), lambda x, slope: (3 * x**2 * slope,))

    def value(h, step, walk):
        going = lambda step: lambda x: (h * jnp.sin(step(x)), x > 1e-6)
        return differentiable_while(going(step), jnp.sin(h), jnp.bool_(True), 3, walk and going(walk))

    curvature = lambda h, *steps: jax.jvp(lambda h: jax.grad(value)(h, *steps), (h,), (1.0,))[1]
    plainly = lambda x: x**3
    np.testing.assert_allclose(curvature(0.9, cubed, plainly), curvature(0.9, plainly, None), rtol=1e-12)
    with pytest.raises(TypeError, match="custom_vjp"):
        curvature(0.9, cubed, None)
