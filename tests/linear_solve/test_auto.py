import jax
import jax.numpy as jnp
import pytest

from bilevel.linear_solve import CG, GMRES, MINRES, AutoLinear, Dense, Operator

LARGE = {"a": jnp.ones((30, 30))}


@pytest.mark.parametrize(
    ("facts", "chosen", "words"),
    [
        ({"symmetric": True, "definite": True}, CG, "symmetric and definite"),
        ({"symmetric": True}, MINRES, "not known to be definite"),
        ({"symmetric": True, "definite": False}, MINRES, "not known to be definite"),
        ({"symmetric": False}, GMRES, "not symmetric"),
        ({}, GMRES, "not known to be symmetric"),
    ],
)
def test_the_choice_of_a_large_system(facts, chosen, words):
    operator, auto = Operator(lambda x: x, **facts), AutoLinear(tol=1e-7)
    assert auto.choose(operator, LARGE) == chosen(tol=1e-7)
    text = auto.explain(operator, LARGE)
    assert text.startswith(chosen.__name__) and words in text and "900 unknowns" in text


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"symmetric": True, "definite": True}, "Cholesky's factorisation is taken"),
        ({"singular": True}, "least norm"),
        ({}, "LU"),
    ],
)
def test_a_small_system_is_dense(facts, words):
    operator = Operator(lambda x: x, **facts)
    assert AutoLinear().choose(operator, jnp.ones(20)) == Dense()
    assert words in AutoLinear().explain(operator, jnp.ones(20))


def test_a_large_system_never_holds_a_matrix():
    operator = Operator(lambda x: 2.0 * x, symmetric=True, definite=True)
    assert "3000,3000" not in str(jax.make_jaxpr(lambda b: AutoLinear()(operator, b).value)(jnp.ones(3000)))
