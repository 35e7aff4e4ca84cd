"""Problems in one column of their params, and working sets of each column: the solution of the whole problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.solvers.first_order.columns import in_column, penalty_of_column
from bilevel.solvers.second_order.proximal_newton import hessian_matrix

RNG = np.random.default_rng(0)
SAMPLES, FEATURES, COLUMNS = 40, 60, 3
DESIGN = RNG.normal(size=(SAMPLES, FEATURES))
SIGNS = np.sign(DESIGN[:, 0] - DESIGN[:, 1] + 0.3 * RNG.normal(size=SAMPLES))
FITTED = (np.arange(SAMPLES)[:, None] % COLUMNS != np.arange(COLUMNS)) / SAMPLES  # (samples, columns)
PENALTIES = {
    "one weight": bl.L1(weight=jnp.exp),
    "weights of columns": bl.L1(weight=lambda h: jnp.exp(h) * jnp.array([1.0, 2.0, 0.5])),
    "weights of rows": bl.L1(weight=lambda h: jnp.exp(h) * jnp.linspace(0.5, 2.0, FEATURES)[:, None]),
    "weights of entries": bl.L1(weight=lambda h: jnp.exp(h) * jnp.linspace(0.5, 2.0, 180).reshape(FEATURES, COLUMNS)),
    "elastic net": bl.ElasticNet(l1=jnp.exp, l2=lambda h: jnp.linspace(0.1, 0.2, COLUMNS)),
    "box": bl.Box(lower=-0.1, upper=lambda h: jnp.array([0.05, 0.1, 0.2])),
    "signed": bl.NonNegativeL1(weight=lambda h: jnp.full((1, 1), jnp.exp(h))),
}


def apart(z, w, h, batch):
    """Folds: no column meets another."""
    return jnp.sum(FITTED * jax.nn.softplus(-SIGNS[:, None] * z))


def apart_curvature(z, w, h, batch):
    return jnp.eye(COLUMNS) * (FITTED * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z))[:, :, None]


def meeting(z, w, h, batch):
    """Columns meet in the predictions and in the params."""
    return apart(z, w, h, batch) + 0.1 * jnp.mean(jax.nn.logsumexp(z, axis=1)) + 1e-3 * jnp.sum(jnp.sum(w, axis=1) ** 2)


LOSSES = {
    "apart": bl.Linear(jnp.asarray, apart),
    "apart, with curvature": bl.Linear(jnp.asarray, apart, apart_curvature),
    "meeting": bl.Linear(jnp.asarray, meeting),
}


def problem(loss, penalty, solver):
    term, zeros = PENALTIES[penalty], lambda key, h: jnp.zeros((FEATURES, COLUMNS))
    field = {"constraint": term} if term.is_set else {"penalty": term}
    return bl.InnerProblem(LOSSES[loss], zeros, solver=solver, **field)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_prox_on_a_column_is_the_column_of_the_prox(penalty):
    point = jnp.asarray(RNG.normal(size=(FEATURES, COLUMNS)))
    for column in range(COLUMNS):
        part = penalty_of_column(PENALTIES[penalty], -1.0, point, jnp.int32(column))
        whole = PENALTIES[penalty].prox(point, 0.7, -1.0)
        assert_allclose(part.prox(point[:, column], 0.7, -1.0), whole[:, column], atol=1e-15)


@pytest.mark.sample(1)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_problem_in_a_column_has_value_gradient_and_hessian_of_the_whole(loss):
    instance = problem(loss, "one weight", bl.ProximalGradient()).at(-3.0, DESIGN)
    params = jnp.asarray(RNG.normal(size=(FEATURES, COLUMNS)))
    part = in_column(instance, params, jnp.asarray(DESIGN) @ params, jnp.int32(1))
    moved = params.at[:, 1].add(0.3)
    assert_allclose(part.value(moved[:, 1]), instance.value(moved), rtol=1e-13)
    assert_allclose(part.gradient(moved[:, 1]), instance.gradient(moved)[:, 1], atol=1e-13)
    block = jax.hessian(instance.value)(moved)[:, 1, :, 1]
    assert_allclose(hessian_matrix(part, moved[:, 1]), block, atol=1e-12)


@pytest.mark.sample(1)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_solution_of_all_columns_together(loss, penalty):
    inside = bl.ProximalNewton()  # for all rows too, because it compiles in a fifth of the time
    solver = bl.WorkingSet(inside, sizes=(24,), whole=inside, by_columns=True, tol=1e-11)
    found = jax.jit(problem(loss, penalty, solver).solve)(-4.0, DESIGN)
    inner = problem(loss, penalty, bl.ActiveSetNewton(tol=1e-13))
    assert found.status.name == "converged"
    assert_allclose(found.params, inner.solve(-4.0, DESIGN).params, atol=1e-7)
    # The residual is that of the whole problem, and not of the rows or of the columns that were solved last.
    instance = inner.at(-4.0, DESIGN)
    left = instance.residual_norm(found.params) / instance.residual_norm(jnp.zeros((FEATURES, COLUMNS)))
    assert_allclose(found.residual, left, rtol=1e-3, atol=1e-15)


@pytest.mark.slow
def test_columns_need_no_room_for_each_other():
    """Each is solved on its own few rows, where a set for all of them together would be the whole problem."""
    rows = jnp.eye(12, 12)
    targets = jnp.zeros((12, 4)).at[jnp.arange(8), jnp.arange(8) // 2].set(5.0)  # two rows in each of four columns
    loss = bl.Linear(jnp.asarray, lambda z, w, h, batch: 0.5 * jnp.sum((z - targets) ** 2) + jnp.sum(w**4))
    solver = bl.WorkingSet(bl.ProximalNewton(), sizes=(4,), by_columns=True, max_steps=10)
    inner = bl.InnerProblem(loss, lambda key, h: jnp.zeros((12, 4)), penalty=bl.L1(weight=1.0), solver=solver)
    found = inner.solve(0.0, rows)
    assert found.status.name == "converged"
    assert_allclose(jnp.sum(found.params != 0, axis=0), 2)
    at = found.params[0, 0]
    assert_allclose(at - 5 + 4 * at**3 + 1, 0, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "shape", "penalty"),
    [(LOSSES["apart"], (FEATURES, COLUMNS), bl.GroupLasso(weight=1.0)),
     (lambda w, h, batch: jnp.sum(w**2), (4, 2), bl.L1(1.0)),
     (bl.Linear(jnp.asarray, lambda z, w, h, batch: jnp.sum(z**2)), (FEATURES,), bl.L1(1.0))],
    ids=["columns that meet in the penalty", "no bl.Linear", "a vector"],
)  # fmt: skip
def test_refused(loss, shape, penalty):
    solver = bl.WorkingSet(by_columns=True)
    inner = bl.InnerProblem(loss, lambda key, h: jnp.ones(shape), penalty=penalty, solver=solver)
    with pytest.raises(
        ValueError, match=r"by_columns=True.* needs params that are one array of two axes.* Use by_columns"
    ):
        inner.solve(0.0, DESIGN)
