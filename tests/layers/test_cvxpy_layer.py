"""CVXPY problems as functions of their parameters: the canonical data, the variables, derivatives, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel import cones
from bilevel.foundation.eager import Setting
from bilevel.kernels.symmetric import upper_by_columns
from bilevel.layers import canonical_form
from bilevel.layers.cvxpy_layer import data_of, values_of

cp = pytest.importorskip("cvxpy", reason="the extra cvxpy is not installed")


def lasso():
    x = cp.Variable((2, 3))
    A, B, weight = cp.Parameter((4, 2)), cp.Parameter((4, 3)), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - B) + weight * cp.norm1(x)), [x[0, 1] <= 0.1])
    return problem, [A, B, weight], [x]


def portfolio():
    x, P, q = cp.Variable(3, nonneg=True), cp.Parameter((3, 3), PSD=True), cp.Parameter(3)
    return cp.Problem(cp.Maximize(q @ x - cp.quad_form(x, P)), [cp.sum(x) == 1]), [P, q], [x]


def semidefinite():
    """Variables and parameters whose attributes make CVXPY store a part of them; parameters in another order."""
    X, d = cp.Variable((3, 3), PSD=True), cp.Variable((3, 3), diag=True)
    s, t = cp.Variable((2, 2), symmetric=True), cp.Variable((2, 3), sparsity=[(0, 1), (2, 0)])
    C, D, total = cp.Parameter((3, 3), symmetric=True), cp.Parameter((3, 3), diag=True), cp.Parameter()
    loss = cp.sum_squares(X - C) + cp.sum_squares(d - D - C) + cp.sum_squares(s - 1) + cp.sum_squares(t - 2)
    return cp.Problem(cp.Minimize(loss), [cp.trace(X) == total]), [total, D, C], [d, X, t, s]


def entropy():
    x, w = cp.Variable(3), cp.Parameter(3, pos=True)
    return cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) + w @ x), [cp.sum(x) == 1]), [w], [x]


def norms():
    x, F, g, r = cp.Variable(3), cp.Parameter((4, 3)), cp.Parameter(4), cp.Parameter(pos=True)
    return cp.Problem(cp.Minimize(cp.norm(F @ x - g) + 0.1 * cp.sum(x)), [cp.norm(x) <= r, x[0] <= 0.5]), [F, g, r], [x]


def powers():
    x, c = cp.Variable(3), cp.Parameter()
    return cp.Problem(cp.Maximize(x[2] - c * x[0]), [cp.PowCone3D(x[0], x[1], x[2], 0.3), x[1] <= 2]), [c], [x]


PROBLEMS = (lasso, portfolio, semidefinite, entropy, norms, powers)


def arguments(parameters, seed=0):
    """Arrays inside of what the attributes of the parameters allow, so that a small change of any kind leaves the
    problem convex and its sets with an inside."""
    rng = np.random.default_rng(seed)
    drawn = [parameter.project(rng.normal(size=parameter.shape) + 0.3) for parameter in parameters]
    return [array + inward(parameter) for array, parameter in zip(drawn, parameters, strict=True)]


def inward(parameter):
    """A direction into the cone of the parameter."""
    if parameter.attributes["PSD"]:
        return np.eye(parameter.shape[0])
    return 0.5 if parameter.attributes["nonneg"] or parameter.attributes["pos"] else 0.0


def as_array(value):
    return np.asarray(value.todense() if hasattr(value, "todense") else value)


@pytest.fixture
def as_cvxpy_has_it(monkeypatch):
    """The canonical form before `without_bounds` and `explicit_last`, which have tests of their own."""

    def place(program):
        return np.arange(program.c.shape[0])

    monkeypatch.setattr(canonical_form, "without_bounds", lambda program, *_: (program, place(program)))
    monkeypatch.setattr(canonical_form, "explicit_last", lambda program, bent, _: (program, bent, place(program), 0))


@pytest.mark.parametrize("problem_of", PROBLEMS)
@pytest.mark.usefixtures("as_cvxpy_has_it")
def test_data_are_those_that_cvxpy_computes(problem_of):
    problem, parameters, variables = problem_of()
    form = bl.from_cvxpy(problem, parameters, variables).form
    arrays = [as_array(array) for array in arguments(parameters)]
    data = data_of(Setting(form), [jnp.asarray(array) for array in arrays])
    for parameter, array in zip(parameters, arguments(parameters), strict=True):
        parameter.value = array
    options = {"use_quad_obj": form.cone is None}
    expected, _, _ = problem.get_problem_data(cp.CLARABEL, enforce_dpp=True, solver_opts=options)
    if form.cone is None:
        Q, q, A, b, G, h = data
        assert_allclose(Q, as_array(expected["P"]) if "P" in expected else 0 * Q, atol=1e-12)
        rows = jnp.concatenate([A, G]), jnp.concatenate([b, h])
    else:
        A, b, q = data
        order = in_cvxpy_order(form.cone)
        rows = A[order], b[order]
    assert_allclose(q, expected["c"], atol=1e-12)
    assert_allclose(rows[0], as_array(expected["A"]), atol=1e-12)
    assert_allclose(rows[1], expected["b"], atol=1e-12)


def in_cvxpy_order(cone):
    order, start = [], 0
    for part in cone.cones:
        order.append(start + (upper_by_columns(part.n) if isinstance(part, cones.PSD) else np.arange(part.dim)))
        start += part.dim
    return np.concatenate(order)


@pytest.mark.parametrize("problem_of", PROBLEMS)
@pytest.mark.usefixtures("as_cvxpy_has_it")
def test_variables_are_those_that_cvxpy_recovers(problem_of):
    problem, parameters, variables = problem_of()
    form = bl.from_cvxpy(problem, parameters, variables).form
    options = {"use_quad_obj": form.cone is None}
    data, chain, inverse = problem.get_problem_data(cp.CLARABEL, enforce_dpp=True, solver_opts=options)
    x = np.random.default_rng(1).uniform(1, 2, data["param_prob"].x.size)  # positive, because CVXPY projects
    solution = cp.reductions.Solution("optimal", 0.0, {data["param_prob"].x.id: x}, {}, {})
    for reduction, inverted in reversed(list(zip(chain.reductions, inverse, strict=True))[:-1]):
        solution = reduction.invert(solution, inverted)
    for value, variable in zip(values_of(Setting(form), jnp.asarray(x)), variables, strict=True):
        assert_allclose(value, as_array(solution.primal_vars[variable.id]))


def simplex():
    x, point = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - point)), [cp.sum(x) == 1, x >= 0])
    return problem, [point], [x]


@pytest.mark.slow
def test_values_derivatives_and_statuses_of_a_batch():
    """The projection on the simplex; in the last lane its third entry is weakly active."""
    layer = bl.from_cvxpy(*simplex())
    points = jnp.array([[0.9, 0.3, -0.5], [0.2, 0.5, 0.1], [1.0, 0.4, 0.2]])
    solution = jax.jit(jax.vmap(layer.solve))(points)
    (values,) = solution.params
    assert_allclose(values, bl.projections.simplex(points), atol=1e-9)
    assert solution.status.code.tolist() == [bl.Code.converged] * 3
    forward, backward = (jax.jit(jax.vmap(mode(lambda p: layer(p)[0])))(points) for mode in (jax.jacfwd, jax.jacrev))
    assert_allclose(forward, backward, atol=1e-9)
    assert_allclose(forward[:2], jax.vmap(jax.jacfwd(bl.projections.simplex))(points[:2]), atol=1e-8)
    one_face = np.array([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]), np.eye(3) - 1 / 3
    assert min(np.abs(forward[2] - face).max() for face in one_face) < 1e-7, "at a kink: the derivative of one side"
    assert solution.grade.tolist() == [1, 1, 0]


@pytest.mark.slow
def test_where_there_is_no_solution_the_status_says_so():
    x, bound = cp.Variable(2), cp.Parameter()
    layer = bl.from_cvxpy(cp.Problem(cp.Minimize(cp.sum(x)), [x >= 1, cp.sum(x) <= bound]), [bound], [x])
    solution = jax.vmap(layer.solve)(np.array([1.0, 3.0], np.float32))
    assert solution.status.code.tolist() == [bl.Code.infeasible, bl.Code.converged]
    assert solution.params[0].dtype == np.float32
    assert np.isnan(solution.params[0][0]).all()
    assert_allclose(solution.params[0][1], [1, 1], atol=1e-5)


def test_what_has_no_derivative_is_refused_in_a_sentence():
    problem, parameters, variables = simplex()
    other, x, p = cp.Parameter(3), cp.Variable(2), cp.Parameter()
    P = cp.Parameter((2, 2), PSD=True)
    mixed = cp.Variable(2, integer=True)
    refused = {
        "not listed in parameters": (problem, [], variables),
        "is no parameter of the problem": (problem, [*parameters, other], variables),
        "is no variable of the problem": (problem, parameters, [x]),
        "listed twice": (problem, parameters, variables * 2),
        "variables is empty": (problem, parameters, []),
        "not convex": (cp.Problem(cp.Maximize(cp.sum_squares(x)), [x <= 1]), [], [x]),
        "not DPP": (cp.Problem(cp.Minimize(p * p * cp.sum(x)), [x >= p]), [p], [x]),
        "integer": (cp.Problem(cp.Minimize(cp.sum(mixed)), [mixed >= p]), [p], [mixed]),
        "constraints that are all linear": (
            cp.Problem(cp.Minimize(cp.quad_form(x, P)), [cp.norm(x - 2) <= 1]),
            [P],
            [x],
        ),
    }
    for words, (problem, parameters, variables) in refused.items():
        with pytest.raises(ValueError, match=words):
            bl.from_cvxpy(problem, parameters, variables)
    for words, arguments in {"takes a cvxpy.Problem": (1, [], []), "lists a int": (simplex()[0], [1], [])}.items():
        with pytest.raises(TypeError, match=words):
            bl.from_cvxpy(*arguments)
    layer = bl.from_cvxpy(*simplex())
    for arrays in ((), (np.ones(2),), (np.ones((4, 3)),)):
        with pytest.raises(ValueError, match="in this order; it got the shapes"):
            layer(*arrays)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Reading from a sparse CVXPY expression")  # in CVXPY's own solve
@pytest.mark.parametrize("problem_of", PROBLEMS)
def test_values_and_derivatives_against_cvxpy_and_finite_differences(problem_of):
    problem, parameters, variables = problem_of()
    layer = bl.from_cvxpy(problem, parameters, variables)
    arrays = [as_array(array) for array in arguments(parameters)]
    solution = layer.solve(*arrays)
    assert solution.status.name == "converged"
    for parameter, array in zip(parameters, arguments(parameters), strict=True):
        parameter.value = array
    problem.solve(solver=cp.CLARABEL)
    for found, variable in zip(solution.params, variables, strict=True):
        assert_allclose(found, as_array(variable.value), atol=1e-4)  # of the tolerance of Clarabel, and of its root
    flat = lambda arrays: jnp.concatenate([value.ravel() for value in layer(*arrays)])
    value, compiled = flat(arrays), jax.jit(flat)
    rng = np.random.default_rng(2)
    along = [rng.normal(size=array.shape) for array in arrays]
    _, tangent = jax.jvp(compiled, (arrays,), (along,))
    ends = [
        compiled([array + step * change for array, change in zip(arrays, along, strict=True)]) for step in (1e-5, -1e-5)
    ]
    assert_allclose(tangent, (ends[0] - ends[1]) / 2e-5, atol=1e-6)
    cotangent = rng.normal(size=value.shape)
    (pulled,) = jax.vjp(compiled, arrays)[1](cotangent)
    paired = sum(np.sum(one * other) for one, other in zip(pulled, along, strict=True))
    assert_allclose(paired, cotangent @ tangent, rtol=1e-8)
