import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.kernels.qp import solve_qp

SOLVE = jax.jit(solve_qp)


def random_program(seed, n=6, p=2, m=8, rank=6):
    random = np.random.default_rng(seed)
    factor, q, inside = random.normal(size=(n, rank)), random.normal(size=n), random.normal(size=n)
    A, G = random.normal(size=(p, n)), random.normal(size=(m, n))
    return factor @ factor.T / n, q, A, A @ inside, G, G @ inside + random.uniform(0, 1, size=m)


def violation(program, solution):
    """Of the optimality conditions, recomputed from scratch."""
    Q, q, A, b, G, h = program
    x, y, z = solution.x, solution.y, solution.z
    stationarity, slack = Q @ x + q + A.T @ y + G.T @ z, h - G @ x
    parts = (stationarity, A @ x - b, np.minimum(slack, 0), np.minimum(z, 0), z * slack)
    return max(np.abs(part).max(initial=0.0) for part in map(np.asarray, parts))


@pytest.mark.parametrize("rank", [6, 3])
def test_the_optimality_conditions_hold_to_rounding(rank):
    for seed in range(30):
        program = random_program(seed, rank=rank)
        solution = SOLVE(*program)
        assert solution.status.name == "converged"
        assert violation(program, solution) < 1e-11
        assert solution.residual < 1e-13


def box_program(q, lower, upper, n=5):
    faces = np.concatenate([np.eye(n), -np.eye(n)])
    return (
        np.zeros((n, n)),
        q,
        np.ones((1, n)),
        np.ones(1),
        faces,
        np.concatenate([np.full(n, upper), np.full(n, -lower)]),
    )


@pytest.mark.slow
def test_linear_programs_and_degenerate_vertices():
    q = np.array([0.3, -0.2, 0.5, 0.1, 0.4])
    solution = jax.jit(solve_qp)(*box_program(q, 0.0, 1.0))
    np.testing.assert_allclose(solution.x, [0, 1, 0, 0, 0], atol=1e-14)
    assert solution.status.name == "converged"
    point = jax.jit(solve_qp)(*box_program(q, 0.2, 0.2))
    np.testing.assert_allclose(point.x, 0.2, atol=1e-14)
    assert point.status.name == "converged"


@pytest.mark.slow
def test_a_batch_in_which_each_lane_ends_in_its_own_way():
    """An infeasible program never passes for a solved one; JAXopt says nothing under jit."""
    faces = np.array([[1.0, 0.0], [-1.0, 0.0]])
    h = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, 1.0]])
    q = np.array([[-2.0, 0.0], [0.0, 0.0], [0.0, -1.0]])
    empty = np.zeros((0, 2)), np.zeros(0)
    batch = jax.jit(jax.vmap(lambda q, h: solve_qp(np.diag([1.0, 0.0]), q, *empty, faces, h)))
    solution = batch(q, h)
    names = [np.array(["converged", "infeasible", "unbounded"])[i] for i in range(3)]
    assert repr(solution.status) == f"Status({[str(name) for name in names]})"
    assert np.isfinite(solution.x[0]).all() and np.isnan(solution.x[1:]).all()


@pytest.mark.slow
def test_infinite_bounds_dependent_rows_and_no_rows():
    Q, q = np.eye(3), np.array([-1.0, 0.0, 1.0])
    free = solve_qp(Q, q, np.zeros((0, 3)), np.zeros(0), np.eye(3), np.array([np.inf, np.inf, -2.0]))
    np.testing.assert_allclose(free.x, [1.0, 0.0, -2.0], atol=1e-14)
    repeated = solve_qp(Q, q, np.ones((2, 3)), np.ones(2), np.zeros((0, 3)), np.zeros(0))
    np.testing.assert_allclose(repeated.x, [4 / 3, 1 / 3, -2 / 3], atol=1e-14)
    contradiction = solve_qp(Q, q, np.ones((2, 3)), np.array([1.0, 2.0]), np.zeros((0, 3)), np.zeros(0))
    assert contradiction.status.name == "infeasible"


@pytest.mark.slow
def test_primal_and_both_duals_are_differentiable_in_every_argument():
    args = random_program(1)
    random = np.random.default_rng(0)
    directions = tuple(random.normal(size=arg.shape) for arg in args)
    directions = (directions[0] + directions[0].T, *directions[1:])

    @jax.jit
    def along(t):
        solution = solve_qp(*(arg + t * d for arg, d in zip(args, directions, strict=True)))
        return jnp.concatenate([solution.x, solution.y, solution.z])

    step = 1e-6
    difference = (along(step) - along(-step)) / (2 * step)
    assert (np.abs(difference[-8:]) > 1e-3).any()  # some row is active
    np.testing.assert_allclose(jax.jit(jax.jacfwd(along))(0.0), difference, atol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.jacrev(along))(0.0), difference, atol=1e-7)
    second = (jax.jit(jax.jacfwd(along))(step) - jax.jit(jax.jacfwd(along))(-step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.jacfwd(along)))(0.0), second, atol=1e-5)


@pytest.mark.slow
def test_float32():
    program = random_program(2)
    with jax.enable_x64(False):
        solution = solve_qp(*(np.float32(part) for part in program))
    assert solution.x.dtype == jnp.float32 and solution.status.name == "converged"
    np.testing.assert_allclose(solution.x, SOLVE(*program).x, atol=1e-4)


@pytest.mark.slow
def test_clarabel_agrees_on_larger_programs():
    clarabel = pytest.importorskip("clarabel")
    sparse = pytest.importorskip("scipy.sparse")
    solve = jax.jit(solve_qp)
    for seed in range(5):
        Q, q, A, b, G, h = program = random_program(seed, n=30, p=5, m=50, rank=20)
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        cones = [clarabel.ZeroConeT(5), clarabel.NonnegativeConeT(50)]
        rows, ends = sparse.csc_matrix(np.concatenate([A, G])), np.concatenate([b, h])
        witness = clarabel.DefaultSolver(sparse.triu(Q, format="csc"), q, rows, ends, cones, settings).solve()
        solution = solve(*program)
        x = np.asarray(solution.x)
        assert violation(program, solution) < 1e-10
        np.testing.assert_allclose(0.5 * x @ Q @ x + q @ x, witness.obj_val, rtol=1e-7)
