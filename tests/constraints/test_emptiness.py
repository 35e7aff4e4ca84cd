"""Sets that hold no point: refused where their parameters are known, ``infeasible`` where they are traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.constraints import is_empty

EMPTY = {
    "box": bl.Box(lower=lambda h: h, upper=0.5),
    "ball": bl.L2Ball(radius=lambda h: 0.5 - h),
    "simplex": bl.Simplex(scale=lambda h: 0.5 - h),
    "transport": bl.Transport(rows=lambda h: jnp.stack([h, h]), columns=jnp.array([0.5, 0.5])),
}


ROWS, SIDES = np.ones((2, 2)), np.array([[1.0, 0.0], [-1.0, 0.0]])
UNDEFINED = {
    "capped simplex": lambda h: bl.CappedSimplex(upper=h, total=1.0),
    "box section": lambda h: bl.BoxSection(0.0, h, jnp.ones(2), 1.0),
    "hyperplane": lambda h: bl.Hyperplane(normal=jnp.zeros(2), offset=1.0 - 2 * h),
    "half-space": lambda h: bl.HalfSpace(normal=jnp.zeros(2), offset=2 * h - 1.0),
    "affine set": lambda h: bl.AffineSet(jnp.asarray(ROWS), jnp.stack([2 * h, 1.0])),
    "polyhedron": lambda h: bl.Polyhedron(jnp.zeros((0, 2)), jnp.zeros(0), jnp.asarray(SIDES), jnp.stack([h, -0.5])),
}


def problem(constraint, **parts):
    start = jnp.full((2, 2), 0.25) if isinstance(constraint, bl.Transport) else jnp.zeros(2)
    loss = lambda w, h, batch: jnp.sum((w - 0.1) ** 2)
    return bl.InnerProblem(loss, lambda key, h: start, constraint=constraint, solver=bl.ProximalGradient(), **parts)


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_set_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"bl\.{type(EMPTY[name]).__name__}.* holds no point: .*"):
        problem(EMPTY[name]).solve(1.0, None)


@pytest.mark.slow
def test_under_jit_and_vmap_each_lane_has_its_status():
    found = jax.jit(jax.vmap(lambda h: problem(EMPTY["box"]).solve(h, None).status.code))(jnp.array([0.0, 1.0]))
    assert found.tolist() == [bl.Code.converged, bl.Code.infeasible]


@pytest.mark.slow
def test_beside_a_penalty_too():
    both = problem(EMPTY["box"], penalty=bl.L1(0.1))
    assert int(jax.jit(lambda h: both.solve(h, None).status.code)(1.0)) == bl.Code.infeasible


@pytest.mark.slow
def test_a_hypergradient_says_so():
    task = bl.Task(
        inner=problem(EMPTY["ball"]),
        outer_loss=lambda w, h, batch: jnp.sum(w**2),
        init_hparams=lambda key: jnp.ones(()),
        batches=bl.full_batch(None, None),
    )
    with pytest.raises(bl.ConvergenceError, match=r"status infeasible.*no point satisfies all of them"):
        bl.hypergradient(task, jnp.ones(()))


@pytest.mark.slow
def test_bounds_that_meet_and_nan_are_not_empty():
    assert problem(bl.Box(lower=0.3, upper=0.3)).solve(1.0, None).status.name == "converged"
    assert problem(bl.L2Ball(radius=lambda h: h)).solve(jnp.nan, None).status.name == "nonfinite"


@pytest.mark.parametrize("name", UNDEFINED)
def test_a_set_whose_projection_is_undefined_is_infeasible(name):
    """Where h is 0.5 there is a point, where it is 0.4 there is none, and NaN tells nothing."""
    empty = jax.jit(jax.vmap(lambda h: is_empty(UNDEFINED[name](h), h, jnp.zeros(2))))
    assert empty(jnp.array([0.5, 0.4, jnp.nan])).tolist() == [False, True, False]


@pytest.mark.slow
def test_the_solve_of_such_a_set_says_so_too():
    capped = lambda h: problem(UNDEFINED["capped simplex"](h)).solve(h, None).status.code
    statuses = jax.jit(jax.vmap(capped))(jnp.array([0.5, 0.4, jnp.nan]))
    assert statuses.tolist() == [bl.Code.converged, bl.Code.infeasible, bl.Code.nonfinite]


@pytest.mark.slow
def test_a_part_of_the_params_that_has_nowhere_to_be():
    parts = bl.Parts({"a": bl.CappedSimplex(upper=lambda h: h), "b": bl.Zero()})
    inner = bl.InnerProblem(
        lambda w, h, batch: jnp.sum((w["a"] - 0.1) ** 2) + w["b"] ** 2,
        lambda key, h: {"a": jnp.zeros(2), "b": jnp.ones(())},
        penalty=parts,
        solver=bl.ProximalGradient(),
    )
    assert [inner.solve(jnp.asarray(h), None).status.name for h in (0.5, 0.4)] == ["converged", "infeasible"]
