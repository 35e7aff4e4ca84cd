"""Quadratic programs stated by functions: recognised, and solved as those that are stated by matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.solvers.programs.recognised import is_quadratic_program


def loss(params, hparams, batch):
    w = jnp.concatenate([params["a"], params["b"][None]])
    return 0.5 * w @ (hparams["Q"] @ w) + hparams["q"] @ w + 1.0


def total(params, hparams, batch):
    return jnp.sum(params["a"]) + params["b"] - hparams["b"]


def box(params, hparams, batch):
    return {"upper": params["a"] - hparams["h"], "lower": [-params["b"], -params["a"]]}


def init(key, hparams):
    return {"a": 3 * jnp.ones(2), "b": jnp.ones(())}


INNER = bl.InnerProblem(loss=loss, init=init, constraint=bl.Functional(equality=total, inequality=box))
G = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, -1], [-1, 0, 0], [0, -1, 0]])


def by_matrices(hparams):
    h = jnp.concatenate([hparams["h"], jnp.zeros(3)])
    return bl.quadratic_program(hparams["Q"], hparams["q"], np.ones((1, 3)), hparams["b"][None], G, h)


def programs():
    """A convex program, one without a feasible point, and one whose Hessian has a negative eigenvalue."""
    root = np.random.default_rng(0).normal(size=(3, 3))
    Q = np.stack([root @ root.T + 0.1 * np.eye(3), np.eye(3), np.diag([1.0, 1.0, -0.5])])
    q = np.array([[-1.0, 2.0, 0.5], [1.0, 1.0, 1.0], [0.1, 0.2, -1.0]])
    return {"Q": Q, "q": q, "b": np.array([1.0, -1.0, 1.0]), "h": np.array([[0.4, 0.7], [1.0, 1.0], [0.5, 0.5]])}


@pytest.mark.slow
def test_a_batch_is_solved_as_by_matrices():
    hparams = programs()
    solution = jax.jit(jax.vmap(lambda h: INNER.solve(h, None)))(hparams)
    code = bl.Code
    assert solution.status.code.tolist()[:2] == [code.converged, code.infeasible]
    assert solution.steps[0] == 0 and solution.steps[2] > 0, "the last is not convex, so it takes steps"
    assert_allclose(solution.params["b"][2] + solution.params["a"][2].sum(), 1, atol=1e-8)
    expected = jax.jit(by_matrices)(jax.tree.map(lambda leaf: leaf[0], hparams))
    found = jnp.concatenate([solution.params["a"][0], solution.params["b"][0][None]])
    assert_allclose(found, expected.params, atol=1e-10)
    lower, upper = solution.dual.inequality_dual["lower"], solution.dual.inequality_dual["upper"]
    duals = jnp.concatenate([upper[0], lower[0][0][None], lower[1][0]])
    assert_allclose(duals, expected.dual.inequality_dual, atol=1e-9)
    assert_allclose(solution.dual.equality_dual[0], expected.dual.equality_dual[0], atol=1e-9)


@pytest.mark.slow
def test_the_derivative_is_that_of_the_program_by_matrices():
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), programs())
    weights = jnp.array([0.3, -1.0, 2.0])

    def by_functions(h):
        params = INNER.solve(h, None).params
        return weights @ jnp.concatenate([params["a"], params["b"][None]])

    found, expected = jax.jit(
        lambda h: (jax.grad(by_functions)(h), jax.grad(lambda h: weights @ by_matrices(h).params)(h))
    )(one)
    for name in ("q", "b", "h"):
        assert_allclose(found[name], expected[name], atol=1e-8, err_msg=name)
    assert_allclose(found["Q"] + found["Q"].T, 2 * expected["Q"], atol=1e-8)


def test_explain_says_so():
    one = jax.tree.map(lambda leaf: leaf[0], programs())
    assert "solved by its matrices, as bl.quadratic_program does" in INNER.explain(one, None)


@pytest.mark.parametrize(
    ("constraint", "curved", "recognised"),
    [
        (bl.Functional(inequality=box), False, True),
        (bl.Functional(equality=lambda w, h, batch: total(w, h, batch) * h["b"]), False, True),
        (bl.Functional(inequality=lambda w, h, batch: jnp.sum(w["a"] ** 2) - 1), False, False),
        (bl.Functional(equality=lambda w, h, batch: jnp.sin(w["b"])), False, False),
        (bl.Functional(inequality=box), True, False),
    ],
)
def test_what_is_recognised(constraint, curved, recognised):
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), programs())
    stated = (lambda w, h, batch: loss(w, h, batch) + jnp.exp(w["b"])) if curved else loss
    inner = bl.InnerProblem(loss=stated, init=init, constraint=constraint)
    start = inner.unknown(init(None, one), one, None)
    assert is_quadratic_program(inner.at(one, None), start) is recognised


@pytest.mark.slow
def test_float32_programs_end_at_the_rounding_of_their_matrices():
    """Steps by functions would lose digits that the matrices have, so none is taken."""
    random = np.random.default_rng(0)
    roots, q = random.normal(size=(8, 6, 6)), random.normal(size=(8, 6))
    data = (roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(6), q, random.normal(size=(8, 4, 6)))
    data = (*data, random.uniform(0.1, 0.6, size=(8, 4)))
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * w @ (h[0] @ w) + h[1] @ w,
        init=lambda key, h: jnp.zeros(6, h[1].dtype),
        constraint=bl.Functional(inequality=lambda w, h, batch: h[2] @ w - h[3]),
    )
    solve = jax.jit(jax.vmap(lambda *data: inner.solve(data, None)))
    narrow = [jnp.asarray(part, jnp.float32) for part in data]
    found, witness = solve(*narrow), solve(*(part.astype(jnp.float64) for part in narrow))
    assert found.params.dtype == jnp.float32 and found.status.ok.all() and int(found.steps.max()) == 0
    error = np.abs(found.params - witness.params).max(axis=1)
    condition = np.linalg.cond(data[0])
    assert np.all(error <= 1e-7 * condition * np.abs(witness.params).max(axis=1))
