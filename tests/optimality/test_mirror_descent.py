"""The mirror descent condition: its derivatives are those of the projected gradient, also at exact zeros."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.implicit import solve_system
from bilevel.optimality import Entropy, MirrorDescent, ProjectedGradient

ROWS, SIZE = 4, 6


def loss(w, h, batch):
    """Strongly convex, coupled across rows; the solution has zeros."""
    mixed = jnp.tanh(batch["mix"] @ w.reshape(-1)) + w.reshape(-1)
    return 0.5 * jnp.exp(h["log_weight"]) * jnp.sum(mixed**2) - jnp.sum(w * (h["tilt"] + batch["target"]))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "mix": jnp.array(0.05 * rng.normal(size=(ROWS * SIZE, ROWS * SIZE))),
        "target": jnp.array(0.6 * rng.normal(size=(ROWS, SIZE))),
    }


@pytest.fixture
def hparams():
    return {"log_weight": jnp.array(-0.3), "tilt": jnp.linspace(-0.2, 0.2, SIZE), "log_scale": jnp.array(0.4)}


def scale(h):
    return jnp.exp(h["log_scale"])


def projected_gradient():
    return ProjectedGradient(loss, lambda w, h, batch: bl.projections.simplex(w, scale(h)))


@jax.jit
def solve(hparams, batch):
    """The solution by projected gradient steps, with its exact zeros."""
    mapping = ProjectedGradient(loss, lambda w, h, b: bl.projections.simplex(w, scale(h)), step_size=0.8)
    return jax.lax.fori_loop(
        0, 200, lambda _, w: w + mapping(w, hparams, batch), jnp.full((ROWS, SIZE), scale(hparams) / SIZE)
    )


def solution(mapping, solve: Callable = solve):
    return bl.custom_root(mapping)(lambda init, h, b: solve(h, b))


def flat_jacobian(function, hparams, forward=False):
    flat, unravel = ravel_pytree(hparams)
    transform = jax.jacfwd if forward else jax.jacrev
    return transform(lambda v: function(unravel(v)))(flat)


def finite_differences(function, hparams, step=1e-5):
    flat, unravel = ravel_pytree(hparams)
    function = jax.jit(function)
    columns = [
        (function(unravel(flat + step * e)) - function(unravel(flat - step * e))) / (2 * step)
        for e in jnp.eye(flat.size)
    ]
    return jnp.stack(columns, axis=-1)


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("forward", [False, True])
def test_derivatives_at_exact_zeros_are_the_projected_gradients(hparams, batch, forward):
    w = solve(hparams, batch)
    zeros = np.sum(np.asarray(w) == 0, axis=-1)
    assert np.all(zeros > 0) and np.all(zeros < SIZE - 1)  # a proper face in every row
    mirror = MirrorDescent(loss, Entropy(scale))
    assert float(jnp.abs(mirror(w, hparams, batch)).max()) < 1e-14
    assert float(jnp.abs(mirror.natural_residual(w, hparams, batch)).max()) < 1e-14
    jacobian = flat_jacobian(lambda h: solution(mirror)(None, h, batch), hparams, forward)
    witness = flat_jacobian(lambda h: solution(projected_gradient())(None, h, batch), hparams, forward)
    assert_allclose(jacobian, witness, atol=1e-10)
    assert_allclose(jacobian, finite_differences(lambda h: solve(h, batch), hparams), atol=1e-8)


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("step_size", [1e-2, 1.0, 30.0])
def test_the_step_size_does_not_matter(hparams, batch, step_size):
    mirror = MirrorDescent(loss, Entropy(scale), step_size=step_size)
    jacobian = flat_jacobian(lambda h: solution(mirror)(None, h, batch), hparams)
    witness = flat_jacobian(lambda h: solution(projected_gradient())(None, h, batch), hparams)
    assert_allclose(jacobian, witness, atol=1e-9)


@pytest.mark.slow
def test_tiny_weights_off_the_support_are_zeros(hparams, batch):
    """A mirror descent solver leaves 1e-17 where the solution has 0: the support comes from the multipliers."""

    def tiny(h, b):
        w = solve(h, b)
        return jnp.where(w > 0, w, 1e-17)

    jacobian = flat_jacobian(lambda h: solution(MirrorDescent(loss, Entropy(scale)), tiny)(None, h, batch), hparams)
    witness = flat_jacobian(lambda h: solution(projected_gradient())(None, h, batch), hparams)
    assert_allclose(jacobian, witness, atol=1e-10)


def test_small_weights_on_the_support_do_not_spoil_the_system():
    """At w* = (1 - 2e-7, 1e-7, 1e-7) a system weighted by w would lose half of the digits."""
    target = jnp.array([1.0 - 2e-7, 1e-7, 1e-7])

    def quadratic(w, h):
        return 0.5 * jnp.sum((w - target - h) ** 2)

    def exact(init, h):
        return target + h - jnp.mean(h)

    jacobian = jax.jacrev(bl.custom_root(MirrorDescent(quadratic, Entropy()))(exact), argnums=1)(None, jnp.zeros(3))
    assert_allclose(jacobian, jnp.eye(3) - 1 / 3, atol=1e-8)


@pytest.mark.slow
def test_second_derivatives(hparams, batch):
    mirror = MirrorDescent(loss, Entropy(scale))

    def value(mapping):
        flat, unravel = ravel_pytree(hparams)
        return jax.hessian(lambda v: jnp.sum(jnp.sin(3 * solution(mapping)(None, unravel(v), batch))))(flat)

    assert_allclose(value(mirror), value(projected_gradient()), atol=1e-8)


def test_multipliers_off_the_support_are_checked():
    """F vanishes at every vertex; the natural residual only at the right one."""
    mirror = MirrorDescent(lambda w, t: 0.5 * jnp.sum((w - t) ** 2), Entropy())
    target = jnp.array([0.0, 2.0])
    wrong, right = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    assert_allclose(mirror(wrong, target), 0.0)
    assert float(jnp.linalg.norm(mirror.natural_residual(wrong, target))) > 0.5
    assert_allclose(mirror.natural_residual(right, target), 0.0)
    assert float(jnp.linalg.norm(mirror.natural_residual(jnp.array([0.0, 2.0]), target))) > 0.5  # not feasible


@pytest.mark.slow
def test_the_functional_form_is_the_geometric_one_in_the_interior(hparams, batch):
    def interior(w, h, b):  # an entropic term keeps the solution off the boundary
        return loss(w, h, b) + 2.0 * jnp.sum(jax.scipy.special.xlogy(w, w))

    functional = MirrorDescent(interior, lambda y, h, b: bl.projections.simplex_kl(y, scale(h)), jnp.log)
    geometric = MirrorDescent(interior, Entropy(scale))

    def solve(h, b):
        mapping = MirrorDescent(interior, Entropy(scale), step_size=0.2)
        start = jnp.full((ROWS, SIZE), scale(h) / SIZE)
        return jax.lax.fori_loop(0, 400, lambda _, w: w + mapping(w, h, b), start)

    w = solve(hparams, batch)
    assert_allclose(functional(w, hparams, batch), geometric(w, hparams, batch), atol=1e-12)
    jacobians = [
        flat_jacobian(lambda h, m=mapping: solution(m, solve)(None, h, batch), hparams)
        for mapping in (functional, geometric)
    ]
    assert_allclose(jacobians[0], jacobians[1], atol=1e-9)
    assert_allclose(jacobians[0], finite_differences(lambda h: solve(h, batch), hparams), atol=1e-7)


@pytest.mark.slow
def test_the_system_is_the_derivative(hparams, batch):
    """extend(b, y) with K y = restrict(b) solves A x = b for a dense A, for any right-hand side."""
    w = solve(hparams, batch)
    for mapping in (MirrorDescent(loss, Entropy(scale)), MirrorDescent(loss, Entropy(scale), step_size=0.1)):
        dense = jax.jacfwd(lambda v, m=mapping: m(v, hparams, batch))(w).reshape(w.size, w.size)
        rhs = jnp.array(np.random.default_rng(1).normal(size=w.shape))
        x = solve_system(mapping.system(w, hparams, batch), bl.Dense(), rhs)
        assert_allclose(dense @ x.reshape(-1), rhs.reshape(-1), atol=1e-9)


@pytest.mark.slow
def test_pytrees_vmap_and_float32(hparams, batch):
    def tree_loss(w, h, b):
        return loss(jnp.concatenate([w["a"], w["b"]]), h, b)

    def tree_solve(h, b):
        w = solve(h, b)
        return {"a": w[:1], "b": w[1:]}

    mirror = MirrorDescent(tree_loss, Entropy(scale))
    jacobian = jax.jacrev(lambda h: solution(mirror, tree_solve)(None, h, batch))(hparams)
    witness = jax.jacrev(lambda h: solution(projected_gradient())(None, h, batch))(hparams)
    for name in hparams:
        assert_allclose(jnp.concatenate([jacobian["a"][name], jacobian["b"][name]]), witness[name], atol=1e-10)

    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), hparams)
    gradient = jax.grad(lambda h: jnp.sum(solution(MirrorDescent(loss, Entropy(scale)))(None, h, batch) ** 3))
    batched = jax.vmap(gradient)(lanes)
    for lane in range(2):
        single = gradient(jax.tree.map(lambda leaf, lane=lane: leaf[lane], lanes))
        for name in hparams:
            assert_allclose(batched[name][lane], single[name], atol=1e-10)

    exact = gradient(hparams)
    with jax.enable_x64(False):
        single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (hparams, batch))
        gradient32 = jax.grad(
            lambda h: jnp.sum(solution(MirrorDescent(loss, Entropy(scale)))(None, h, single[1]) ** 3)
        )(single[0])
    for name in hparams:
        assert gradient32[name].dtype == jnp.float32
        assert_allclose(gradient32[name], exact[name], rtol=2e-3, atol=1e-4)


def test_a_projection_without_a_mirror_map_is_refused():
    mapping = MirrorDescent(lambda w: jnp.sum(w**2), bl.projections.simplex_kl)
    with pytest.raises(ValueError, match="no mirror map"):
        mapping(jnp.ones(3) / 3)
