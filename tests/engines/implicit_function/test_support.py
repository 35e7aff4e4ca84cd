"""Hypergradients of sparse solutions, computed in the rows that they use: those of the plain path, cheaper."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO

import bilevel as bl
from bilevel.engines import Carry, Point
from bilevel.engines.implicit_function import support

KEYS = jax.random.split(jax.random.key(4), 4)
SAMPLES, FEATURES = 24, 600


@functools.cache
def data():
    with jax.enable_x64(True):
        x, v = (jax.random.normal(key, (SAMPLES, FEATURES)) for key in KEYS[:2])
        return (x, x[:, :5].sum(axis=1)), (v, v[:, :5].sum(axis=1))


def squares(z, w, h, batch):
    return 0.5 * jnp.mean((z - batch[1]) ** 2)


CASES = {
    "one weight": (bl.L1(weight=jnp.exp), np.array(-2.0)),
    "a weight each": (bl.L1(weight=jnp.exp), np.linspace(-2.0, -1.0, FEATURES)),
    "elastic net": (bl.ElasticNet(l1=jnp.exp, l2=jnp.exp), np.array(-2.0)),
    "a box that moves": (bl.Box(lower=-0.01, upper=jnp.exp), np.array(-5.0)),  # no row can be left out
}


def problem(name, opaque=False, accuracy="estimate", design=lambda batch: batch[0]):
    term, _ = CASES[name]
    loss = bl.Linear(design, squares)
    plain = lambda w, h, batch: squares(design(batch) @ w, w, h, batch)
    field = "constraint" if "box" in name else "penalty"
    inner = bl.InnerProblem(
        loss=plain if opaque else loss,
        init=lambda key, h: jnp.zeros(FEATURES),
        solver=bl.ProximalNewton(tol=1e-12) if opaque else bl.Auto(tol=1e-12),
        **{field: term},
    )
    task = bl.Task(
        inner=inner,
        outer_loss=plain if opaque else loss,
        init_hparams=lambda key: CASES[name][1],
        batches=bl.full_batch(*data()),
    )
    engine = bl.Implicit(accuracy=accuracy, linear_solve=bl.Dense() if opaque else bl.AutoLinear())
    return task, engine


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_equals_the_plain_path(name):
    hparams = CASES[name][1]
    task, engine = problem(name, accuracy="residual")
    value, grad, report = bl.hypergradient(task, hparams, engine)
    plain = bl.hypergradient(*((problem(name, opaque=True, accuracy="residual"))[0], hparams), engine)
    assert report.status.name == "converged"
    np.testing.assert_allclose(value, plain[0], rtol=1e-9)
    np.testing.assert_allclose(grad, plain[1], atol=1e-9 * float(jnp.linalg.norm(plain[1])))
    again = bl.hypergradient(task, hparams, engine, carry=report.carry)
    np.testing.assert_allclose(again[1], grad, atol=1e-10)


@pytest.mark.slow
def test_the_estimate_sees_all_faces():
    name = "one weight"
    _, grad, report = bl.hypergradient(problem(name)[0], CASES[name][1], bl.Implicit())
    _, plain, expected = bl.hypergradient(problem(name, opaque=True)[0], CASES[name][1], bl.Implicit())
    assert report.error_grade == expected.error_grade == "estimate"
    assert report.weakly_active == expected.weakly_active == 0
    assert 0 < report.margin <= 10 * expected.margin
    np.testing.assert_allclose(grad, plain, rtol=1e-8)


FEW = np.where(np.arange(FEATURES) < 3, 0.1, 0.0)


def test_rows_of_a_simplex_are_never_zero_so_that_none_is_left_out():
    """Gathering would compile the hypergradient once a size, for nothing."""

    def gathers(part, term):
        inner = bl.InnerProblem(loss, lambda key, h: jnp.full((FEATURES, 2), 0.5), **{part: term})
        task = bl.Task(inner, loss, lambda key: jnp.zeros(()), bl.full_batch(*data()))
        point = Point(jnp.zeros(()), *data(), jax.random.key(0))
        return support.has_support(task, point, jnp.full((FEATURES, 2), 0.5))

    loss = bl.Linear(lambda batch: batch[0], lambda z, w, h, batch: 0.5 * jnp.sum(z**2))
    assert gathers("penalty", bl.GroupLasso(jnp.exp))
    assert not gathers("constraint", bl.Simplex())


def test_rows_that_move_are_used():
    def used(name, hparams):
        point = Point(hparams, *data(), jax.random.key(0))
        return int(jnp.sum(support.used_rows(problem(name)[0], point, jnp.asarray(FEW))[0]))

    assert used("one weight", jnp.array(2.0)) == 3
    assert used("a box that moves", jnp.array(-5.0)) == FEATURES


@pytest.mark.slow
def test_at_any_iterate_the_gradient_of_the_plain_path():
    def at(opaque):
        task, _ = problem("one weight", opaque)
        levels = replace(task, inner=task.inner.with_solver(bl.ProximalGradient(max_steps=0)))
        engine = bl.Implicit(accuracy="residual", linear_solve=bl.CG())
        point = Point(jnp.array(2.0), *data(), jax.random.key(0))
        return jax.jit(lambda: engine.hypergradient(levels, point, Carry(jnp.asarray(FEW), jnp.zeros(FEATURES))))()

    _, grad, report = at(opaque=False)
    np.testing.assert_allclose(grad, at(opaque=True)[1], rtol=1e-9)
    assert report.carry.params.shape == report.carry.adjoint.shape == (FEATURES,)


@pytest.mark.slow
def test_vmap_and_sparse_designs():
    name = "one weight"
    (x, y), validation = data()
    task, engine = problem(name, accuracy="residual")
    hparams = jnp.array([-1.0, -2.0])
    one = lambda h, batch: bl.hypergradient(task, h, engine, batch=batch)[1]
    batched = jax.jit(jax.vmap(lambda h: one(h, data())))(hparams)
    design = BCOO.fromdense(x)
    for h, grad in zip(hparams, batched, strict=True):
        np.testing.assert_allclose(grad, one(h, data()), rtol=1e-8)
        np.testing.assert_allclose(one(h, ((design, y), validation)), grad, rtol=1e-8)


@pytest.mark.slow
def test_float32():
    name = "one weight"
    exact = bl.hypergradient(problem(name)[0], CASES[name][1], bl.Implicit())[1]
    with jax.enable_x64(False):
        single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), data())
        task = replace(problem(name)[0], precision="float32")
        engine = bl.Implicit(on_failure="warn")
        grad = bl.hypergradient(task, jnp.float32(-2.0), engine, batch=single)[1]
    assert grad.dtype == jnp.float32
    np.testing.assert_allclose(grad, exact, rtol=1e-3)


@functools.cache
def large(samples=2000, features=100_000, density=1e-3):
    """A sparse problem whose dense design would take 1.6 GB."""
    rng = np.random.default_rng(0)

    def half():
        entries = round(samples * features * density)
        places = np.stack([rng.integers(samples, size=entries), rng.integers(features, size=entries)], axis=1)
        design = BCOO((jnp.asarray(rng.standard_normal(entries)), jnp.asarray(places)), shape=(samples, features))
        target = design @ jnp.asarray(np.where(np.arange(features) < 20, 3.0, 0.0))
        return design, target + 0.1 * jnp.asarray(rng.standard_normal(samples))

    return half(), half()


def on_host(design):
    entries = (np.asarray(design.data), np.asarray(design.indices).T)
    return bl.HostMatrix(scipy.sparse.coo_array(entries, shape=design.shape))


@pytest.mark.slow
@pytest.mark.parametrize("kept", [lambda design: design, on_host])
def test_a_sparse_design_of_100_000_columns(kept):
    (x, y), (v, t) = large()
    samples = x.shape[0]
    loss = bl.Linear(lambda batch: batch[0], squares)
    inner = bl.InnerProblem(loss, lambda key, h: jnp.zeros(x.shape[1]), penalty=bl.L1(weight=jnp.exp))
    halves = [(kept(design), target) for design, target in large()]
    task = bl.Task(inner, outer_loss=loss, init_hparams=lambda key: jnp.zeros(()), batches=bl.full_batch(*halves))
    at = jnp.log(0.3 * jnp.max(jnp.abs(y @ x)) / samples)
    engine = bl.Implicit(accuracy="residual")
    program = jax.jit(lambda h: bl.hypergradient(task, h, engine)).lower(at).compile()
    memory = program.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 0.25 * 8 * x.shape[0] * x.shape[1]
    _, grad, report = program(at)
    params = np.asarray(report.params)
    slope = np.asarray((x @ params - y) @ x) / samples
    support = np.flatnonzero(params)
    assert report.status.name == "converged" and 10 <= support.size <= 500
    np.testing.assert_allclose(slope[support], -np.exp(at) * np.sign(params[support]), rtol=1e-8)
    assert np.max(np.abs(slope)) <= np.exp(at) * (1 + 1e-8)
    unit = jnp.zeros((x.shape[1], support.size)).at[support, jnp.arange(support.size)].set(1)
    columns, held_out = np.asarray(x @ unit), np.asarray(v @ unit)
    rest = held_out.T @ (held_out @ params[support] - t) / samples
    adjoint = np.linalg.solve(columns.T @ columns / samples, rest)
    np.testing.assert_allclose(grad, -np.exp(at) * np.sign(params[support]) @ adjoint, rtol=1e-7)
