"""Right-hand sides of which the reduction to a face leaves little more than rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.implicit.prepare import prepare_system

NORMAL = np.array([1.0, 1.0, -1.0]) / 3**0.5
ALONG = np.array([1.0, 0.0, 1.0])
SETS = {
    "ball": lambda z, theta: bl.projections.l2_ball(z, 1.0),
    "affine": lambda z, theta: bl.projections.affine_set(z, jnp.asarray(NORMAL[None], z.dtype), jnp.ones(1, z.dtype)),
}


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


def test_a_loss_that_is_flat_on_the_face_stays_singular():
    """No curvature along the face: what a cotangent asks for there is no rounding, and has no answer."""
    mapping = bl.optimality.ProjectedGradient(lambda w, theta: jnp.sum(w * theta), SETS["affine"], 0.3)
    system = mapping.system(jnp.asarray(NORMAL), jnp.asarray(NORMAL))
    found = prepare_system(system, bl.Dense(), jnp.asarray(NORMAL)).solve_adjoint(jnp.asarray(NORMAL + 1e-3 * ALONG))
    assert not bool(found.solution.status.ok)
