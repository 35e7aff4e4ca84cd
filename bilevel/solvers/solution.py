"""What a solve returns to its caller: the solution with its derivative, and how far it can be trusted."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from bilevel.foundation.readable import amount, counted, shapes
from bilevel.foundation.status import GRADES, Status
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.solvers.curvature import order_of


class Solution(NamedTuple):
    """The result of `InnerProblem.solve`; ``params`` and ``dual`` carry implicit derivatives, the other fields none.

    ``grade`` is an index into `GRADES` and grades these derivatives. "estimate": the rows and faces that hold the
    solution are certain and independent, so the derivative exists and is the one returned, to its accuracy. "residual":
    the derivative is one of several, or that was not examined (`InnerProblem.solve` does not examine it,
    `bl.hypergradient` does).
    """

    params: Params
    dual: PyTree
    residual: jax.Array  # ||F(params)|| / ||F(init)||
    steps: jax.Array
    status: Status
    counts: Counts
    curvature: jax.Array | float = math.nan  # the least on the face, relative to the largest, where negative; else 0
    grade: Any = np.int32(0)

    def __repr__(self) -> str:
        dual = "" if self.dual is None or not jax.tree.leaves(self.dual) else f", dual {shapes(self.dual)}"
        return (
            f"Solution({self.status!r} after {counted(self.steps, 'step')}, residual {amount(self.residual)}; "
            f"params {shapes(self.params)}{dual})"
        )

    @property
    def order(self) -> str:
        """Either "second order", where the curvature was examined, or "first order": ``curvature`` is then NaN and the
        point may be a saddle. Of a batch, the weaker."""
        return order_of(self.curvature)

    @property
    def error_grade(self) -> str:
        """The grade in words; of a batch, the weakest."""
        return GRADES[int(np.min(np.asarray(self.grade)))]
