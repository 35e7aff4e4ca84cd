"""Right-hand sides of which the reduction to a face leaves little more than rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.implicit.attach import solve_system
from bilevel.implicit.mapping import System
from bilevel.implicit.prepare import prepare_system
from bilevel.linear_solve import Operator

NORMAL = np.array([1.0, 1.0, -1.0]) / 3**0.5
ALONG = np.array([1.0, 0.0, 1.0])
SETS = {
    "ball": lambda z, theta: bl.projections.l2_ball(z, 1.0),
    "affine": lambda z, theta: bl.projections.affine_set(z, jnp.asarray(NORMAL[None], z.dtype), jnp.ones(1, z.dtype)),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("linear_solve", [bl.Dense(), bl.CG(), bl.GMRES()], ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_cotangent_off_the_face_is_solved_for_to_its_own_size(dtype, name, linear_solve):
    """At w = normal, the nearest point to 2 normal of either set; A' u = v for v off the face but for a share."""
    mapping = bl.optimality.ProjectedGradient(lambda w, theta: 0.5 * jnp.sum((w - theta) ** 2), SETS[name], 0.3)
    w, theta = jnp.asarray(NORMAL, dtype), jnp.asarray(2 * NORMAL, dtype)

    @jax.jit
    def solve(share):
        prepared = prepare_system(mapping.system(w, theta), linear_solve, w)
        return prepared.solve_adjoint(jnp.asarray(NORMAL, dtype) + share * jnp.asarray(ALONG, dtype))

    matrix = np.asarray(jax.jacobian(mapping)(jnp.asarray(NORMAL), jnp.asarray(2 * NORMAL)))
    for share in (0.0, 1e-5, 1e-3):
        found = solve(jnp.asarray(share, dtype))
        assert bool(found.solution.status.ok), (share, found.solution.status.name)
        right = np.linalg.solve(matrix.T, NORMAL + share * ALONG)
        assert_allclose(found.value, right, rtol=0, atol=30 * np.finfo(dtype).eps)


@pytest.mark.slow
def test_a_loss_that_is_flat_on_the_face_stays_singular():
    """No curvature along the face: what a cotangent asks for there is no rounding, and has no answer."""
    mapping = bl.optimality.ProjectedGradient(lambda w, theta: jnp.sum(w * theta), SETS["affine"], 0.3)
    system = mapping.system(jnp.asarray(NORMAL), jnp.asarray(NORMAL))
    found = prepare_system(system, bl.Dense(), jnp.asarray(NORMAL)).solve_adjoint(jnp.asarray(NORMAL + 1e-3 * ALONG))
    assert not bool(found.solution.status.ok)


CONSTRAINTS = {
    "ball": bl.L2Ball(1.0),
    "sphere": bl.L2Sphere(1.0),
    "affine": bl.AffineSet(lambda h: jnp.ones((1, 3), h["b"].dtype), lambda h: jnp.ones(1, h["b"].dtype)),
    "simplex": bl.Simplex(1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ball", *(pytest.param(name, marks=pytest.mark.slow) for name in list(CONSTRAINTS)[1:])]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gradient_through_solve_along_the_normal_of_a_set_is_zero(dtype, name):
    """The nearest point to h moves along the face alone. On a tree of two leaves where the set takes one."""
    whole = name in ("ball", "sphere")

    def init(key, h):
        return jax.tree.map(jnp.zeros_like, h) if whole else jnp.zeros(3, dtype)

    def flat(tree):
        return jnp.concatenate(jax.tree.leaves(tree)) if isinstance(tree, dict) else tree

    def loss(w, h, batch):
        return 0.5 * jnp.sum((flat(w) - flat(h)) ** 2)

    inner = bl.InnerProblem(loss, init, constraint=CONSTRAINTS[name])
    h = {"a": np.asarray([1.3, 0.7], dtype), "b": np.asarray([0.4], dtype)}
    solved = lambda h: flat(inner.solve(h, None).params)
    w, back = jax.vjp(solved, jax.tree.map(jnp.asarray, h))
    normal = w if whole else jnp.ones_like(w)
    (gradient,) = back(normal)
    assert_allclose(flat(gradient), 0, atol=30 * np.finfo(dtype).eps)
    aside = jnp.asarray([0.0, 1e-3, 0.0], dtype)
    (gradient,) = back(normal + aside)
    (of_aside,) = back(aside)
    assert_allclose(flat(gradient), flat(of_aside), atol=30 * np.finfo(dtype).eps)
    assert np.linalg.norm(flat(of_aside)) > 1e-4


@pytest.mark.slow
def test_second_derivatives_along_the_normal_of_a_ball():
    """<c, h / ||h||> at h parallel to c has the gradient 0 and the Hessian (c c' - I) / ||h||^2."""
    inner = bl.InnerProblem(
        lambda w, h, batch: 0.5 * jnp.sum((w - h) ** 2), lambda key, h: jnp.zeros(3), constraint=bl.L2Ball(1.0)
    )
    normal = np.array([2.0, -1.0, 2.0]) / 3

    def along(h):
        return jnp.asarray(normal) @ inner.solve(h, None).params

    assert_allclose(jax.vmap(jax.grad(along))(jnp.asarray([1.7 * normal, 3 * normal])), 0, atol=1e-14)
    assert_allclose(jax.hessian(along)(jnp.asarray(3 * normal)), (np.outer(normal, normal) - np.eye(3)) / 9, atol=1e-8)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("solver", [bl.Dense(), bl.CG()], ids=["Dense", "CG"])
def test_a_part_off_the_range_is_forgiven_up_to_the_size_of_rounding(solver, dtype):
    """K = diag(2, 0). Up to eps^0.625 of the right-hand side the part along the null space is what a reduction to the
    face leaves; beyond it the system has no solution, and the derivative is NaN, never a plausible number."""
    matrix = jnp.diag(jnp.array([2.0, 0.0], dtype))
    operator = Operator(lambda x: matrix @ x, symmetric=True, definite=True, singular=True)
    system = System(operator, lambda rhs: rhs, lambda _, y: y)
    solve = jax.jit(lambda rhs: solve_system(system, solver, rhs))
    limit = float(jnp.finfo(dtype).eps) ** 0.625
    for size, known in ((0.0, True), (0.3 * limit, True), (3 * limit, False), (1e-2, False), (1.0, False)):
        found = solve(jnp.array([1.0, size], dtype))
        assert bool(jnp.isfinite(found[0])) == known
        if known:
            assert_allclose(found[0], 0.5, rtol=1e2 * float(jnp.finfo(dtype).eps))
