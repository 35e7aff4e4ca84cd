"""What all Krylov methods share: one preconditioner for all right-hand sides, and runs that `refine` drives."""

from __future__ import annotations

import abc
from typing import ClassVar

from bilevel.foundation import vectors as tree
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree, Scalar
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, Preconditioner, Prepared, as_operator
from bilevel.linear_solve.lbfgs_pairs import LBFGSPairs
from bilevel.linear_solve.refine import Method, refine


class Krylov(LinearSolver):
    """An iterative method. A subclass has the fields below and says what one run is."""

    tol: float
    max_steps: int
    preconditioner: Preconditioner

    gain: ClassVar[float] = 0.5  # a further run is made if the last one reduced the true residual by this factor

    @abc.abstractmethod
    def runs(self, operator: Operator, precondition: LinearMap, example: PyTree) -> Method:
        """Runs of the method from zero on right-hand sides with the shapes of ``example``."""

    def misled(self, example: PyTree) -> Code:
        """The code of a solve whose runs believed that they had converged although the true residual says otherwise."""
        return Code.indefinite

    def learns(self, example: PyTree) -> LBFGSPairs | None:
        """Empty slots for the directions that a run keeps; None where it keeps none."""
        return None

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        operator, example = as_operator(operator), tree.as_vector(rhs)
        self.refuse(operator)
        given = preconditioner is not None
        precondition, products = (preconditioner, 0) if given else self.preconditioner.prepare(operator, example)
        runs, otherwise = self.runs(operator, precondition, example), self.misled(example)
        learned = self.learns(example)
        solution = refine(runs, operator, rhs, init, self.tol, self.max_steps, self.gain, otherwise, learned)
        return solution._replace(products=solution.products + products)

    def prepare(self, operator: Operator, example: PyTree) -> Prepared:
        """The solver for several right-hand sides; the preconditioner is set up once."""
        precondition, products = self.preconditioner.prepare(operator, tree.as_vector(example))

        def solve(rhs: PyTree, init: PyTree = None, tol: Scalar | float | None = None) -> LinearSolution:
            return (self if tol is None else self.with_tol(tol))(operator, rhs, init, precondition)

        return Prepared(solve, products)
