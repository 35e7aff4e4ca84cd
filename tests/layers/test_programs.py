"""Quadratic and cone programs as layers: values, derivatives in every argument, statuses, robustness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel import cones


def known(seed: int = 0, n: int = 6, p: int = 2, m: int = 8, active: int = 3, scales: bool = False) -> tuple:
    """Q, q, A, b, G, h with a known, strictly complementary solution (x, nu, lam)."""
    rng = np.random.default_rng(seed)
    root, A, G = rng.normal(size=(n, n)), rng.normal(size=(p, n)), rng.normal(size=(m, n))
    if scales:
        columns, rows = 10.0 ** rng.uniform(-4, 4, n), 10.0 ** rng.uniform(-2, 2, m)
        root, A, G = root * columns, A * columns, rows[:, None] * G * columns
    x, nu, on = rng.normal(size=n), rng.normal(size=p), np.arange(m) < active
    x = x / columns if scales else x
    lam, slack = np.where(on, rng.uniform(0.5, 2, m), 0), np.where(on, 0, rng.uniform(0.5, 2, m))
    Q = root.T @ root + (0 if scales else 0.1) * np.eye(n)
    data = (Q, -(Q @ x + A.T @ nu + G.T @ lam), A, A @ x, G, G @ x + slack)
    return tuple(map(jnp.asarray, data)), (x, nu, lam)


def stacked(*cases):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)


def on_face(data: tuple, on: np.ndarray) -> jax.Array:
    """(x, nu, lam on the face) as a smooth function of the data."""
    Q, q, A, b, G, h = data
    rows = jnp.concatenate([A, G[on]])
    matrix = jnp.block([[0.5 * (Q + Q.T), rows.T], [rows, jnp.zeros((rows.shape[0], rows.shape[0]))]])
    return jnp.linalg.solve(matrix, jnp.concatenate([-q, b, h[on]]))


def flat(solution: bl.Solution, on: np.ndarray) -> jax.Array:
    return jnp.concatenate([solution.params, solution.dual.equality_dual, solution.dual.inequality_dual[on]])


@pytest.mark.slow
def test_value_and_derivatives_of_primal_and_duals_in_every_argument():
    data, (x, nu, lam) = known()
    on = lam > 0
    solution = jax.jit(bl.quadratic_program)(*data)
    assert solution.status.name == "converged"
    for found, expected in zip((solution.params, *solution.dual), (x, nu, lam), strict=True):
        assert_allclose(found, expected, atol=1e-9)
    expected = jax.jacfwd(lambda data: on_face(data, on))(data)
    for mode in (jax.jacfwd, jax.jacrev):
        found = jax.jit(mode(lambda data: flat(bl.quadratic_program(*data), on)))(data)
        for one, other, name in zip(found, expected, "QqAbGh", strict=True):
            assert_allclose(one, other, atol=1e-7, err_msg=name)


@pytest.mark.slow
def test_a_batch_of_64_has_exact_gradients():
    """50 unknowns, 50 inequalities: relative error below 1e-6 in every argument and lane."""
    cases = [known(seed, 50, 0, 50, 15) for seed in range(64)]
    data = stacked(*[case[0] for case in cases])

    def layer(Q, q, A, b, G, h):
        return jnp.sum(bl.quadratic_program(Q, q, G=G, h=h).params ** 2)

    found = jax.jit(jax.vmap(jax.grad(layer, argnums=(0, 1, 4, 5))))(*data)
    on = np.arange(50) < 15  # of every lane
    closed = jax.grad(lambda data: jnp.sum(on_face(data, on)[:50] ** 2))
    expected = jax.jit(jax.vmap(closed))(data)
    for one, other in zip(found, [expected[i] for i in (0, 1, 4, 5)], strict=True):
        one, other = one.reshape(64, -1), other.reshape(64, -1)
        error = jnp.linalg.norm(one - other, axis=1) / jnp.linalg.norm(other, axis=1)
        assert float(jnp.max(error)) < 1e-6


@pytest.mark.sample(2)
@pytest.mark.parametrize("blocks", ["none", "equalities", "inequalities"])
def test_blocks_may_be_left_out(blocks):
    Q, q = jnp.diag(jnp.array([1.0, 2.0])), jnp.array([-1.0, -4.0])
    row, one = jnp.ones((1, 2)), jnp.ones(1)
    given = {"none": {}, "equalities": {"A": row, "b": one}, "inequalities": {"G": row, "h": one}}[blocks]
    expected = [1.0, 2.0] if blocks == "none" else [-1 / 3, 4 / 3]
    assert_allclose(bl.quadratic_program(Q, q, **given).params, expected, atol=1e-9)


@pytest.mark.slow
def test_infinite_bounds_are_no_constraints():
    solution = bl.quadratic_program(jnp.eye(2), -jnp.ones(2), G=jnp.eye(2), h=jnp.array([0.5, jnp.inf]))
    assert_allclose(solution.params, [0.5, 1.0], atol=1e-9)
    assert_allclose(solution.dual.inequality_dual, [0.5, 0.0], atol=1e-9)


@pytest.mark.slow
def test_infeasible_and_unbounded_lanes_are_named_and_leave_the_others_alone():
    """A converged, an unbounded and an infeasible program in one batch, under jit."""
    G = jnp.array([[1.0, 0], [-1, 0], [0, -1]])
    q = jnp.array([[2.0, 1], [1, -1], [1, 1]])
    h = jnp.array([[1.0, 1, 0], [1, 1, 0], [-1, -1, 0]])

    def layer(q, h):
        return bl.quadratic_program(jnp.diag(jnp.array([1.0, 0])), q, G=G, h=h)

    solution = jax.jit(jax.vmap(layer))(q, h)
    names = [bl.Code(int(code)).name for code in solution.status.code]
    assert names == ["converged", "unbounded", "infeasible"]
    assert_allclose(solution.params[0], [-1, 0], atol=1e-9)
    assert bool(jnp.all(jnp.isnan(solution.params[1:])))
    gradient = jax.jit(jax.vmap(jax.grad(lambda q, h: jnp.sum(layer(q, h).params), argnums=1)))(q, h)
    assert_allclose(gradient[0], [0, -1, -1], atol=1e-9)
    assert bool(jnp.all(jnp.isnan(gradient[1:])))


@pytest.mark.slow
def test_badly_scaled_columns_and_rows():
    data, (x, _, _) = known(seed=3, scales=True)
    solution = jax.jit(bl.quadratic_program)(*data)
    assert bool(solution.status.ok)
    assert_allclose(solution.params, x, rtol=1e-4)


@pytest.mark.slow
def test_rank_deficient_hessian():
    """A linear program in half of its unknowns: the vertex, and its derivative in the bounds."""
    Q, q = jnp.diag(jnp.array([1.0, 0.0])), jnp.array([-2.0, -1.0])

    def layer(h):
        return bl.quadratic_program(Q, q, G=jnp.eye(2), h=h).params

    assert_allclose(layer(jnp.array([1.0, 3.0])), [1, 3], atol=1e-9)
    assert_allclose(jax.jacrev(layer)(jnp.array([1.0, 3.0])), np.eye(2), atol=1e-9)


@pytest.mark.slow
def test_redundant_rows_give_the_derivative_of_least_norm():
    def layer(h):
        G = jnp.array([[1.0, 0], [1, 0], [2, 0]])
        return bl.quadratic_program(jnp.eye(2), jnp.array([-2.0, -1.0]), G=G, h=h).params

    for mode in (jax.jacfwd, jax.jacrev):
        jacobian = jax.jit(mode(lambda t: layer(t * jnp.array([1.0, 1.0, 2.0]))))(1.0)
        assert_allclose(jacobian, [1.0, 0.0], atol=1e-8)


@pytest.mark.slow
def test_a_degenerate_vertex():
    """Three lines through one point of the plane: the solution is right, the derivative finite or the status not ok."""
    G = jnp.array([[1.0, 0], [0, 1], [1, 1]])

    def layer(h):
        return bl.quadratic_program(jnp.eye(2), jnp.array([-2.0, -2.0]), G=G, h=h)

    h = jnp.array([0.5, 0.5, 1.0])
    assert_allclose(layer(h).params, [0.5, 0.5], atol=1e-7)
    moved = jax.jit(jax.jacrev(lambda t: layer(t * h).params))(1.0)  # the vertex moves with all three lines
    assert_allclose(moved, [0.5, 0.5], atol=1e-6)


@pytest.mark.slow
def test_nearly_dependent_rows_give_a_right_derivative_or_say_so():
    """The independence of two active rows falls from 1e-3 to 1e-10."""

    def layer(h, G):
        return bl.quadratic_program(jnp.eye(3), jnp.array([-2.0, -G[1, 1], -0.3]), G=G, h=h)

    @jax.jit
    def run(angle):
        G = jnp.array([[1.0, 0, 0], [1, 0, 0]]).at[1, 1].set(angle)
        jacobian = jax.jacrev(lambda h: (lambda s: (s.params, s.dual.inequality_dual))(layer(h, G)))(jnp.zeros(2))
        return layer(jnp.zeros(2), G).status, jacobian

    for angle in 10.0 ** -np.arange(3, 11):
        status, (primal, dual) = run(angle)
        inverse = np.array([[1, 0], [-1 / angle, 1 / angle]])
        known = bool(status.ok) & np.all(np.isfinite(primal)) & np.all(np.isfinite(dual))
        if status.ok:  # an entry is right or NaN; above 1e-7 the rows are independent to the digits of float64
            truths = (np.vstack([inverse, [0, 0]]), primal), (-inverse.T @ inverse, dual)
            for truth, found in truths:
                assert_allclose(np.where(np.isnan(found), truth, found), truth, rtol=1e-4, atol=1e-6)
        assert known or angle < 1e-7 * 1.01


@pytest.mark.slow
def test_float32():
    data, (x, _, _) = known()
    solution = jax.jit(bl.quadratic_program)(*(leaf.astype(jnp.float32) for leaf in data))
    assert solution.params.dtype == jnp.float32
    assert bool(solution.status.ok)
    assert_allclose(solution.params, x, atol=2e-3)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="needs both of A and b"):
        bl.quadratic_program(jnp.eye(2), jnp.ones(2), A=jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        bl.quadratic_program(jnp.ones((3, 2, 2)), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="a cone of dimension m"):
        bl.cone_program(jnp.eye(2), jnp.ones(2), jnp.ones(2), cones.NonNegative(3))


@pytest.mark.slow
def test_linear_program():
    """min c'x over a box: the vertex and the multipliers."""
    A, b, c = jnp.concatenate([jnp.eye(2), -jnp.eye(2)]), jnp.array([1.0, 2, 3, 4]), jnp.array([1.0, -2.0])
    solution = jax.jit(lambda A, b, c: bl.cone_program(A, b, c, cones.NonNegative(4)))(A, b, c)
    assert_allclose(solution.params, [-3, 2], atol=1e-9)
    assert_allclose(solution.dual, [0, 2, 1, 0], atol=1e-9)
    jacobian = jax.jit(jax.jacrev(lambda b: bl.cone_program(A, b, c, cones.NonNegative(4)).params))(b)
    assert_allclose(jacobian, [[0, 0, -1, 0], [0, 1, 0, 0]], atol=1e-9)


