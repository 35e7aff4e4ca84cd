"""The best of a grid: NaN is never it, and never passed over in silence."""

import math

import numpy as np
import pytest

from bilevel.tasks.grids import highest, lowest
from bilevel.tasks.softmax import best_of_grid


def test_what_is_no_number_is_left_out_and_told():
    with pytest.warns(UserWarning, match="2 of 4 losses on the grid of penalties are no finite numbers"):
        assert lowest([math.nan, 2.0, 1.0, -math.inf], "the grid of penalties") == 2


def test_a_grid_without_a_number_is_refused():
    with pytest.raises(ValueError, match="None of the 2 losses on the grid of penalties is a finite number"):
        lowest([math.nan, np.inf], "the grid of penalties")


@pytest.mark.slow
def test_a_baseline_on_a_broken_hold_out_is_refused():
    inputs, labels = np.array([[1.0], [-1.0]]), np.array([0, 1])
    with pytest.raises(ValueError, match="None of the 2 losses"):
        best_of_grid((inputs, labels), (np.full_like(inputs, np.nan), labels), 2, [0.1, 1.0])


def test_scores_leave_out_what_is_no_number():
    best = highest([0.5, math.nan, math.inf, 0.9, 0.7, -math.inf])
    assert (best.index, best.score, best.left_out) == (3, 0.9, 3)


def test_scores_of_which_none_is_a_number_have_no_best():
    best = highest([math.nan] * 3)
    assert math.isnan(best.score) and best.left_out == 3
