"""Programs with harmless peculiarities are solved, and a program without a solution says so, never another one."""

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel import cones

SOLVERS = [bl.Auto(), bl.InteriorPoint(), bl.OperatorSplitting()]
BOX = jnp.concatenate([jnp.eye(2), -jnp.eye(2)])


def statuses(solution: bl.Solution) -> list[str]:
    return [bl.Code(int(code)).name for code in np.atleast_1d(solution.status.code)]


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_zero_rows(solver):
    """0'x = 0 changes nothing, 0'x = 1 and 0'x <= -1 are contradictions; the derivatives are those without them."""
    A = jnp.array([[1.0, 1.0], [0.0, 0.0]])
    q = jnp.array([-1.0, -2.0])

    def layer(b, h):
        return bl.quadratic_program(jnp.eye(2), q, A, jnp.stack([1.0, b]), jnp.zeros((1, 2)), h[None], solver=solver)

    found = jax.vmap(layer)(jnp.array([0.0, 1.0, 0.0]), jnp.array([0.0, 0.0, -1.0]))
    assert statuses(found) == ["converged", "infeasible", "infeasible"]
    assert_allclose(found.params[0], [0, 1], atol=1e-9)
    assert bool(jnp.all(jnp.isnan(found.params[1:])))


@pytest.mark.slow
def test_a_large_right_hand_side_is_not_infeasible():
    """Operator splitting took b'y >> A'y for a proof; sparse programs choose it."""
    data = jnp.eye(2), jnp.zeros(2), jnp.ones((1, 2)), jnp.array([1e6]), -jnp.eye(2), jnp.zeros(2)
    found = bl.quadratic_program(*data, solver=bl.OperatorSplitting())
    assert found.status.name == "converged"
    assert_allclose(found.params, [5e5, 5e5], rtol=1e-9)


@pytest.mark.sample(2)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("which", range(6))
def test_nan_in_nan_out(solver, which):
    data = [jnp.eye(2), -3 * jnp.ones(2), jnp.ones((1, 2)), jnp.ones(1), jnp.eye(2), jnp.ones(2)]
    data[which] = data[which].at[0].set(jnp.nan)
    found = bl.quadratic_program(*data, solver=solver)
    assert found.status.name == "nonfinite"
    assert all(bool(jnp.all(jnp.isnan(leaf))) for leaf in (found.params, *found.dual))


@pytest.mark.slow
def test_nan_in_nan_out_for_cones_and_derivatives():
    def layer(b):
        return bl.cone_program(-jnp.eye(2), b, jnp.array([1.0, 2.0]), cones.NonNegative(2))

    b = jnp.array([-3.0, jnp.nan])
    assert layer(b).status.name == "nonfinite"
    assert bool(jnp.all(jnp.isnan(jax.grad(lambda b: layer(b).params.sum())(b))))

    def bounded(h):
        return bl.quadratic_program(jnp.eye(2), -3 * jnp.ones(2), G=jnp.eye(2), h=h).params.sum()

    assert bool(jnp.all(jnp.isnan(jax.grad(bounded)(jnp.array([jnp.nan, 1.0])))))


def test_a_bound_of_minus_infinity_is_infeasible():
    found = bl.quadratic_program(jnp.eye(2), jnp.ones(2), G=jnp.eye(2), h=jnp.array([-jnp.inf, 1.0]))
    assert found.status.name == "infeasible"


@pytest.mark.sample(1)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_hessian_with_a_negative_eigenvalue_is_refused(scale):
    """At any scale, and no semidefinite one of rounding error."""
    layer = jax.vmap(lambda Q: bl.quadratic_program(Q, scale * jnp.array([1.0, 0.5]), G=BOX, h=jnp.ones(4)))
    root = np.random.default_rng(0).normal(size=2)
    matrices = [np.diag([1.0, -1e-3]), np.array([[0.0, 1], [1, 0]]), np.outer(root, root), np.zeros((2, 2))]
    found = layer(scale * jnp.asarray(matrices))
    assert statuses(found) == ["indefinite", "indefinite", "converged", "converged"]
    assert bool(jnp.all(jnp.isnan(found.params[:2])))


@pytest.mark.slow
def test_the_tolerance_of_a_solver_is_honoured():
    rng = np.random.default_rng(1)
    root, G = rng.normal(size=(6, 6)), rng.normal(size=(9, 6))
    data = {"Q": root @ root.T + 0.1 * np.eye(6), "q": rng.normal(size=6), "G": G, "h": np.abs(rng.normal(size=9))}
    tight, loose = (bl.quadratic_program(**data, solver=bl.InteriorPoint(tol=tol)) for tol in (1e-10, 1e-2))
    assert int(loose.steps) < int(tight.steps)
    assert loose.status.name == tight.status.name == "converged"