@pytest.mark.slow
def test_second_order_program_has_the_derivatives_of_its_closed_form():
    """min c'x, ||x|| <= r: x = -r c / ||c||."""
    A = jnp.concatenate([jnp.zeros((1, 3)), -jnp.eye(3)])

    def layer(c, r):
        return bl.cone_program(A, jnp.zeros(4).at[0].set(r), c, cones.SecondOrder(4))

    def closed(c, r):
        return -r * c / jnp.linalg.norm(c)

    c = jnp.array([1.0, -0.5, 2.0])
    solution = jax.jit(layer)(c, 1.5)
    assert solution.status.name == "converged"
    assert_allclose(solution.params, closed(c, 1.5), atol=1e-9)
    for mode in (jax.jacfwd, jax.jacrev):
        found = jax.jit(mode(lambda c, r: layer(c, r).params, argnums=(0, 1)))(c, 1.5)
        for one, other in zip(found, jax.jacfwd(closed, argnums=(0, 1))(c, 1.5), strict=True):
            assert_allclose(one, other, atol=1e-8)


@pytest.mark.slow
def test_statuses_of_cone_programs():
    A = jnp.array([[1.0], [-1.0]])
    layer = jax.jit(jax.vmap(lambda b, c: bl.cone_program(A, b, c, cones.NonNegative(2)).status.code))
    codes = layer(jnp.array([[1.0, 1.0], [-1.0, -1.0]]), jnp.ones((2, 1)))
    assert [bl.Code(int(code)).name for code in codes] == ["converged", "infeasible"]
    falling = bl.cone_program(jnp.array([[-1.0]]), jnp.zeros(1), -jnp.ones(1), cones.NonNegative(1))
    assert falling.status.name == "unbounded"


