"""The laws of every linear solver on every kind of system, eager, under jit and lane by lane under vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.foundation.status import Code
from bilevel.linear_solve import CG, GMRES, MINRES, AutoLinear, BiCGStab, BlockCG, Dense, Jacobi, Normal, Operator

SIZE = 6
SOLVERS = {
    "cg": CG(),
    "cg_jacobi": CG(preconditioner=Jacobi()),
    "block_cg": BlockCG(),
    "minres": MINRES(),
    "gmres": GMRES(),
    "gmres_restarted": GMRES(restart=4),
    "bicgstab": BiCGStab(),
    "normal": Normal(),
    "dense": Dense(),
    "auto": AutoLinear(),
    "auto_iterative": AutoLinear(dense=0),
}
SYMMETRIC_ONLY = ("cg", "cg_jacobi", "block_cg", "minres")
DEFINITE_ONLY = ("cg", "cg_jacobi", "block_cg")


def _systems() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]

    def symmetric(*eigenvalues: float) -> np.ndarray:
        return basis @ np.diag(eigenvalues) @ basis.T

    rhs = rng.normal(size=SIZE)
    spd, singular = symmetric(1, 2, 3, 4, 5, 6), symmetric(0, 0, 2, 3, 4, 5)
    return {
        "positive": (spd, rhs),
        "negative": (-spd, rhs),
        "indefinite": (symmetric(-3, -1, 1, 2, 4, 5), rhs),
        "nonsymmetric": (4 * np.eye(SIZE) + rng.normal(size=(SIZE, SIZE)), rhs),
        "twice_identity": (2 * np.eye(SIZE), rhs),
        "two_eigenvalues": (symmetric(1, 1, 1, 7, 7, 7), rhs),
        "zero_rhs": (spd, 0 * rhs),
        "huge_rhs": (spd, 1e25 * rhs),
        "tiny_rhs": (spd, 1e-25 * rhs),
        "singular_consistent": (singular, singular @ rhs),
        "singular_inconsistent": (singular, rhs),
        "nan": (np.where(np.eye(SIZE) > 0, np.nan, spd), rhs),
    }


SYSTEMS = _systems()


def _failure(solver: str, system: str) -> tuple[Code, ...]:
    """The codes of which one must be reported; empty where the system must be solved."""
    if system == "nan":
        return (Code.nonfinite,)
    if system == "singular_inconsistent":  # BiCGStab and restarted GMRES cannot tell a null space from slow progress
        unable = (Code.max_steps, Code.indefinite) if solver in ("bicgstab", "gmres_restarted") else ()
        return (Code.singular, *unable)
    if system == "indefinite" and solver in DEFINITE_ONLY:
        return (Code.indefinite,)
    if system == "nonsymmetric" and solver in SYMMETRIC_ONLY:
        return (Code.indefinite, Code.singular, Code.max_steps, Code.diverged)
    return ()


def _solve(solver: str, matrix: jax.Array, rhs: jax.Array):
    return SOLVERS[solver](lambda x: matrix @ x, rhs)


@functools.cache
def _jitted(solver: str):
    return jax.jit(functools.partial(_solve, solver))


@functools.cache
def _batch(solver: str, dtype: str):
    matrices, rhs = (jnp.asarray(np.stack(part), dtype) for part in zip(*SYSTEMS.values(), strict=True))
    return jax.jit(jax.vmap(functools.partial(_solve, solver)))(matrices, rhs)


def _check(solver: str, system: str, solution, dtype: str) -> None:
    matrix, rhs = (np.asarray(jnp.asarray(part, dtype), np.float64) for part in SYSTEMS[system])
    value, residual = np.asarray(solution.value, np.float64), float(solution.residual)
    assert solution.value.dtype == dtype
    failure = _failure(solver, system)
    if failure:
        assert solution.status.name in [code.name for code in failure]
        assert not bool(solution.status.ok)
    else:
        assert solution.status.name == "converged"
        expected = np.linalg.pinv(matrix, rcond=1e-5) @ rhs
        difference = value - expected
        if solver == "cg_jacobi":  # of a singular system it gives the solution that is least in another norm
            difference = matrix @ difference
        error = np.linalg.norm(difference) / (np.linalg.norm(expected) or 1)
        assert error < (1e-8 if dtype == "float64" else 1e-4)
    if system == "nan":
        assert np.isnan(value).all() and np.isnan(residual)
    elif system == "zero_rhs":
        assert residual == 0 and not value.any()
    else:  # the residual reported is the true one
        true = np.linalg.norm(matrix @ value - rhs) / np.linalg.norm(rhs)
        rounding = 100 * float(np.finfo(dtype).eps) * (1 + float(np.linalg.norm(value) / np.linalg.norm(rhs)))
        np.testing.assert_allclose(residual, true, rtol=1e-5, atol=rounding)


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_solves_or_says_why_not_under_jit(solver, system, dtype):
    matrix, rhs = (jnp.asarray(part, dtype) for part in SYSTEMS[system])
    _check(solver, system, _jitted(solver)(matrix, rhs), dtype)


@pytest.mark.sample(4)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_lane_of_a_batch_is_a_solve_of_its_own(solver, dtype):
    batch = _batch(solver, dtype)
    for lane, system in enumerate(SYSTEMS):
        solution = jax.tree.map(lambda leaf, lane=lane: leaf[lane], batch)
        _check(solver, system, solution, dtype)
        if not _failure(solver, system):
            matrix, rhs = (jnp.asarray(part, dtype) for part in SYSTEMS[system])
            alone = int(_jitted(solver)(matrix, rhs).products)
            assert abs(int(solution.products) - alone) <= max(2, alone // 10)  # its own count, up to rounding


@pytest.mark.parametrize("system", ["positive", "nan"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solves_or_says_why_not_eagerly(solver, system):
    matrix, rhs = (jnp.asarray(part) for part in SYSTEMS[system])
    _check(solver, system, _solve(solver, matrix, rhs), "float64")


@pytest.mark.parametrize("solver", ["cg", "cg_jacobi", "block_cg", "minres", "normal", "dense", "auto_iterative"])
def test_declared_facts_do_not_change_the_solution(solver):
    for sign in (1, -1):
        matrix, rhs = sign * SYSTEMS["positive"][0], SYSTEMS["positive"][1]
        operator = Operator(lambda x, matrix=matrix: matrix @ x, symmetric=True, definite=True, sign=sign)
        solution = SOLVERS[solver](operator, jnp.asarray(rhs))
        assert solution.status.name == "converged"
        np.testing.assert_allclose(solution.value, np.linalg.solve(matrix, rhs), rtol=1e-8)


@pytest.mark.parametrize("symmetric", [True, None])
@pytest.mark.parametrize("singular", [True, False])
@pytest.mark.parametrize("solver", ["dense", "cg", "block_cg"])
def test_singular_consistent_systems_get_the_solution_of_least_norm(solver, singular, symmetric):
    matrix, rhs = SYSTEMS["singular_consistent"]
    operator = Operator(lambda x: matrix @ x, symmetric=symmetric, definite=symmetric, singular=singular)
    solution = SOLVERS[solver](operator, jnp.asarray(rhs))
    assert solution.status.name == "converged"
    np.testing.assert_allclose(solution.value, np.linalg.pinv(matrix) @ rhs, rtol=1e-8)


@pytest.mark.sample(3)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_scalar_unknown(solver):
    solve = jax.jit(lambda slope, rhs: SOLVERS[solver](lambda x: slope * x, rhs))
    for slope in (2.0, -0.5):
        solution = solve(jnp.asarray(slope), jnp.asarray(3.0))
        assert solution.status.name == "converged" and solution.value.shape == ()
        np.testing.assert_allclose(solution.value, 3.0 / slope, rtol=1e-12)


def _tree_matvec(x):
    return {
        "matrix": 3.0 * x["matrix"] + x["scalar"],
        "pair": (x["pair"][0] + x["pair"][1], x["pair"][0] + 4.0 * x["pair"][1]),
        "scalar": jnp.sum(x["matrix"]) + 9.0 * x["scalar"],
    }


@pytest.mark.sample(3)
@pytest.mark.parametrize("solver", SOLVERS)
def test_pytrees_keep_their_structure(solver):
    truth = {
        "matrix": jnp.arange(6.0).reshape(2, 3) - 1.0,
        "pair": (jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])),
        "scalar": jnp.array(2.0),
    }
    solution = jax.jit(lambda rhs: SOLVERS[solver](_tree_matvec, rhs))(_tree_matvec(truth))
    assert solution.status.name == "converged"
    assert jax.tree.structure(solution.value) == jax.tree.structure(truth)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9), solution.value, truth)


@pytest.mark.sample(2)
@pytest.mark.parametrize("solver", ["cg", "block_cg", "minres", "gmres", "bicgstab", "dense"])
def test_badly_conditioned_in_float32_stalls_at_a_small_error(solver):
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    matrix = basis @ np.diag(np.logspace(0, 4, 20)) @ basis.T
    rhs = rng.normal(size=20)
    rounded = np.asarray(jnp.asarray(matrix, "float32"), np.float64)  # the system that is stated
    rounded = (rounded + rounded.T) / 2
    solution = SOLVERS[solver](lambda x: jnp.asarray(rounded, "float32") @ x, jnp.asarray(rhs, "float32"))
    expected = np.linalg.solve(rounded, np.asarray(jnp.asarray(rhs, "float32"), np.float64))
    assert solution.status.name in ("stalled", "converged")
    assert np.linalg.norm(solution.value - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("solver", ["cg", "cg_jacobi", "block_cg", "minres", "gmres", "bicgstab", "normal"])
def test_a_start_at_the_solution_takes_no_steps(solver):
    matrix, rhs = SYSTEMS["positive"]
    solution = SOLVERS[solver](lambda x: matrix @ x, jnp.asarray(rhs), init=jnp.asarray(np.linalg.solve(matrix, rhs)))
    setup = SIZE if solver == "cg_jacobi" else 0
    assert solution.status.name == "converged" and int(solution.products) == setup + 1


@pytest.mark.parametrize("solver", ["cg", "block_cg", "gmres", "normal"])
def test_a_useless_start_does_no_harm(solver):
    matrix, rhs = SYSTEMS["positive"]
    solve = jax.jit(lambda init: SOLVERS[solver](lambda x: matrix @ x, jnp.asarray(rhs), init=init))
    for entry in (np.nan, np.inf, 1e30):
        solution = solve(jnp.full(SIZE, entry))
        assert solution.status.name == "converged"
        np.testing.assert_allclose(solution.value, np.linalg.solve(matrix, rhs), rtol=1e-8)


@pytest.mark.parametrize("solver", ["cg", "block_cg", "minres", "gmres", "bicgstab"])
def test_out_of_steps(solver):
    solver = type(SOLVERS[solver])(max_steps=2)
    matrix, rhs = SYSTEMS["positive"]
    solution = solver(lambda x: matrix @ x, jnp.asarray(rhs))
    assert solution.status.name == "max_steps" and 1e-10 < float(solution.residual) < 1


@pytest.mark.sample(4)
@pytest.mark.parametrize("solver", SOLVERS)
def test_products_are_counted_exactly(solver):
    matrix, rhs = SYSTEMS["positive"]
    symmetric = True if solver == "normal" else None  # a call that is counted cannot be transposed
    calls = []

    def matvec(x):
        jax.debug.callback(lambda _: calls.append(1), x)
        return matrix @ x

    solution = jax.jit(lambda b: SOLVERS[solver](Operator(matvec, symmetric=symmetric), b))(jnp.asarray(rhs))
    jax.block_until_ready(solution)
    jax.effects_barrier()
    assert int(solution.products) == len(calls)


def test_the_tolerance_is_traced():
    traces = []

    @jax.jit
    def solve(solver, rhs):
        traces.append(1)
        return solver(lambda x: jnp.array([1.0, 2.0, 5.0, 30.0]) * x, rhs)

    loose, tight = (solve(CG(tol=tol), jnp.ones(4)) for tol in (0.5, 1e-12))
    assert len(traces) == 1
    assert int(loose.products) < int(tight.products)
    assert float(loose.residual) <= 0.5 and float(tight.residual) <= 1e-12
