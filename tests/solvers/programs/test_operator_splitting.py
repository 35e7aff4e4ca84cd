"""Operator splitting on quadratic and cone programs, dense, sparse and known by functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO
from jax.extend.core import jaxprs_in_params
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel import cones

WAYS = {"a factor": bl.OperatorSplitting(), "conjugate gradients": bl.OperatorSplitting(factored=0)}


def program(seed: int = 0, n: int = 8, p: int = 2, m: int = 10, spread: float = 0.0) -> dict:
    """A feasible program with a positive definite Q, its columns scaled from 10^-spread to 10^spread."""
    rng = np.random.default_rng(seed)
    columns = np.logspace(-spread, spread, n)
    root, A, G = (rng.normal(size=(rows, n)) * columns for rows in (n, p, m))
    inside = rng.normal(size=n) / columns
    data = {"Q": root.T @ root + 0.1 * np.diag(columns**2), "q": rng.normal(size=n) * columns, "A": A, "b": A @ inside}
    return {
        name: jnp.asarray(value) for name, value in (data | {"G": G, "h": G @ inside + rng.uniform(size=m)}).items()
    }


def flat(solution: bl.Solution) -> jax.Array:
    return jnp.concatenate([solution.params, *solution.dual])


CASES = [("a factor", 4.0), *(pytest.param(way, 0.0, marks=pytest.mark.slow) for way in WAYS)]
CASES += [pytest.param("conjugate gradients", 4.0, marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize(("way", "spread"), CASES)
def test_the_solution_is_that_of_the_interior_point_method(way, spread):
    """Also with columns from 1e-4 to 1e4."""
    data = program(spread=spread)
    found, witness = (
        jax.jit(lambda data, s=s: bl.quadratic_program(**data, solver=s))(data) for s in (WAYS[way], bl.InteriorPoint())
    )
    assert found.status.name == "converged" and float(found.residual) < 1e-10
    columns = np.logspace(-spread, spread, 8)
    assert_allclose(found.params * columns, witness.params * columns, atol=1e-8)
    assert_allclose(jnp.concatenate(found.dual), jnp.concatenate(witness.dual), atol=1e-7)


@pytest.mark.slow
def test_osqp_is_a_witness():
    osqp = pytest.importorskip("osqp")
    data = program(3, 20, 4, 25)
    rows = np.concatenate([data["A"], data["G"]])
    lower = np.concatenate([data["b"], np.full(25, -np.inf)])
    host = osqp.OSQP()
    host.setup(
        scipy.sparse.csc_matrix(data["Q"]), np.asarray(data["q"]), scipy.sparse.csc_matrix(rows), lower,
        np.concatenate([data["b"], data["h"]]), eps_abs=1e-9, eps_rel=1e-9, max_iter=100_000, verbose=False,
    )  # fmt: skip
    witness = host.solve(raise_error=True)
    found = bl.quadratic_program(**data, solver=WAYS["a factor"])
    assert_allclose(found.params, witness.x, atol=1e-6)
    assert_allclose(jnp.concatenate(found.dual), witness.y, atol=1e-5)


@pytest.mark.slow
def test_without_polishing_the_tolerance_is_met():
    data = program(1)
    for tol in (1e-4, 1e-8):
        found = jax.jit(lambda tol: bl.OperatorSplitting(tol=tol, polish=False).solve_program(as_cone(data)))(tol)
        at = [as_cone(data).P @ found.x + data["q"], as_cone(data).A.T @ found.y]
        assert int(found.code) == bl.Code.converged
        assert float(jnp.linalg.norm(at[0] + at[1])) <= tol * (1 + max(float(jnp.linalg.norm(v)) for v in at) * 2)


def as_cone(data: dict):
    from bilevel.solvers.programs.stated_by_arrays import ConeProgram

    cone = cones.Product(cones.Zero(data["b"].size), cones.NonNegative(data["h"].size))
    rows, bounds = (jnp.concatenate([data[a], data[b]]) for a, b in ("AG", "bh"))
    return ConeProgram(data["Q"], data["q"], rows, bounds, cone)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["a factor", pytest.param("conjugate gradients", marks=pytest.mark.slow)])
def test_infeasible_and_unbounded_lanes_are_named(way):
    G = jnp.array([[1.0, 0], [-1, 0], [0, -1]])
    q, h = jnp.array([[2.0, 1], [1, -1], [1, 1]]), jnp.array([[1.0, 1, 0], [1, 1, 0], [-1, -1, 0]])

    def layer(q, h):
        return bl.quadratic_program(jnp.diag(jnp.array([1.0, 0])), q, G=G, h=h, solver=WAYS[way])

    found = jax.jit(jax.vmap(layer))(q, h)
    assert [bl.Code(int(code)).name for code in found.status.code] == ["converged", "unbounded", "infeasible"]
    assert_allclose(found.params[0], [-1, 0], atol=1e-9)
    assert bool(jnp.all(jnp.isnan(found.params[1:])))


@pytest.mark.slow
def test_a_semidefinite_program_and_its_derivative():
    """The least eigenvalue: min <C, X>, trace X = 1, X psd; no other native solver knows the cone."""
    A = jnp.concatenate([cones.svec(jnp.eye(3))[None], -jnp.eye(6)])
    cone, b = cones.Product(cones.Zero(1), cones.PSD(3)), jnp.zeros(7).at[0].set(1)
    matrix = jnp.array([[1.0, -0.4, 0.2], [-0.4, 2.0, 0.1], [0.2, 0.1, 0.5]])

    def least(matrix):
        c = cones.svec(0.5 * (matrix + matrix.T))
        return c @ bl.cone_program(A, b, c, cone, solver=bl.OperatorSplitting()).params

    value, gradient = jax.jit(jax.value_and_grad(least))(matrix)
    values, vectors = np.linalg.eigh(matrix)
    assert_allclose(value, values[0], atol=1e-9)
    assert_allclose(gradient, np.outer(vectors[:, 0], vectors[:, 0]), atol=1e-8)


@pytest.mark.slow
def test_an_exponential_program():
    """Entropy over the simplex: the solution is a softmax."""
    A, b = np.zeros((10, 6)), np.zeros(10)
    A[0, :3], b[0] = 1, 1
    for i in range(3):
        A[1 + 3 * i, 3 + i], A[2 + 3 * i, i], b[3 + 3 * i] = -1, -1, 1
    cone, p = cones.Product(cones.Zero(1), *[cones.Exponential()] * 3), jnp.array([0.1, 0.5, -0.3])
    data = (jnp.asarray(A), jnp.asarray(b), jnp.concatenate([p, -jnp.ones(3)]))
    found = jax.jit(lambda A, b, c: bl.cone_program(A, b, c, cone, solver=bl.OperatorSplitting()))(*data)
    assert found.status.name == "converged"
    assert_allclose(found.params[:3], jax.nn.softmax(-p), atol=1e-9)


@pytest.mark.slow
def test_sparse_matrices_have_the_derivatives_of_dense_ones():
    """Auto takes operator splitting for them; the derivative is that of the stored entries."""
    data = program(2, 5, 1, 6) | {"G": jnp.asarray(np.eye(6, 5) - np.eye(6, 5, -1))}
    data["h"] = data["G"] @ jnp.ones(5) + 0.1
    data["b"] = data["A"] @ jnp.ones(5)
    Q, G = BCOO.fromdense(data["Q"]), BCOO.fromdense(data["G"])

    def total(Q, q, A, b, G, h):
        return jnp.sum(bl.quadratic_program(Q, q, A, b, G, h).params ** 3)

    def sparse(entries, q, h):
        return total(Q, q, data["A"], data["b"], BCOO((entries, G.indices), shape=G.shape), h)

    found = jax.jit(jax.grad(sparse, argnums=(0, 1, 2)))(G.data, data["q"], data["h"])
    dense = jax.jit(jax.grad(total, argnums=(4, 1, 5)))(*(data[name] for name in "QqAbGh"))
    assert_allclose(found[0], dense[0][G.indices[:, 0], G.indices[:, 1]], atol=1e-8)
    for one, other in zip(found[1:], dense[1:], strict=True):
        assert_allclose(one, other, atol=1e-8)


@pytest.mark.slow
def test_a_warm_start_takes_fewer_steps():
    data = program(4, 20, 3, 30)
    solver = bl.OperatorSplitting(polish=False, iterations=5, tol=1e-7)
    solve = jax.jit(lambda data, init: bl.quadratic_program(**data, solver=solver, init=init))
    near = data | {"q": data["q"] + 1e-3}
    cold = jax.jit(lambda data: bl.quadratic_program(**data, solver=solver))
    first, plain = cold(data), cold(near)
    warm = solve(near, first)
    assert int(warm.steps) < int(plain.steps)
    assert_allclose(warm.params, plain.params, atol=1e-6)
    failed = first._replace(params=first.params * jnp.nan)
    assert_allclose(solve(near, failed).params, plain.params, atol=1e-6)  # a failed start is no start


@pytest.mark.slow
def test_float32():
    data = {name: value.astype(jnp.float32) for name, value in program().items()}
    exact = bl.quadratic_program(**program()).params
    found = jax.jit(lambda data: bl.quadratic_program(**data, solver=bl.OperatorSplitting()))(data)
    assert found.params.dtype == jnp.float32 and bool(found.status.ok)
    assert_allclose(found.params, exact, atol=1e-3)


def chain(size: int, solver: bl.Solver) -> bl.InnerProblem:
    """Trend filtering under bounds on the steps: || w - batch ||^2 / 2, |w_{i+1} - w_i| <= h, sum w = 1."""
    rows = bl.Functional(
        equality=lambda w, h, batch: jnp.sum(w) - 1.0,
        inequality=lambda w, h, batch: {"up": jnp.diff(w) - h, "down": -jnp.diff(w) - h},
    )
    return bl.InnerProblem(
        lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2), lambda key, h: jnp.zeros(size), constraint=rows,
        solver=solver,
    )  # fmt: skip


@pytest.mark.slow
def test_constraints_by_functions_and_the_hypergradient():
    batch = jnp.asarray(np.random.default_rng(0).normal(size=12))
    ours, witness = chain(12, bl.OperatorSplitting()), chain(12, bl.InteriorPoint())
    found, expected = (jax.jit(inner.solve)(0.3, batch) for inner in (ours, witness))
    assert found.status.name == "converged"
    assert_allclose(found.params, expected.params, atol=1e-8)
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-7), found.dual, expected.dual)
    gradients = [
        jax.jit(jax.grad(lambda h, inner=inner: jnp.sum(inner.solve(h, batch).params ** 3)))(0.3)
        for inner in (ours, witness)
    ]
    assert_allclose(*gradients, rtol=1e-6)
    warm = ours.solve(0.3001, batch, init=bl.PrimalDual(found.params, *found.dual))
    assert int(warm.steps) <= int(ours.solve(0.3001, batch).steps)


def test_no_matrix_is_ever_formed():
    """The largest array of the compiled solve is a vector (of constraints, times the probes of the scaling)."""
    size = 3000
    inner = chain(size, bl.OperatorSplitting(polish=False))
    jaxpr = jax.make_jaxpr(lambda batch: inner.run(0.3, batch, *2 * (inner.cold_start(jax.random.key(0), 0.3, batch),)))
    largest = max(np.prod(shape) for shape in _shapes(jaxpr(jnp.zeros(size)).jaxpr))
    assert largest <= 8 * (2 * size + 1) * 2


def _shapes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars if hasattr(variable.aval, "shape"))
        for inside in jaxprs_in_params(equation.params):
            yield from _shapes(inside)


@pytest.mark.sample(1)
@pytest.mark.parametrize("case", ["infeasible", "unbounded"])
def test_statuses_of_problems_by_functions(case):
    inequality = {
        "infeasible": lambda w, h, batch: jnp.stack([w[0] - 1, 2 - w[0]]),
        "unbounded": lambda w, h, batch: w[:1] - 1,
    }[case]
    inner = bl.InnerProblem(
        lambda w, h, batch: w[0] + w[1] ** 2, lambda key, h: jnp.zeros(2),
        constraint=bl.Functional(inequality=inequality), solver=bl.OperatorSplitting(),
    )  # fmt: skip
    assert jax.jit(inner.solve)(0.0, None).status.name == case


@pytest.mark.slow
def test_a_smooth_convex_program_that_is_not_quadratic():
    """Linearised anew at each step: min sum exp(-b w) in a ball."""
    inner = bl.InnerProblem(
        lambda w, h, batch: jnp.sum(jnp.exp(-batch * w)), lambda key, h: jnp.zeros(4),
        constraint=bl.Functional(inequality=lambda w, h, batch: jnp.sum(w**2) - h), solver=bl.OperatorSplitting(),
    )  # fmt: skip
    batch = jnp.array([0.5, 1.0, -0.2, 0.8])
    found, expected = (jax.jit(i.solve)(4.0, batch) for i in (inner, inner.with_solver(bl.InteriorPoint())))
    assert found.status.name == "converged"
    assert_allclose(found.params, expected.params, atol=1e-8)


def test_auto_takes_it_for_large_problems():
    reason = chain(5000, bl.Auto()).explain(0.3, jnp.zeros(5000))
    assert reason.startswith("bl.OperatorSplitting: the set is stated by functions")


def test_refusals():
    free = bl.InnerProblem(lambda w, h, b: jnp.sum(w**2), lambda k, h: jnp.ones(2), solver=bl.OperatorSplitting())
    with pytest.raises(ValueError, match=r"constrained by functions, and this one has none"):
        free.solve(None, None)


@pytest.mark.slow
@pytest.mark.parametrize("size", [500, 5000])
def test_a_large_sparse_program_against_cvxpy(size):
    """Nearest point with bounded differences, nonnegative: by Auto, sparse, and by CVXPY with Clarabel."""
    cvxpy = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(0)
    target = np.cumsum(rng.normal(size=size)) * 0.3
    identity = scipy.sparse.eye_array(size).tocsr()
    difference = identity[1:] - identity[:-1]
    rows = scipy.sparse.vstack([difference, -difference, -identity])
    bounds = np.concatenate([np.full(2 * size - 2, 0.1), np.zeros(size)])
    w = cvxpy.Variable(size)
    tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12)
    objective = cvxpy.Minimize(0.5 * cvxpy.sum_squares(w - target))
    cvxpy.Problem(objective, [rows @ w <= bounds]).solve("CLARABEL", **tight)
    Q = BCOO.from_scipy_sparse(identity.tocoo())
    G = BCOO.from_scipy_sparse(rows.tocoo())
    found = jax.jit(lambda q, h: bl.quadratic_program(Q, q, G=G, h=h))(-target, bounds)
    assert found.status.name == "converged"
    assert_allclose(found.params, w.value, atol=1e-6)
