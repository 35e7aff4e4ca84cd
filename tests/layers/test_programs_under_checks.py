"""Programs under JAX's own checks: no promotion of rank, no leaked tracer, no NaN on the way to a right answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel import cones

BOX = np.concatenate([np.eye(3), -np.eye(3)])
QUADRATIC = (2 * np.eye(3), -np.ones(3), np.ones((1, 3)), np.ones(1), BOX, np.ones(6))
CONE = cones.Product(cones.NonNegative(1), cones.SecondOrder(3))
CONIC = (-np.eye(4)[:, :3], np.ones(4), np.ones(3))
SOLVERS = [bl.Auto(), bl.InteriorPoint(), bl.OperatorSplitting(), bl.OperatorSplitting(factored=0)]


def by_functions(solver: bl.Solver):
    rows = bl.Functional(equality=lambda w, h, batch: jnp.sum(w) - 1, inequality=lambda w, h, batch: w - batch)
    loss = lambda w, h, batch: 0.5 * jnp.sum((w - h) ** 2)
    inner = bl.InnerProblem(loss, lambda key, h: jnp.zeros(3), constraint=rows, solver=solver)
    return lambda h, batch: jnp.sum(inner.solve(h, batch).params)


def cases():
    for solver in SOLVERS:
        name = f"{type(solver).__name__}{'' if solver != SOLVERS[-1] else ' by products'}"
        layer = lambda *data, s=solver: jnp.sum(bl.quadratic_program(*data, solver=s).params)
        yield pytest.param(layer, QUADRATIC, id=f"quadratic {name}")
        if solver in (SOLVERS[1], SOLVERS[2]):
            layer = lambda A, b, c, s=solver: jnp.sum(bl.cone_program(A, b, c, CONE, solver=s).params)
            yield pytest.param(layer, CONIC, id=f"cone {name}")
            yield pytest.param(by_functions(solver), (np.ones(3), np.ones(3)), id=f"functions {name}")


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "data"), list(cases()))
@pytest.mark.parametrize("check", ["rank promotion", "leaks"])
def test_traces_are_clean(check, layer, data):
    """Of a batch of gradients; nothing is compiled."""
    guard = jax.numpy_rank_promotion("raise") if check == "rank promotion" else jax.checking_leaks()
    gradient = jax.grad(layer, argnums=tuple(range(len(data))))
    with guard:
        traced = jax.jit(jax.vmap(gradient)).trace(*(part[None] for part in data))
    assert [shape.shape for shape in jax.tree.leaves(traced.out_info)] == [(1, *part.shape) for part in data]


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "data"), list(cases()))
def test_no_nan_is_made_on_the_way(layer, data):
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(layer)(*data)
    assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(gradient)))


def test_zero_rows_and_degenerate_programs_make_no_nan():
    """A singular Hessian, a zero row, a bound that is infinite, in an eager call."""
    A, G = jnp.array([[1.0, 1.0], [0.0, 0.0]]), jnp.array([[1.0, 0.0]])
    with jax.debug_nans(True):
        data = (
            jnp.diag(jnp.array([1.0, 0.0])),
            jnp.array([-1.0, -0.5]),
            A,
            jnp.array([1.0, 0.0]),
            G,
            jnp.full(1, jnp.inf),
        )
        found = bl.quadratic_program(*data)
    assert_allclose(found.params, [0.5, 0.5], atol=1e-9)