def test_a_warm_start_of_another_shape_is_refused():
    found = bl.quadratic_program(jnp.eye(2), -jnp.ones(2), G=jnp.eye(2), h=jnp.ones(2))
    for init in (found._replace(params=jnp.ones(3)), found._replace(dual=bl.Dual(jnp.zeros(1), jnp.zeros(1)))):
        with pytest.raises(ValueError, match="the solution of a program of the same shapes"):
            bl.quadratic_program(jnp.eye(2), -jnp.ones(2), G=jnp.eye(2), h=jnp.ones(2), init=init)
    lengths: list[dict[str, Any]] = [
        {"A": jnp.ones(2), "b": jnp.ones(())},
        {"G": jnp.ones((3, 1, 2)), "h": jnp.ones((3, 1))},
    ]
    for given in lengths:
        with pytest.raises(ValueError, match="A single row"):
            bl.quadratic_program(jnp.eye(2), -jnp.ones(2), **given)
    with pytest.raises(ValueError, match="n > 0"):
        bl.quadratic_program(jnp.zeros((0, 0)), jnp.zeros(0))


def soft(seed: int, penalty: float, quadratic: bool) -> tuple[np.ndarray, ...]:
    """Rows that may be violated at a price: feasible whatever the data."""
    n, m = 5, 8
    rng = np.random.default_rng(seed)
    root, G = rng.normal(size=(n, n)), rng.normal(size=(m, n))
    Q, q = (
        np.zeros((n + m, n + m)),
        np.concatenate([rng.normal(size=n), np.zeros(m) if quadratic else np.full(m, penalty)]),
    )
    Q[:n, :n] = root @ root.T / n + 0.1 * np.eye(n)
    Q[n:, n:] = penalty * np.eye(m) if quadratic else 0
    rows = np.block([[G, -np.eye(m)], [np.zeros((m, n)), -np.eye(m)]])
    return Q, q, rows, np.concatenate([rng.normal(size=m), np.zeros(m)])


@pytest.mark.slow
@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("penalty", [1e5, 1e6])
def test_soft_penalties_in_single_precision_are_feasible(penalty, quadratic):
    """57 to 87 of 100 were called infeasible."""
    data = [
        np.stack(part).astype(np.float32)
        for part in zip(*[soft(s, penalty, quadratic) for s in range(100)], strict=True)
    ]
    found = jax.jit(jax.vmap(lambda Q, q, G, h: bl.quadratic_program(Q, q, G=G, h=h)))(*map(jnp.asarray, data))
    assert not {"infeasible", "unbounded"} & set(statuses(found))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_proofs_do_not_depend_on_units(solver, dtype):
    """Infeasible and unbounded programs, their rows, columns and objective multiplied by powers of ten."""
    rng = np.random.default_rng(0)
    reach = 2 if dtype == jnp.float32 else 4

    def scaled(case: str) -> tuple[np.ndarray, ...]:
        n, m = 4, 7
        G = rng.normal(size=(m, n))
        G[m - 1] = -np.abs(rng.normal(size=m - 2)) @ G[: m - 2] if case == "infeasible" else G[m - 1]
        h = rng.uniform(0.5, 1, m)
        h[m - 1] = -10 if case == "infeasible" else 1
        ray = rng.normal(size=n)
        G = G if case == "infeasible" else G - np.outer(np.maximum(G @ ray, 0) / (ray @ ray), ray)
        root = rng.normal(size=(2, n))
        root = root if case == "infeasible" else root - np.outer(root @ ray, ray) / (ray @ ray)
        q = rng.normal(size=n) if case == "infeasible" else -ray
        rows, columns = 10.0 ** rng.integers(-reach, reach + 1, m), 10.0 ** rng.integers(-reach, reach + 1, n)
        loss = 10.0 ** rng.integers(-reach, reach + 1)
        return (
            loss * columns[:, None] * (root.T @ root) * columns,
            loss * columns * q,
            rows[:, None] * G * columns,
            rows * h,
        )

    for case in ("infeasible", "unbounded"):
        data = [jnp.asarray(np.stack(part), dtype) for part in zip(*[scaled(case) for _ in range(20)], strict=True)]
        found = jax.jit(jax.vmap(lambda Q, q, G, h: bl.quadratic_program(Q, q, G=G, h=h, solver=solver)))(*data)
        names = statuses(found)
        assert not set(names) & {"converged", "stalled"}, names
        assert names.count(case) >= (18 if solver != bl.OperatorSplitting() else 0), names


LOOP = """
import jax, jax.numpy as jnp, bilevel as bl
maps = lambda: sum(1 for _ in open("/proc/self/maps"))
f = lambda h: bl.quadratic_program(jnp.eye(2), -jnp.ones(2), G=jnp.ones((1, 2)), h=h).params.sum()
grad = lambda h: jax.grad(f)(h).sum()
f(jnp.ones(1)), grad(jnp.ones(1)), jax.vmap(f)(jnp.ones((3, 1)))
before = maps()
for k in range(150):
    f(jnp.full(1, 1.0 + k)), grad(jnp.full(1, 1.0 + k)), jax.vmap(f)(jnp.full((3, 1), 1.0 + k))
print(maps() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory maps in /proc")
def test_eager_calls_compile_once():
    """130 eager calls aborted the process, which ran out of memory maps; also in a gradient and in a batch."""
    run = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, timeout=300)
    assert int(run.stdout) < 200, run.stderr