@pytest.mark.slow
def test_semidefinite_program_on_the_host():
    """The least eigenvalue: min <C, X>, trace X = 1, X psd; its derivative is the projector on the eigenvector."""
    pytest.importorskip("clarabel")
    A = jnp.concatenate([jnp.array([[1.0, 0, 1]]), -jnp.eye(3)])
    cone = cones.Product(cones.Zero(1), cones.PSD(2))
    b = jnp.array([1.0, 0, 0, 0])
    matrix = jnp.array([[1.0, -0.4], [-0.4, 2.0]])

    def least(matrix):
        c = cones.svec(0.5 * (matrix + matrix.T))
        return c @ bl.cone_program(A, b, c, cone).params

    value, gradient = jax.jit(jax.value_and_grad(least))(matrix)
    values, vectors = np.linalg.eigh(matrix)
    assert_allclose(value, values[0], atol=1e-8)
    assert_allclose(gradient, np.outer(vectors[:, 0], vectors[:, 0]), atol=1e-7)
    batch = jax.vmap(lambda c: bl.cone_program(A, b, c, cone).status.code)(jnp.array([[1.0, 0, 2], [2.0, 1, 1]]))
    assert batch.tolist() == [0, 0]


@pytest.mark.slow
def test_exponential_program_on_the_host():
    """Entropy over the simplex: the solution is a softmax."""
    pytest.importorskip("clarabel")
    n = 3
    A, b = np.zeros((1 + 3 * n, 2 * n)), np.zeros(1 + 3 * n)
    A[0, :n], b[0] = 1, 1
    for i in range(n):
        A[1 + 3 * i, n + i], A[2 + 3 * i, i], b[3 + 3 * i] = -1, -1, 1
    cone = cones.Product(cones.Zero(1), *[cones.Exponential()] * n)

    def layer(p):
        return bl.cone_program(jnp.asarray(A), jnp.asarray(b), jnp.concatenate([p, -jnp.ones(n)]), cone).params[:n]

    p = jnp.array([0.1, 0.5, -0.3])
    assert_allclose(jax.jit(layer)(p), jax.nn.softmax(-p), atol=1e-8)
    assert_allclose(jax.jit(jax.jacrev(layer))(p), jax.jacobian(lambda p: jax.nn.softmax(-p))(p), atol=1e-7)


