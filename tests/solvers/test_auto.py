"""What bl.Auto() chooses, and that it says why."""

import jax.numpy as jnp
import pytest

import bilevel as bl


def linear():
    return bl.Linear(design=lambda batch: batch, loss=lambda z, w, h, batch: jnp.mean((z - 1.0) ** 2))


def opaque(w, h, batch):
    return jnp.mean((batch @ w - 1.0) ** 2)


def zeros(size):
    return lambda key, h: jnp.zeros(size)


def fixed_point(size):
    return bl.InnerProblem.from_fixed_point(lambda w, h, batch: 0.5 * jnp.cos(w), zeros(size))


CASES = {
    "small smooth": (lambda: bl.InnerProblem(opaque, zeros(20)), 20, "bl.Newton: a smooth loss of 20 unknowns"),
    "large smooth": (lambda: bl.InnerProblem(opaque, zeros(500)), 500, "bl.LBFGS: a smooth loss of 500 unknowns"),
    "few coordinates": (lambda: bl.InnerProblem(linear(), zeros(20), bl.L1(1.0)), 20, "bl.ActiveSetNewton: L1"),
    "many coordinates": (
        lambda: bl.InnerProblem(linear(), zeros(900), bl.L1(1.0)),
        900,
        "bl.WorkingSet: L1 on 900 rows",
    ),
    "opaque": (lambda: bl.InnerProblem(opaque, zeros(900), bl.L1(1.0)), 900, "bl.ActiveSetNewton: L1"),
    "box": (lambda: bl.InnerProblem(linear(), zeros(900), constraint=bl.Box(0.0)), 900, "bl.ActiveSetNewton: Box"),
    "small fixed point": (lambda: fixed_point(10), 10, "bl.Newton: the problem is stated by a residual"),
    "large fixed point": (lambda: fixed_point(100), 100, "bl.Anderson: a fixed point of 100 unknowns"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_choice_and_its_reason(name):
    build, size, sentence = CASES[name]
    assert build().explain(0.0, jnp.ones((3, size))).startswith(sentence)


def test_engines_that_unroll_get_a_solver_that_does():
    inner = bl.InnerProblem(linear(), zeros(900), bl.L1(1.0))
    solver, reason = bl.Auto().choose(inner.at(0.0, jnp.ones((3, 900)), differentiable=True), jnp.zeros(900))
    assert isinstance(solver, bl.ProximalGradient) and "unroll" in reason
