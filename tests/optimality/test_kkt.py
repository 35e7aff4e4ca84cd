"""The KKT mapping: derivatives of primal and duals, degenerate points, the natural residual, the margin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.implicit.attach import solve_system
from bilevel.linear_solve import MINRES, Dense

F = bl.optimality.KKT(
    lambda w, t: 0.5 * w @ t["Q"] @ w + t["q"] @ w,
    equality=lambda w, t: t["A"] @ w - t["b"],
    inequality=lambda w, t: t["G"] @ w - t["h"],
)


def known(seed: int = 0, n: int = 5, p: int = 1, m: int = 4) -> tuple[dict, bl.PrimalDual]:
    """A random program with a known, strictly complementary solution: half of the inequalities are active."""
    rng = np.random.default_rng(seed)
    root, A, G = (rng.normal(size=shape) for shape in ((n, n), (p, n), (m, n)))
    Q, x, nu = root @ root.T + np.eye(n), rng.normal(size=n), rng.normal(size=p)
    active = np.arange(m) < m // 2
    lam, slack = np.where(active, rng.uniform(0.5, 2, m), 0), np.where(active, 0, rng.uniform(0.5, 2, m))
    data = {"Q": Q, "q": -(Q @ x + A.T @ nu + G.T @ lam), "A": A, "b": A @ x, "G": G, "h": G @ x + slack}
    at = bl.PrimalDual(x, nu, lam)
    return jax.tree.map(jnp.asarray, data), jax.tree.map(jnp.asarray, at)


def closed_form(data: dict, active: np.ndarray) -> jax.Array:
    """The solution as a smooth function of the data, its active rows being given."""
    rows = jnp.concatenate([data["A"], data["G"][active]])
    n = data["q"].size
    zeros = jnp.zeros((rows.shape[0], rows.shape[0]))
    matrix = jnp.block([[0.5 * (data["Q"] + data["Q"].T), rows.T], [rows, zeros]])
    return jnp.linalg.solve(matrix, jnp.concatenate([-data["q"], data["b"], data["h"][active]]))[: n + rows.shape[0]]


def solution(at: bl.PrimalDual):
    return lambda data: bl.custom_root(F)(lambda init, data: at)(None, data)


def test_residual_vanishes_at_the_solution():
    data, at = known()
    for residual in (F(at, data), F.natural_residual(at, data)):
        assert_allclose(jnp.concatenate(jax.tree.leaves(residual)), 0, atol=1e-13)


@pytest.mark.slow
def test_derivatives_of_primal_and_duals_in_every_argument():
    data, at = known()
    active = np.asarray(at.inequality_dual > 0)

    def flat(data):
        found = solution(at)(data)
        return jnp.concatenate([found.primal, found.equality_dual, found.inequality_dual[active]])

    expected = jax.jacfwd(lambda data: closed_form(data, active))(data)
    for mode in (jax.jacfwd, jax.jacrev):
        found = jax.jit(mode(flat))(data)
        for name in data:
            assert_allclose(found[name], expected[name], atol=1e-10, err_msg=name)


@pytest.mark.slow
def test_inactive_multipliers_do_not_move():
    data, at = known()
    moved = jax.jacrev(lambda data: solution(at)(data).inequality_dual)(data)
    for name in data:
        assert_allclose(moved[name][np.asarray(at.inequality_dual == 0)], 0, atol=1e-12)


@pytest.mark.slow
def test_second_derivatives():
    data, at = known()
    active = np.asarray(at.inequality_dual > 0)

    def along(theta, solve):
        return jnp.sum(
            jnp.sin(solve({**data, "h": data["h"] + theta * jnp.arange(1.0, 5), "Q": (1 + theta**2) * data["Q"]}))
        )

    found = jax.hessian(lambda theta: along(theta, lambda data: solution(at)(data).primal))(0.0)
    expected = jax.hessian(lambda theta: along(theta, lambda data: closed_form(data, active)[:5]))(0.0)
    assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.slow
def test_vmap_is_a_loop():
    cases = [known(seed) for seed in range(4)]
    data, at = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)

    def gradient(data, at):
        return jax.grad(lambda data: jnp.sum(solution(at)(data).primal ** 2))(data)

    together = jax.jit(jax.vmap(gradient))(data, at)
    for i, (one, point) in enumerate(cases):
        jax.tree.map(lambda a, b, i=i: assert_allclose(a[i], b, atol=1e-11), together, gradient(one, point))


@pytest.mark.slow
def test_float32():
    data, at = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), known())
    exact, point = known()
    found = jax.grad(lambda h: jnp.sum(solution(at)({**data, "h": h}).primal ** 2))(data["h"])
    expected = jax.grad(lambda h: jnp.sum(solution(point)({**exact, "h": h}).primal ** 2))(exact["h"])
    assert found.dtype == jnp.float32
    assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_natural_residual_does_not_vanish_where_the_product_form_does():
    simple = bl.optimality.KKT(lambda w: jnp.sum(w**2), inequality=lambda w: 1.0 - w)
    infeasible = bl.PrimalDual(jnp.zeros(1), inequality_dual=jnp.zeros(1))
    assert float(jnp.abs(simple(infeasible).inequality_dual[0])) == 0
    assert float(jnp.abs(simple.natural_residual(infeasible).inequality_dual[0])) == 1
    negative = bl.optimality.KKT(lambda w: jnp.sum((w - 2) ** 2), inequality=lambda w: 1.0 - w)
    at = bl.PrimalDual(jnp.ones(1), inequality_dual=jnp.array([-2.0]))  # stationary, but the multiplier is negative
    assert float(jnp.abs(negative(at).inequality_dual[0])) == 0
    assert float(jnp.abs(negative.natural_residual(at).inequality_dual[0])) == 2


@pytest.mark.slow
def test_system_declares_symmetric_and_indefinite_and_is_symmetric():
    data, at = known()
    system = F.system(at, data)
    assert system.operator.symmetric is True and system.operator.definite is False
    matrix, _ = bl.linear_solve.materialize(system.operator, system.restrict(at))
    assert_allclose(matrix, matrix.T, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [Dense(), MINRES()])
def test_matrix_free_form_solves_the_same_system(monkeypatch, solver):
    data, at = known()
    rhs = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(1.0, leaf.size + 1)), at)
    dense = solve_system(F.system(at, data), Dense(), rhs)
    monkeypatch.setattr("bilevel.optimality.saddle.DENSE", 0)
    free = solve_system(F.system(at, data), solver, rhs)
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-8), dense, free)


@pytest.mark.slow
def test_redundant_constraints_give_the_derivative_of_least_norm_in_both_modes():
    duplicated = bl.optimality.KKT(
        lambda w, h: 0.5 * jnp.sum((w - 2) ** 2), inequality=lambda w, h: jnp.stack([w[0], w[0], 2 * w[0]]) - h
    )
    at = bl.PrimalDual(jnp.array([1.0, 2.0]), inequality_dual=jnp.array([1 / 6, 1 / 6, 2 / 6]))
    solve = bl.custom_root(duplicated)(lambda init, h: at)
    h = jnp.array([1.0, 1.0, 2.0])
    for mode in (jax.jacfwd, jax.jacrev):
        jacobian = mode(lambda t: solve(None, t * h).primal)(1.0)  # all rows move together: a true derivative
        assert_allclose(jacobian, [1.0, 0.0], atol=1e-12)
        alone = mode(lambda h: solve(None, h).primal)(h)  # one row moves: an element of the generalised Jacobian
        assert_allclose(alone, [[1 / 3, 1 / 3, 1 / 6], [0, 0, 0]], atol=1e-12)


@pytest.mark.sample(1)
@pytest.mark.parametrize("angle", [10.0**-k for k in range(3, 11)])
def test_nearly_dependent_constraints(angle):
    near = bl.optimality.KKT(
        lambda w, h: 0.5 * jnp.sum((w - jnp.array([2.0, angle, 0.3])) ** 2),
        inequality=lambda w, h: jnp.stack([w[0], w[0] + angle * w[1]]) - h,
    )
    at = bl.PrimalDual(jnp.array([0.0, 0.0, 0.3]), inequality_dual=jnp.ones(2))
    solve = bl.custom_root(near)(lambda init, h: at)
    jacobian = jax.jacrev(lambda h: solve(None, h))(jnp.zeros(2))
    inverse = np.array([[1, 0], [-1 / angle, 1 / angle]])
    assert_allclose(jacobian.primal[:2], inverse, rtol=1e-5, atol=1e-9)
    assert_allclose(jacobian.inequality_dual, -inverse.T @ inverse, rtol=1e-5)


@pytest.mark.slow
def test_margin_of_a_regular_and_of_a_weakly_active_point():
    data, at = known()
    margin = F.margin(at, data)
    assert int(margin.weakly_active) == 0
    assert float(margin.smallest) >= 0.05 and 0 < float(margin.independence) <= 1  # a share of the forces or of x
    rows = jnp.concatenate([data["A"], (at.inequality_dual > 0)[:, None] * data["G"]])
    off = jnp.diag(jnp.array([0.0, *(at.inequality_dual == 0)]))
    assert_allclose(margin.condition, jnp.linalg.cond(jnp.block([[data["Q"], rows.T], [rows, -off]])), rtol=1e-8)
    touching = {**data, "h": data["G"] @ at.primal}
    assert int(F.margin(at, touching).weakly_active) == 2
    assert_allclose(F.margin(at, touching).smallest, 0, atol=1e-12)


def test_faces_are_zero_where_strict_complementarity_fails():
    data, at = known()
    assert float(jnp.min(F.faces(at, data))) >= 0.2
    assert_allclose(jnp.min(F.faces(at, {**data, "h": data["G"] @ at.primal})), 0, atol=1e-12)


@pytest.mark.slow
def test_pytrees_and_either_function_left_out():
    boxed = bl.optimality.KKT(
        lambda w, t: jnp.sum((w["a"] - t) ** 2) + jnp.sum(w["b"] ** 2), inequality=lambda w, t: {"top": w["a"] - 1}
    )
    at = bl.PrimalDual({"a": jnp.ones(2), "b": jnp.zeros(())}, inequality_dual={"top": jnp.array([2.0, 4.0])})
    t = jnp.array([2.0, 3.0])
    assert_allclose(boxed.natural_residual(at, t).primal["a"], 0, atol=1e-14)
    moved = jax.jacrev(lambda t: bl.custom_root(boxed)(lambda init, t: at)(None, t))(t)
    assert_allclose(moved.primal["a"], 0, atol=1e-14)
    assert_allclose(moved.inequality_dual["top"], 2 * np.eye(2), atol=1e-12)
    plane = bl.optimality.KKT(lambda w, t: jnp.sum(w**2), equality=lambda w, t: jnp.sum(w) - t)
    on = bl.PrimalDual(jnp.full(2, 0.5), jnp.array(-1.0))
    assert_allclose(jax.jacrev(lambda t: bl.custom_root(plane)(lambda i, t: on)(None, t).primal)(1.0), [0.5, 0.5])
    assert bl.optimality.KKT(lambda w: jnp.sum(w**2), None, None)(bl.PrimalDual(jnp.ones(2))).equality_dual == ()


def test_a_dual_of_the_wrong_shape_is_refused():
    data, at = known()
    with pytest.raises(ValueError, match="inequality dual must have the structure"):
        F(at._replace(inequality_dual=jnp.zeros(2)), data)


@pytest.mark.slow
@pytest.mark.parametrize("dense", [True, False])
def test_derivatives_follow_the_scale_of_rows_columns_and_objective(monkeypatch, dense):
    """Multiplying a row divides its multiplier and its derivative in h by the same number, and nothing else."""
    if not dense:
        monkeypatch.setattr("bilevel.optimality.saddle.DENSE", 0)
    data, at = known()
    rng = np.random.default_rng(1)

    def gradient(data, at, weights):
        return jax.grad(lambda h: weights @ solution(at)({**data, "h": h}).primal)(data["h"])

    weights = jnp.arange(1.0, 6)
    expected, run = gradient(data, at, weights), jax.jit(gradient)
    for _ in range(6):
        rows, columns, cost = (10.0 ** rng.integers(-3, 4, size) for size in (4, 5, ()))
        scaled = {
            "Q": cost * columns[:, None] * data["Q"] * columns,
            "q": cost * columns * data["q"],
            "A": data["A"] * columns,
            "b": data["b"],
            "G": rows[:, None] * data["G"] * columns,
            "h": rows * data["h"],
        }
        point = bl.PrimalDual(at.primal / columns, cost * at.equality_dual, cost * at.inequality_dual / rows)
        assert_allclose(rows * run(scaled, point, columns * weights), expected, rtol=1e-6, atol=1e-9)
        assert_allclose(F.margin(point, scaled).smallest, F.margin(at, data).smallest, rtol=1)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_small_entries_of_a_point_on_a_ball_do_not_spoil_the_system(dtype):
    """The rows of ||w||^2 = 1 are 2 w, whose entries say nothing about units: the matrix keeps the Hessian's condition;
    unknowns in units of their own keep it too."""
    small = 10.0 ** np.arange(0, -6, -1)
    for units in (np.ones(6), small[::-1]):

        def ball(w, units=units):
            return {"ball": jnp.sum((units * w["v"]) ** 2) - 1}

        def loss(w, units=units):
            return 0.5 * jnp.sum((units * w["v"] - 2 * small) ** 2)

        w = {"v": jnp.asarray(small / np.linalg.norm(small) / units, dtype)}
        at = bl.PrimalDual(w, inequality_dual={"ball": jnp.asarray(np.linalg.norm(small) - 0.5, dtype)})
        system = bl.optimality.KKT(loss, inequality=ball).system(at)
        matrix, _ = bl.linear_solve.materialize(system.operator, system.restrict(at))
        assert np.linalg.cond(matrix) < 10


@pytest.mark.slow
def test_a_degenerate_vertex_is_no_place_for_an_estimate():
    """w0 <= h, w1 <= 1 and w0 + w1 <= 2 meet at h = 1: which two of them hold the solution is not known."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w - 3.0) ** 2),
        init=lambda key, h: jnp.zeros(2),
        constraint=bl.Functional(inequality=lambda w, h, batch: jnp.stack([w[0] - h, w[1] - 1, w[0] + w[1] - 2])),
    )
    task = bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: w[0] + 2 * w[1],
        init_hparams=lambda key: jnp.array(1.0),
        batches=bl.full_batch(None, None),
    )
    grades = []
    for h in (1.0, 0.7):
        _, _, report = bl.hypergradient(task, jnp.array(h))
        grades.append((report.error_grade, int(report.weakly_active) > 0))
    assert grades == [("residual", True), ("estimate", False)]