def test_the_native_solver_refuses_cones_that_it_does_not_know():
    with pytest.raises(ValueError, match=r"bl\.Clarabel"):
        bl.cone_program(-jnp.eye(3), jnp.zeros(3), jnp.ones(3), cones.PSD(2), solver=bl.InteriorPoint())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_clarabel_is_a_witness(seed):
    pytest.importorskip("clarabel")
    data, _ = known(seed)
    ours, theirs = (
        jax.jit(lambda *d, s=s: bl.quadratic_program(*d, solver=s))(*data) for s in (bl.Auto(), bl.Clarabel())
    )
    assert_allclose(ours.params, theirs.params, atol=1e-8)
    assert_allclose(ours.dual.inequality_dual, theirs.dual.inequality_dual, atol=1e-7)


@pytest.mark.slow
def test_two_sided_rows_are_pairs_of_one_sided_ones():
    """min (x - c)^2 with lower bounds, upper bounds, both and none; the multiplier of a lower bound is negative."""
    c, g, h = jnp.array([-1.0, 2.0, 0.5, 3.0]), jnp.array([0.0, -jnp.inf, 0.0, -jnp.inf]), jnp.array([1, 1, 1, jnp.inf])

    def solve(c, g, h):
        return bl.quadratic_program(jnp.eye(4), -c, G=jnp.eye(4), h=h, g=g)

    solution, jacobians = jax.jit(
        lambda *data: (solve(*data), jax.jacrev(lambda *d: solve(*d).params, (0, 1, 2))(*data))
    )(c, g, h)
    assert_allclose(solution.params, [0, 1, 0.5, 3], atol=1e-10)
    assert_allclose(solution.dual.inequality_dual, [-1, 1, 0, 0], atol=1e-10)
    for jacobian, moves in zip(jacobians, ([0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0]), strict=True):
        assert_allclose(jacobian, np.diag(moves), atol=1e-9)
    assert solution.error_grade == "estimate"
    with pytest.raises(ValueError, match="needs the matrix G to the lower bounds g"):
        bl.quadratic_program(jnp.eye(4), -c, g=g)
    with pytest.raises(ValueError, match=r"with bounds g \(m,\) and h \(m,\)"):
        bl.quadratic_program(jnp.eye(4), -c, G=jnp.eye(4), g=g[:2])
