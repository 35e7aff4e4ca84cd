import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import Dense, Operator

RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
POSITIVE = np.asarray(BASIS @ np.diag([1.0, 2.0, 3.0, 4.0, 5.0]) @ BASIS.T)
DEFICIENT = np.asarray(BASIS @ np.diag([0.0, 2.0, 3.0, 4.0, 5.0]) @ BASIS.T)
RHS = np.asarray(RNG.normal(size=5))


def _primitives(matrix, **facts):
    return str(jax.make_jaxpr(lambda b: Dense()(Operator(lambda x: matrix @ x, **facts), b).value)(RHS))


def test_the_facts_choose_the_factorisation():
    definite = _primitives(POSITIVE, symmetric=True, definite=True)
    unknown = _primitives(POSITIVE)
    singular = _primitives(POSITIVE, symmetric=True, singular=True)
    assert "cholesky" in definite and "= lu" not in definite  # a variable may be called lu
    assert "= lu" in unknown and "cholesky" not in unknown
    assert "eigh" in singular and "= lu" not in singular and "svd" not in singular
    assert "svd" in _primitives(POSITIVE, singular=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_promise_of_definiteness_that_is_broken_is_told(sign):
    """The system is solved all the same: where it came from a minimum, that is none."""
    matrix = POSITIVE - 2.5 * jnp.eye(5)
    operator = Operator(lambda x: matrix @ x, symmetric=True, definite=True, sign=sign)
    solution = Dense()(operator, RHS)
    assert solution.status.name == "indefinite" and int(solution.factorizations) == 2
    np.testing.assert_allclose(solution.value, jnp.linalg.solve(matrix, RHS), rtol=1e-8)


@pytest.mark.parametrize("facts", [{}, {"symmetric": True}, {"symmetric": True, "definite": True}, {"singular": True}])
def test_singular_systems(facts):
    solve = jax.jit(lambda b: Dense()(Operator(lambda x: DEFICIENT @ x, **facts), b))
    consistent, inconsistent = solve(DEFICIENT @ RHS), solve(RHS)
    assert consistent.status.name == "converged" and inconsistent.status.name == "singular"
    inverse = jnp.linalg.pinv(DEFICIENT, rtol=1e-10)
    np.testing.assert_allclose(consistent.value, inverse @ DEFICIENT @ RHS, rtol=1e-8)
    np.testing.assert_allclose(inconsistent.value, inverse @ RHS, rtol=1e-8)


def test_a_badly_scaled_regular_matrix_is_not_taken_for_a_singular_one():
    solution = Dense()(lambda x: jnp.array([1.0, 1e-20]) * x, jnp.array([3.0, 2.0]))
    assert solution.status.name == "converged"
    np.testing.assert_allclose(solution.value, [3.0, 2e20], rtol=1e-12)


@pytest.mark.parametrize("nested", [False, True])
def test_in_a_batch_only_singular_lanes_are_rescued(nested):
    matrices = jnp.stack([POSITIVE, DEFICIENT, POSITIVE + 1.0, DEFICIENT])
    solve = jax.vmap(lambda matrix: Dense()(lambda x: matrix @ x, matrix @ RHS))
    if nested:
        solution = jax.jit(jax.vmap(solve))(matrices.reshape(2, 2, 5, 5))
        solution = jax.tree.map(lambda leaf: leaf.reshape(4, *leaf.shape[2:]), solution)
    else:
        solution = jax.jit(solve)(matrices)
    assert solution.status.name == "converged" and solution.factorizations.tolist() == [1, 2, 1, 2]
    for matrix, value in zip(matrices, solution.value, strict=True):
        np.testing.assert_allclose(value, jnp.linalg.pinv(matrix, rtol=1e-10) @ matrix @ RHS, rtol=1e-8)


def test_a_batch_keeps_the_branch():
    """Under vmap the decomposition must stay behind a condition: it costs ten times the factorisation."""
    solve = jax.vmap(lambda matrix: Dense()(lambda x: matrix @ x, RHS).value)
    assert "cond[" in str(jax.make_jaxpr(solve)(jnp.stack([POSITIVE, POSITIVE])))


@pytest.mark.parametrize("sign", [1, -1])
def test_damping(sign):
    operator = Operator(lambda x: sign * (DEFICIENT @ x), symmetric=True, definite=True, sign=sign)
    solution = Dense(damping=0.1)(operator, RHS)
    expected = jnp.linalg.solve(sign * (DEFICIENT + 0.1 * jnp.eye(5)), RHS)
    assert solution.status.name == "truncated"
    np.testing.assert_allclose(solution.value, expected, rtol=1e-10)
    true = jnp.linalg.norm(sign * DEFICIENT @ expected - RHS) / jnp.linalg.norm(RHS)
    np.testing.assert_allclose(solution.residual, true, rtol=1e-9)


def test_damping_is_traced():
    traces = []

    @jax.jit
    def solve(solver):
        traces.append(1)
        return solver(lambda x: POSITIVE @ x, RHS)

    codes = [solve(Dense(damping=damping)).status.name for damping in (0.0, 1.0)]
    assert codes == ["converged", "truncated"] and len(traces) == 1


def test_several_right_hand_sides_share_a_factor():
    matrix = POSITIVE + np.eye(5, k=2)
    forward, backward = Dense().prepare_both(Operator(lambda x: matrix @ x), RHS)
    np.testing.assert_allclose(forward.solve(RHS).value, jnp.linalg.solve(matrix, RHS), rtol=1e-9)
    np.testing.assert_allclose(backward.solve(RHS).value, jnp.linalg.solve(matrix.T, RHS), rtol=1e-9)
    assert (forward.products, backward.products, int(forward.solve(RHS).products)) == (5, 0, 1)
