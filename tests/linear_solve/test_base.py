import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import CG, MINRES, Normal, Nystrom, Operator, as_operator, materialize

MATRIX = np.array([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize("solver", [CG(), MINRES(), Nystrom()])
def test_a_declared_asymmetry_is_refused(solver):
    operator = Operator(lambda x: MATRIX @ x, symmetric=False, owner="the mapping M")
    with pytest.raises(ValueError, match="needs a symmetric system, which the mapping M does not give"):
        solver(operator, jnp.ones(2))


def test_transpose():
    operator = as_operator(lambda x: MATRIX @ x)
    np.testing.assert_allclose(operator.transpose(jnp.ones(2))(jnp.ones(2)), MATRIX.T @ jnp.ones(2))
    assert operator.transpose(jnp.ones(2)).symmetric is None  # as little is known of A' as of A
    symmetric = Operator(lambda x: 2.0 * x, symmetric=True)
    assert symmetric.transpose(jnp.ones(2)) is symmetric


def test_materialize_on_a_pytree():
    example = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    matrix, unravel = materialize(lambda x: {"a": x["a"] + x["b"], "b": 5.0 * x["b"] + x["a"][0]}, example)
    np.testing.assert_array_equal(matrix, [[1, 0, 1], [0, 1, 1], [1, 0, 5]])
    assert unravel(jnp.arange(3.0))["b"] == 2


def test_a_refused_operator_can_be_solved_by_normal_equations():
    solution = Normal()(Operator(lambda x: MATRIX @ x, symmetric=False), jnp.ones(2))
    np.testing.assert_allclose(MATRIX @ solution.value, jnp.ones(2), rtol=1e-9)
