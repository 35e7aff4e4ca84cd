"""Many right-hand sides in one block: what it solves, what it costs, and what it says of each lane."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.linear_solve import CG, BlockCG, CholeskyFactor, Jacobi, Operator, RandomizedNystrom

RNG = np.random.default_rng(0)
SIZE = 24
BASIS = np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))[0]
RHS = RNG.normal(size=(5, SIZE))


def symmetric(eigenvalues):
    return BASIS @ np.diag(eigenvalues) @ BASIS.T


OUTLIERS = symmetric(np.concatenate([np.linspace(1.0, 1.5, SIZE - 4), [30.0, 100.0, 300.0, 1e3]]))
WIDE = symmetric(np.logspace(0, 4, SIZE))
SINGULAR = symmetric(np.concatenate([[0.0, 0.0], np.linspace(1.0, 3.0, SIZE - 2)]))
LANES = {
    "generic": RHS,
    "equal": np.stack([RHS[0]] * 5),
    "dependent": np.stack([RHS[0], RHS[1], RHS[0] - 2.0 * RHS[1], RHS[0] + 1e-9 * RHS[2], -RHS[1]]),
    "zeros": np.stack([0 * RHS[0], RHS[0], 0 * RHS[0], RHS[1], RHS[2]]),
    "only zeros": 0 * RHS,
    "scales": RHS * np.array([1e25, 1.0, 1e-25, 1e-3, 1e10])[:, None],
    "one is easy": np.concatenate([BASIS.T[3:5], RHS[:3]]),  # two eigenvectors: solved in a step
}
MANY = RNG.normal(size=(SIZE + 7, SIZE))


@functools.cache
def _solver(solver):
    """The lanes of one system by ``solver``; the matrix is an argument."""
    return jax.jit(lambda matrix, rhs: jax.vmap(lambda b: solver(lambda x: matrix @ x, b))(rhs))


def _check_lanes(solver, rhs):
    scales = np.maximum(np.linalg.norm(rhs, axis=1), 1e-300)[:, None]
    for matrix in (OUTLIERS, -WIDE):
        solution = _solver(solver)(matrix, jnp.asarray(rhs))
        assert [bl.Code(code).name for code in solution.status.code.tolist()] == ["converged"] * len(rhs)
        expected = np.linalg.solve(matrix, rhs.T).T
        np.testing.assert_allclose(solution.value / scales, expected / scales, atol=1e-8)
        true = np.linalg.norm(rhs - solution.value @ matrix, axis=1) / scales[:, 0]
        np.testing.assert_allclose(solution.residual, true, rtol=1e-3, atol=2e-12)


@pytest.mark.sample(3)
@pytest.mark.parametrize("lanes", LANES)
def test_every_lane_is_solved_whatever_the_others_are(lanes):
    _check_lanes(BlockCG(), LANES[lanes])


@pytest.mark.slow
@pytest.mark.parametrize("rhs", [RHS[:1], RHS, MANY], ids=len)
@pytest.mark.parametrize("block", [64, 2])
def test_blocks_of_all_sizes(block, rhs):
    _check_lanes(BlockCG(block=block), rhs)


@pytest.mark.slow
def test_lanes_in_float32():
    solution = _solver(BlockCG())(jnp.asarray(OUTLIERS, "float32"), jnp.asarray(RHS, "float32"))
    assert solution.value.dtype == "float32" and bool(jnp.all(solution.status.ok))
    np.testing.assert_allclose(solution.value, np.linalg.solve(OUTLIERS, RHS.T).T, atol=2e-4)


def test_outliers_cost_a_block_one_step_together():
    """k right-hand sides find k eigenvalues in a step, and the cluster in another."""
    for matrix, alone, together in (
        (symmetric([1.0] * (SIZE - 4) + [30.0, 100.0, 300.0, 1e3]), 5, 2),
        (symmetric([1.0] * (SIZE - 9) + [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]), 10, 3),
    ):
        for solver, steps in ((CG(), alone), (BlockCG(), together)):
            solution = _solver(solver)(matrix, jnp.asarray(RHS))
            assert solution.products.tolist() == [steps + 1] * 5  # with the recomputed residual


def test_products_are_those_that_run():
    """In float32, which is what callbacks in other threads return."""
    calls, matrix = [], OUTLIERS.astype("float32")

    def product(x):
        calls.append(x.shape)
        return np.asarray(x) @ matrix

    def operator(x):
        return jax.pure_callback(product, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="broadcast_all")

    rhs = jnp.asarray(RHS, "float32")
    solution = jax.jit(jax.vmap(lambda b: BlockCG(block=3, tol=1e-3)(operator, b)))(rhs)
    jax.block_until_ready(solution)
    assert bool(jnp.all(solution.status.ok))
    assert set(calls) == {(2, 3, SIZE), (5, SIZE)}  # one for the two blocks, and the recomputed residual
    assert len(calls) == int(solution.products.max())


def test_each_lane_has_its_own_status():
    rhs = np.stack(
        [SINGULAR @ RHS[0], RHS[1], SINGULAR @ RHS[2], 0 * RHS[0], np.where(np.arange(SIZE) == 3, np.nan, 1)]
    )
    solution = _solver(BlockCG())(SINGULAR, jnp.asarray(rhs))
    names = [bl.Code(code).name for code in solution.status.code.tolist()]
    assert names == ["converged", "singular", "converged", "converged", "nonfinite"]
    least = np.linalg.pinv(SINGULAR, rcond=1e-10) @ rhs[[0, 2]].T
    np.testing.assert_allclose(solution.value[jnp.array([0, 2])], least.T, atol=1e-8)
    assert np.isnan(solution.value[4]).all()


@pytest.mark.parametrize("lanes", ["generic", "dependent"])
def test_consistent_systems_get_the_solutions_of_least_norm(lanes):
    rhs = LANES[lanes] @ SINGULAR
    solution = _solver(BlockCG())(SINGULAR, jnp.asarray(rhs))
    assert solution.status.name == "converged"
    np.testing.assert_allclose(solution.value, (np.linalg.pinv(SINGULAR, rcond=1e-10) @ rhs.T).T, atol=1e-8)


def test_an_indefinite_system_is_told_lane_by_lane():
    matrix = symmetric(np.concatenate([-np.linspace(1.0, 2.0, 10), np.linspace(1.0, 3.0, SIZE - 10)]))
    assert _solver(BlockCG())(matrix, jnp.asarray(RHS)).status.code.tolist() == [bl.Code.indefinite] * 5
    with pytest.raises(ValueError, match="BlockCG needs a symmetric system"):
        BlockCG()(Operator(lambda x: x, symmetric=False), jnp.ones(3))


def test_out_of_steps_in_every_lane():
    solution = _solver(BlockCG(max_steps=3))(WIDE, jnp.asarray(RHS))
    assert solution.status.code.tolist() == [bl.Code.max_steps] * 5 and solution.products.tolist() == [4] * 5


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("strategy", ["jacobi", "nystrom", "factor"])
def test_preconditioned(strategy, sign):
    scales = np.logspace(0, 6, SIZE) ** 0.5
    matrix = sign * scales[:, None] * OUTLIERS * scales
    factor = CholeskyFactor(jnp.linalg.cholesky(sign * matrix), jnp.bool_(True))
    strategies = {"jacobi": Jacobi(), "nystrom": RandomizedNystrom(rank=8), "factor": factor}
    operator = Operator(lambda x: matrix @ x, symmetric=True, definite=True, sign=sign)

    def products(solver):
        solution = jax.jit(jax.vmap(lambda b: solver.prepare(operator, b).solve(b)))(RHS)
        assert bool(jnp.all(solution.status.ok))
        np.testing.assert_allclose(solution.value * scales, np.linalg.solve(matrix, RHS.T).T * scales, atol=1e-7)
        return int(solution.products.max())

    helped = products(BlockCG(preconditioner=strategies[strategy]))
    assert helped <= products(CG(preconditioner=strategies[strategy])) and helped <= products(BlockCG())
    assert strategy != "factor" or helped <= 4


@pytest.mark.slow
def test_batches_of_systems_and_batches_in_batches():
    matrices = np.stack([OUTLIERS, WIDE])
    solve = lambda matrix, b: BlockCG()(lambda x: matrix @ x, b)
    lanes = jax.vmap(solve, (None, 0))
    exact = np.einsum("mij,bj->mbi", np.linalg.inv(matrices), RHS)
    of_systems = jax.jit(jax.vmap(lanes, (0, None)))(matrices, RHS)  # a block for each
    np.testing.assert_allclose(of_systems.value, exact, atol=1e-8)
    alone = [_solver(BlockCG())(matrix, jnp.asarray(RHS)).products.tolist() for matrix in matrices]
    assert of_systems.products.tolist() == alone
    one_each = jax.jit(jax.vmap(jax.vmap(solve), (None, 0)))(
        matrices, np.stack([RHS[:2], RHS[2:4]])
    )  # CG, lane by lane
    np.testing.assert_allclose(one_each.value[0, 1], exact[1, 1], atol=1e-8)
    merged = jax.jit(jax.vmap(lanes, (None, 0)))(OUTLIERS, np.stack([RHS[:2], RHS[2:4]]))  # one block
    assert (
        merged.products.tolist() == _solver(BlockCG())(OUTLIERS, jnp.asarray(RHS[:4])).products.reshape(2, 2).tolist()
    )


def _on_trees(x):
    return {"a": 3.0 * x["a"] + x["b"], "b": jnp.sum(x["a"]) + 9.0 * x["b"]}


@pytest.mark.slow
def test_pytrees_and_starts():
    lanes = jax.jit(jax.vmap(lambda b, start: BlockCG()(_on_trees, b, start)))
    truth = {"a": jnp.asarray(RHS[:3, :6]).reshape(3, 2, 3), "b": jnp.asarray(RHS[:3, 6])}
    rhs = jax.vmap(_on_trees)(truth)
    for init in (truth, jax.tree.map(lambda leaf: leaf + 0.1, truth), jax.tree.map(lambda leaf: leaf * jnp.nan, truth)):
        solution = lanes(rhs, init)
        assert bool(jnp.all(solution.status.ok)) and jax.tree.structure(solution.value) == jax.tree.structure(truth)
        jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, atol=1e-8), solution.value, truth)
        assert init is not truth or solution.products.tolist() == [1] * 3


DESIGN = RNG.normal(size=(30, SIZE)) * np.logspace(0, 1, SIZE)


def _ridge(theta):
    normal = DESIGN.T @ DESIGN + jnp.diag(jnp.exp(theta))
    return jnp.linalg.solve(normal, DESIGN.sum(axis=0))


def _condition(w, theta):
    return DESIGN.T @ (DESIGN @ w - 1.0) + jnp.exp(theta) * w


ROOT = bl.custom_root(_condition, solve=BlockCG())(lambda init, theta: _ridge(theta))
THETA = np.linspace(-1.0, 1.0, SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [jax.jacrev, pytest.param(jax.jacfwd, marks=pytest.mark.slow)])
def test_jacobians_of_a_solution(mode):
    jacobian = jax.jit(mode(lambda theta: ROOT(None, theta)))(jnp.asarray(THETA))
    np.testing.assert_allclose(jacobian, jax.jacrev(_ridge)(jnp.asarray(THETA)), atol=1e-9)


@pytest.mark.slow
def test_several_cotangents_under_jit_with_traced_data():
    @jax.jit
    def pulled(design, cotangents):
        condition = lambda w, theta: design.T @ (design @ w - 1.0) + jnp.exp(theta) * w
        vjp = lambda v: bl.root_vjp(condition, _ridge(THETA), (THETA,), v, solve=BlockCG())[0]
        return jax.vmap(vjp)(cotangents)

    expected = jax.vmap(jax.vjp(_ridge, THETA)[1])(jnp.asarray(RHS))[0]
    np.testing.assert_allclose(pulled(DESIGN, jnp.asarray(RHS)), expected, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        lambda f: jax.jacfwd(jax.jacrev(f)),
        lambda f: jax.jacrev(jax.jacfwd(f)),
    ],
    ids=["jacfwd of jacrev", "jacrev of jacfwd"],
)
def test_second_derivatives(mode):
    point = jnp.array([-0.5, 0.3])
    spread = jnp.stack([jnp.ones(SIZE), jnp.arange(SIZE) / SIZE])
    second, expected = (
        jax.jit(mode(lambda h, f=f: f(h @ spread)))(point) for f in (lambda theta: ROOT(None, theta), _ridge)
    )
    np.testing.assert_allclose(second, expected, atol=1e-9)


@pytest.mark.slow
def test_an_inner_problem_in_both_precisions():
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((batch @ w - 1.0) ** 2) + 0.5 * jnp.sum(jnp.exp(h) * w**2),
        init=lambda key, h: jnp.zeros(SIZE, h.dtype),
        solver=bl.Newton(),
    )
    solution = lambda h: inner.solve(h, DESIGN.astype(h.dtype), linear_solve=BlockCG()).params
    exact = jax.jacrev(_ridge)(jnp.asarray(THETA))
    for dtype, error in (("float64", 1e-8), ("float32", 2e-3)):
        jacobian = jax.jit(jax.jacrev(solution))(THETA.astype(dtype))
        assert jacobian.dtype == dtype
        np.testing.assert_allclose(jacobian, exact, atol=error * float(jnp.abs(exact).max()))
