"""The operator splitting kernel: solutions are its fixed points, units change nothing, proofs are proofs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.foundation.status import Code
from bilevel.kernels.splitting import (
    Point,
    Quadratic,
    Scales,
    Sizes,
    Units,
    adapted,
    advance,
    certificate,
    from_scaled,
    polished,
    proofs,
    scaled,
    sizes,
    to_scaled,
)

TARGET = np.array([1.0, -2.0, 0.5])


def non_negative(P=None, A=None, q=None, b=None, factored=True):
    """min 1/2 x'Px + q'x subject to A x <= b; as it comes, the projection of TARGET on {x >= 0}."""
    P = jnp.eye(3) if P is None else jnp.asarray(P)
    A = -jnp.eye(3) if A is None else jnp.asarray(A)
    q = -jnp.asarray(TARGET) if q is None else jnp.asarray(q)
    b = jnp.zeros(len(A)) if b is None else jnp.asarray(b)
    return Quadratic(
        lambda x: P @ x,
        lambda x: A @ x,
        lambda y: A.T @ y,
        q,
        b,
        lambda s: jnp.maximum(s, 0),
        lambda y: jnp.maximum(y, 0),
        jnp.ones(len(A)),
        (lambda weights: P + A.T @ (weights[:, None] * A)) if factored else None,
    )


def solution():
    x = np.maximum(TARGET, 0)
    return Point(*map(jnp.asarray, (x, x - TARGET, -x)))  # z = b - s = A x


def units_of(program):
    one = jnp.ones_like(program.q)
    return Units(one, jnp.ones_like(program.b), jnp.abs(program.hessian(one)))


@pytest.mark.parametrize("rho", [1e-2, 1.0, 1e2])
def test_a_solution_is_a_fixed_point_at_every_rho(rho):
    moved = advance(non_negative(), solution(), jnp.asarray(rho), 3)
    for now, then in zip(moved, solution(), strict=True):
        assert_allclose(now, then, atol=1e-12)


@pytest.mark.parametrize("factored", [True, False])
def test_the_iterates_approach_the_solution(factored):
    """By a Cholesky factor, and by conjugate gradients that stop early."""
    program = non_negative(factored=factored)
    start = Point(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3))
    reached = advance(program, start, jnp.asarray(1.0), 100)
    for now, then in zip(reached, solution(), strict=True):
        assert_allclose(now, then, atol=1e-7)
    found = sizes(program, reached)
    assert float(found.primal) < 1e-7 and float(found.dual) < 1e-7


def test_the_residuals_of_a_solution_vanish_and_their_terms_do_not():
    found = sizes(non_negative(), solution())
    assert_allclose([found.primal, found.dual], 0, atol=1e-15)
    assert_allclose([found.primal_terms, found.dual_terms], [1.0, 2.0])


def test_a_scaled_program_takes_scaled_iterates():
    rng = np.random.default_rng(0)
    positive = lambda n: jnp.asarray(np.exp(rng.normal(size=n)))
    scales = Scales(positive(3), positive(3), positive(()))
    program = non_negative(q=rng.normal(size=3), b=rng.normal(size=3))
    inside = scaled(program, scales)
    point = Point(*(jnp.asarray(rng.normal(size=3)) for _ in range(3)))
    at = to_scaled(point, scales)
    for back, then in zip(from_scaled(at, scales), point, strict=True):
        assert_allclose(back, then, rtol=1e-14)
    stationary = lambda program, x, y: program.hessian(x) + program.q + program.transposed(y)
    expected = scales.cost * scales.columns * stationary(program, point.x, point.y)
    assert_allclose(stationary(inside, at.x, at.y), expected, rtol=1e-12)
    assert_allclose(inside.rows(at.x) - inside.b, scales.rows * (program.rows(point.x) - program.b), rtol=1e-12)
    weights = positive(3)
    expected = np.stack([inside.hessian(one) + inside.transposed(weights * inside.rows(one)) for one in np.eye(3)])
    assert inside.matrix is not None
    assert_allclose(inside.matrix(weights), expected, rtol=1e-12)


def test_rho_follows_the_larger_residual_and_stays_where_both_are_alike():
    now = functools.partial(adapted, jnp.asarray(1.0))
    of = lambda primal, dual: Sizes(jnp.asarray(primal), jnp.asarray(dual), jnp.ones(()), jnp.ones(()))
    assert float(now(of(1.0, 1e-4))) == pytest.approx(100)
    assert float(now(of(1e-4, 1.0))) == pytest.approx(0.01)
    assert float(now(of(1.0, 0.5))) == 1  # off by a factor of 1.4
    assert float(now(of(jnp.nan, 1.0))) == 1
    assert 1e-6 <= float(now(of(0.0, 1.0))) < float(now(of(1.0, 0.0))) <= 1e6


class TestProofs:
    """x <= -1 and x >= 1 cannot hold together; -x falls without end over x >= 0."""

    contradiction = np.array([[1.0], [-1.0]])

    def infeasible(self, units=1.0):
        return non_negative(P=np.eye(1), A=units * self.contradiction, q=[0.0], b=-units * np.ones(2))

    @pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
    def test_multipliers_of_every_size_prove_a_contradiction(self, size):
        program = self.infeasible()
        infeasible, unbounded = proofs(program, units_of(program), jnp.zeros(1), size * jnp.ones(2))
        assert bool(infeasible) and not bool(unbounded)

    def test_multipliers_that_do_not_cancel_prove_nothing(self):
        program = self.infeasible()
        assert not bool(proofs(program, units_of(program), jnp.zeros(1), jnp.array([1.0, 0.9]))[0])

    @pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
    def test_a_ray_of_every_size_proves_that_there_is_no_minimum(self, size):
        program = non_negative(P=np.zeros((1, 1)), A=-np.eye(1), q=[-1.0])
        infeasible, unbounded = proofs(program, units_of(program), size * jnp.ones(1), jnp.zeros(1))
        assert bool(unbounded) and not bool(infeasible)

    def test_curvature_or_a_bound_along_the_ray_is_no_proof(self):
        curved = non_negative(P=np.eye(1), A=-np.eye(1), q=[-1.0])
        bounded = non_negative(P=np.zeros((1, 1)), A=np.eye(1), q=[-1.0], b=[1.0])
        for program in (curved, bounded):
            assert not bool(proofs(program, units_of(program), jnp.ones(1), jnp.zeros(1))[1])

    def test_iterates_that_move_along_a_proof_end_with_it(self):
        program = self.infeasible()
        point = Point(jnp.zeros(1), jnp.zeros(2), jnp.zeros(2))
        before = advance(program, point, jnp.asarray(1.0), 50)
        after = advance(program, before, jnp.asarray(1.0), 50)
        code, proof = certificate(program, units_of(program), before, after)
        assert int(code) == Code.infeasible
        assert float(program.b @ proof.y) < 0 and bool(jnp.all(proof.y >= 0))
        assert_allclose(program.transposed(proof.y), 0, atol=1e-7 * float(jnp.max(proof.y)))

    def test_iterates_that_settle_prove_nothing(self):
        code, proof = certificate(non_negative(), units_of(non_negative()), solution(), solution())
        assert int(code) == Code.converged
        for now, then in zip(proof, solution(), strict=True):
            assert_allclose(now, then)


def residual(program, at):
    stationary = program.hessian(at.x) + program.q + program.transposed(at.y)
    slack = program.b - program.rows(at.x)
    return jnp.linalg.norm(stationary) + jnp.linalg.norm(slack - program.project(slack - at.y))


def test_polishing_ends_at_rounding_where_the_active_rows_are_known():
    program = non_negative()
    near = jax.tree.map(lambda leaf: leaf + 1e-3 * jnp.array([1.0, -2.0, 3.0]), solution())
    found, error = jax.jit(lambda at: polished(program, at, lambda one: residual(program, one)))(near)
    assert float(error) < 1e-12
    assert_allclose(found.x, solution().x, atol=1e-12)
    assert_allclose(found.y, solution().y, atol=1e-12)


def test_polishing_never_makes_a_point_worse():
    program = non_negative()
    far = Point(jnp.array([-5.0, 5.0, -5.0]), jnp.array([3.0, 0.0, 2.0]), jnp.zeros(3))
    _, error = polished(program, far, lambda one: residual(program, one))
    assert float(error) <= float(residual(program, far))
