import numpy as np
import pytest

from bilevel import prox
from bilevel.projections import linf_ball

POINT = np.random.default_rng(0).normal(size=6)


def test_a_projection_is_the_prox_of_its_indicator_for_any_step():
    operator = prox.from_projection(linf_ball)
    for step in (0.1, 3.0):
        np.testing.assert_array_equal(operator(POINT, step, 0.5), linf_ball(POINT, 0.5))


def test_the_conjugate_of_the_l1_norm_is_the_indicator_of_the_l_inf_ball():
    for step in (0.1, 3.0):
        np.testing.assert_allclose(prox.conjugate(prox.l1)(POINT, step, 0.5), linf_ball(POINT, 0.5), atol=1e-15)


@pytest.mark.parametrize("operator", [prox.l1, prox.ridge, prox.huber, prox.l_inf, prox.group_lasso, prox.log_barrier])
def test_the_conjugate_of_the_conjugate_is_the_function_itself(operator):
    twice = prox.conjugate(prox.conjugate(operator))
    np.testing.assert_allclose(twice(POINT, 0.7, 0.8), operator(POINT, 0.7, 0.8), atol=1e-14)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_conjugate_of_a_ridge_is_a_ridge(weight):
    np.testing.assert_allclose(prox.conjugate(prox.ridge)(POINT, 0.7, weight), prox.ridge(POINT, 0.7, 1 / weight))
