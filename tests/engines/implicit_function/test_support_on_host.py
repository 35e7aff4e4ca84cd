"""Sparse solutions with a design on the host: as with the dense design, by products with the columns in use."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import bilevel as bl
from bilevel.solvers.first_order import ranking, rows

SAMPLES, FEATURES = 40, 600
RNG = np.random.default_rng(3)


@functools.cache
def designs():
    """Training and validation."""
    made = [scipy.sparse.random(SAMPLES, FEATURES, density=0.2, rng=s, format="csc") for s in (0, 1)]
    return [matrix.multiply(np.sqrt(5)).tocsc() for matrix in made]


def squares(z, w, h, batch):
    return 0.5 * jnp.mean((z - batch[1]) ** 2)


def logistic(z, w, h, batch):
    return jnp.mean(jnp.logaddexp(0.0, -jnp.sign(batch[1]) * z))


CASES = {
    "one weight": (bl.L1(weight=jnp.exp), squares, np.array(-2.5), ()),
    "a weight each": (bl.L1(weight=jnp.exp), squares, np.linspace(-3.0, -2.0, FEATURES), ()),
    "elastic net": (bl.ElasticNet(l1=jnp.exp, l2=jnp.exp), squares, np.array(-2.5), ()),
    "logistic": (bl.L1(weight=jnp.exp), logistic, np.array(-4.0), ()),
    "groups": (bl.GroupLasso(weight=jnp.exp), squares, np.array(-2.0), (2,)),
}


def problem(name, on_host, tol=1e-12):
    term, loss, start, columns = CASES[name]
    wrapped = [bl.HostMatrix(x) if on_host else jnp.asarray(x.toarray()) for x in designs()]
    truth = np.zeros((FEATURES, *columns))
    truth[:5] = 1.0
    noise = 0.1 * np.random.default_rng(4).standard_normal((SAMPLES, *columns))
    batches = [(x, jnp.asarray(plain @ truth + noise)) for x, plain in zip(wrapped, designs(), strict=True)]
    loss = bl.Linear(lambda batch: batch[0], loss)
    shape = (FEATURES, *columns)
    inner = bl.InnerProblem(loss, lambda key, h: jnp.zeros(shape), penalty=term, solver=bl.Auto(tol=tol))
    return bl.Task(inner, loss, lambda key: start, bl.full_batch(*batches)), jnp.asarray(start)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_design(name, monkeypatch):
    """By products with vectors of all rows, and of 64 rows where these hold the support; by gathered columns."""
    monkeypatch.setattr(ranking, "ON_HOST", 64 if name in ("one weight", "groups") else 8192)
    monkeypatch.setattr(rows, "GATHERED", 4096 if name == "a weight each" else 0)
    engine = bl.Implicit(linear_solve=bl.AutoLinear(tol=1e-12))
    (task, h), (plain, _) = problem(name, True), problem(name, False)
    value, grad, report = bl.hypergradient(task, h, engine)
    expected = bl.hypergradient(plain, h, engine)
    assert report.status.name == expected[2].status.name == "converged"
    assert 5 <= np.count_nonzero(np.asarray(report.params)) < FEATURES / 2
    np.testing.assert_allclose(report.params, expected[2].params, atol=1e-9)
    np.testing.assert_allclose(value, expected[0], rtol=1e-9)
    np.testing.assert_allclose(grad, expected[1], atol=1e-8 * float(jnp.linalg.norm(expected[1])))
    assert report.error_grade == "estimate" and report.error_estimate < 1e-7
    margin, of_dense = float(report.margin), float(expected[2].margin)
    assert 0 < margin < 10 * of_dense or (np.isnan(margin) and np.isnan(of_dense))  # no kinks known: elastic net
    again = bl.hypergradient(task, h, engine, carry=report.carry)
    np.testing.assert_allclose(again[1], grad, atol=1e-9)


@pytest.mark.slow
def test_products_touch_the_columns_in_use(monkeypatch):
    monkeypatch.setattr(rows, "GATHERED", 0)
    task, h = problem("one weight", True, tol=1e-8)
    touched, entries = [], designs()[0].nnz
    plain = bl.HostMatrix.product

    def product(matrix, indices, number, vectors, transposed):
        touched.append(matrix.part(indices, number).nnz / entries if indices.size else 1)
        return plain(matrix, indices, number, vectors, transposed)

    monkeypatch.setattr(bl.HostMatrix, "product", product)
    _, _, report = bl.hypergradient(task, h, bl.Implicit(accuracy="residual"))
    jax.block_until_ready(report.params)
    support = np.count_nonzero(np.asarray(report.params))
    assert report.status.name == "converged" and support < 0.1 * FEATURES
    whole = [share for share in touched if share == 1]
    assert len(whole) < 0.1 * len(touched)  # one a working set, and those that find the support
    assert min(touched) < 1.2 * support / FEATURES  # those of the adjoint, in the solution's columns


@pytest.mark.slow
def test_solutions_differentiate_and_batch():
    task, h = problem("one weight", True)
    plain, _ = problem("one weight", False)
    batches = [stated.batches(jax.random.key(0), 0)[0] for stated in (task, plain)]

    def solutions(stated, batch):
        return jax.jacrev(lambda h: stated.inner.solve(h, batch).params)(h)

    np.testing.assert_allclose(solutions(task, batches[0]), solutions(plain, batches[1]), atol=1e-8)
    several = jnp.array([-2.5, -2.0])
    solve = jax.jit(jax.vmap(lambda h: task.inner.solve(h, batches[0]).params))
    for h, params in zip(several, solve(several), strict=True):
        np.testing.assert_allclose(params, plain.inner.solve(h, batches[1]).params, atol=1e-9)


@pytest.mark.slow
def test_float32(monkeypatch):
    monkeypatch.setattr(rows, "GATHERED", 0)
    task, h = problem("one weight", True)
    exact = bl.hypergradient(task, h, bl.Implicit())[1]
    with jax.enable_x64(False):
        single = replace(problem("one weight", True, tol=1e-5)[0], precision="float32")
        grad = bl.hypergradient(single, jnp.float32(h), bl.Implicit(on_failure="warn"))[1]
    assert grad.dtype == jnp.float32
    np.testing.assert_allclose(grad, exact, rtol=2e-3)


def test_auto_says_so(monkeypatch):
    task, h = problem("one weight", True)
    batch, _ = task.batches(jax.random.key(0), 0)
    assert "proximal Newton steps on working sets, whose columns are gathered" in task.inner.explain(h, batch)
    monkeypatch.setattr(rows, "GATHERED", SAMPLES - 1)
    assert "working sets of any size, whose columns are multiplied on the host" in task.inner.explain(h, batch)


@pytest.mark.slow
def test_a_support_that_fits_no_size(monkeypatch):
    """Columns are gathered where they fit; these do not, and the rest of the work is done by products."""
    monkeypatch.setattr(ranking, "SIZES", (16,))
    (task, h), (plain, _) = problem("elastic net", True), problem("elastic net", False)
    engine = bl.Implicit(accuracy="residual", linear_solve=bl.AutoLinear(tol=1e-12))
    _, grad, report = bl.hypergradient(task, h, engine)
    assert np.count_nonzero(np.asarray(report.params)) > 16 and report.status.name == "converged"
    monkeypatch.undo()
    np.testing.assert_allclose(grad, bl.hypergradient(plain, h, engine)[1], rtol=1e-7)
