import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import CG, Jacobi, LBFGSPairs, Operator, RandomizedNystrom

RNG = np.random.default_rng(0)
SIZE = 60
BASIS = np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))[0]
RHS = np.asarray(RNG.normal(size=SIZE))


def _matrix(eigenvalues):
    return BASIS @ np.diag(eigenvalues) @ BASIS.T


SPIKED = _matrix(np.r_[np.logspace(5, 2, 10), np.linspace(1, 2, SIZE - 10)])
SCALED = np.diag(np.logspace(0, 6, SIZE)) + 0.01 * _matrix(np.linspace(1, 2, SIZE))


def _pairs(matrix, count=40):
    steps = jnp.asarray(RNG.normal(size=(count, SIZE)))
    return LBFGSPairs(steps, steps @ matrix)


@pytest.mark.sample(3)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("matrix", "preconditioner", "setup"),
    [
        (SCALED, Jacobi(probes=100), SIZE),
        (SCALED, Jacobi(probes=16), 16),
        (SPIKED, RandomizedNystrom(rank=15), 15),
        (SPIKED, RandomizedNystrom(rank=15, rho=1.0), 15),
    ],
    ids=["jacobi", "jacobi_probed", "nystrom", "nystrom_shifted"],
)
def test_saves_steps_and_counts_its_set_up(matrix, preconditioner, setup, sign):
    operator = Operator(lambda x: sign * matrix @ x, symmetric=True, definite=True, sign=sign)
    plain = CG()(operator, RHS)
    helped = CG(preconditioner=preconditioner)(operator, RHS)
    assert helped.status.name == "converged"
    assert int(helped.products) - setup < int(plain.products) / 2
    np.testing.assert_allclose(helped.value, sign * jnp.linalg.solve(matrix, RHS), rtol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_lbfgs_pairs_save_steps(sign):
    operator = Operator(lambda x: sign * SPIKED @ x, symmetric=True, definite=True, sign=sign)
    steps = BASIS.T[:10]  # the directions that a quasi-Newton method learns first: of large curvature
    pairs = LBFGSPairs(steps, sign * steps @ SPIKED)
    plain, helped = CG()(operator, RHS), CG(preconditioner=pairs)(operator, RHS)
    assert helped.status.name == "converged" and int(helped.products) < int(plain.products) / 2
    np.testing.assert_allclose(helped.value, sign * jnp.linalg.solve(SPIKED, RHS), rtol=1e-6)


def _dense_bfgs(pairs, sign):
    """The inverse by the update formula itself, in matrices."""
    steps, images = np.asarray(pairs.steps), sign * np.asarray(pairs.images)
    inverse = np.eye(SIZE) * (steps[-1] @ images[-1]) / (images[-1] @ images[-1])
    for step, image in zip(steps, images, strict=True):
        left = np.eye(SIZE) - np.outer(step, image) / (step @ image)
        inverse = left @ inverse @ left.T + np.outer(step, step) / (step @ image)
    return sign * inverse


@pytest.mark.parametrize("sign", [1, -1])
def test_the_two_loops_equal_the_update_formula(sign):
    pairs = _pairs(sign * SPIKED, count=5)
    precondition, _ = pairs.prepare(Operator(lambda x: x, sign=sign), RHS)
    np.testing.assert_allclose(precondition(RHS), _dense_bfgs(pairs, sign) @ RHS, rtol=1e-9)


def test_pairs_without_curvature_are_left_out():
    good = _pairs(SPIKED, count=3)
    padding = jnp.zeros((2, SIZE))
    bad = LBFGSPairs(
        jnp.concatenate([padding, good.steps, RHS[None], padding]),
        jnp.concatenate([padding, good.images, -RHS[None], padding]),
    )
    operator = Operator(lambda x: x)
    np.testing.assert_allclose(bad.prepare(operator, RHS)[0](RHS), good.prepare(operator, RHS)[0](RHS), rtol=1e-10)
    none = LBFGSPairs(padding, padding).prepare(operator, RHS)[0]
    np.testing.assert_array_equal(none(RHS), RHS)


def test_pairs_of_pytrees():
    pairs = LBFGSPairs({"a": jnp.eye(2)}, {"a": jnp.diag(jnp.array([2.0, 4.0]))})
    precondition, _ = pairs.prepare(Operator(lambda x: x), {"a": jnp.ones(2)})
    np.testing.assert_allclose(precondition({"a": jnp.ones(2)})["a"], [0.5, 0.25])


@pytest.mark.sample(1)
@pytest.mark.parametrize("preconditioner", [Jacobi(), RandomizedNystrom()])
def test_what_cannot_be_preconditioned_is_still_reported(preconditioner):
    solver = CG(preconditioner=preconditioner)
    indefinite = _matrix(np.where(np.arange(SIZE) % 2, -1.0, 2.0))
    assert not bool(solver(lambda x: jnp.nan * x, RHS).status.ok)
    assert solver(lambda x: jnp.nan * x, RHS).status.name == "nonfinite"
    solution = solver(lambda x: indefinite @ x, RHS)
    assert not bool(solution.status.ok) or jnp.allclose(indefinite @ solution.value, RHS)
    zero = solver(lambda x: 0 * x, RHS)
    assert zero.status.name == "singular" and jnp.isfinite(zero.value).all()
