"""The default: a solver chosen from the structure of the problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax

from bilevel.foundation.settings import changed
from bilevel.foundation.typing import Params
from bilevel.losses.least_squares import LeastSquares
from bilevel.losses.linear import Linear, design_of, is_sparse
from bilevel.solvers.base import Solver, State, is_narrow, settings
from bilevel.solvers.first_order.anderson import Anderson
from bilevel.solvers.first_order.block_coordinate_descent import BlockCoordinateDescent
from bilevel.solvers.first_order.proximal_gradient import ProximalGradient
from bilevel.solvers.first_order.ranking import sizes_for, sizes_on_host
from bilevel.solvers.first_order.rows import has_rows, multiplies_on_host
from bilevel.solvers.first_order.working_set import WorkingSet
from bilevel.solvers.instance import Instance
from bilevel.solvers.outside.clarabel import Clarabel, installed, knows
from bilevel.solvers.programs.interior_point import InteriorPoint
from bilevel.solvers.programs.operator_splitting import OperatorSplitting
from bilevel.solvers.programs.recognised import is_quadratic_program
from bilevel.solvers.programs.sparse_interior_point import SparseInteriorPoint, is_linear
from bilevel.solvers.programs.stated_by_arrays import (
    Answer,
    ConeProgram,
    ProgramSolver,
    is_native,
    is_pivotable,
    pivoting_program,
)
from bilevel.solvers.second_order.active_set_newton import ActiveSetNewton
from bilevel.solvers.second_order.lbfgs import LBFGS
from bilevel.solvers.second_order.levenberg_marquardt import LevenbergMarquardt
from bilevel.solvers.second_order.newton import Newton
from bilevel.solvers.second_order.projected_newton import ProjectedNewton
from bilevel.solvers.second_order.proximal_newton import ProximalNewton, takes
from bilevel.solvers.second_order.quadratic_model import is_quadratic

SMALL = 64  # unknowns up to which Newton's method on a fixed point costs less than many evaluations
MANY_ROWS = 512  # rows beyond which a sparse solution repays the search for its support
MANY_ROWS_CURVED = 4096  # the same bound where each restricted problem takes several Newton models
DENSE = 256  # unknowns up to which a Hessian and its factor cost less than many gradients
FEW = 32  # the same bound where the Hessian changes, because several factors are needed

LARGE_PROGRAM = 4000  # unknowns beyond which the dense matrices of an interior-point method are too large


@settings
@dataclass(frozen=True)
class Auto(Solver, ProgramSolver):
    """Chooses from the statement of the problem: a penalty or a set, a loss or only a residual, and the number of
    unknowns.

    `InnerProblem.explain` names the chosen solver and the reason.
    """

    max_steps: int = 10_000
    tol: float | jax.Array = 1e-10
    takes_functions: ClassVar[bool] = True

    def choose(self, instance: Instance, params: Params) -> tuple[Solver, str]:
        """The solver for this instance, and the reason in a sentence."""
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        solver, reason = _choice(instance, params, size)
        return changed(solver, max_steps=self.max_steps, tol=self.tol), reason

    def solve_program(self, program: ConeProgram, start: Answer | None = None) -> Answer:
        if program.sparse or program.q.size > LARGE_PROGRAM:
            return _large_program_solver(program, self.tol).solve_program(program, start)
        if is_native(program.cone):
            inner = InteriorPoint(tol=self.tol)
            return pivoting_program(program, inner) if is_pivotable(program) else inner.solve_program(program)
        host = Clarabel(tol=self.tol) if installed() else OperatorSplitting(tol=self.tol)
        return host.solve_program(program, start)

    def init(self, instance: Instance, params: Params) -> State:
        return self.choose(instance, params)[0].init(instance, params)

    def step(self, instance: Instance, state: State) -> State:
        return self.choose(instance, state.params)[0].step(instance, state)

    def refresh(self, instance: Instance, state: State) -> State:
        return self.choose(instance, state.params)[0].refresh(instance, state)


def _large_program_solver(program: ConeProgram, tol: float | jax.Array) -> ProgramSolver:
    """A sparse factor on the host where a solver has one for the cones; else products only."""
    if program.sparse and installed() and knows(program.cone):
        return Clarabel(tol=tol)
    return SparseInteriorPoint(tol=tol) if program.sparse and is_linear(program.cone) else OperatorSplitting(tol=tol)


def _choice(instance: Instance, params: Params, size: int) -> tuple[Solver, str]:
    if instance.mapping.primal_dual:
        if size > LARGE_PROGRAM and not instance.differentiable:
            reason = f"{size} unknowns and multipliers, too many for a dense Hessian"
            return OperatorSplitting(), f"the set is stated by functions, {reason}: operator splitting, by products"
        return _by_functions(instance, params)
    if isinstance(instance.loss, LeastSquares) and _by_residuals(instance, params):
        return LevenbergMarquardt(), f"a bl.LeastSquares loss of {size} unknowns: damped Gauss-Newton steps"
    if size <= FEW and _in_small_box(instance, params):
        return ProjectedNewton(), f"a loss of {size} unknowns in a box: Newton steps in a ball, projected"
    if not instance.penalty.smooth:
        return _nonsmooth(instance, params, size)
    if instance.mapping.iterates and not instance.mapping.states_loss and size > SMALL:
        return Anderson(), f"a fixed point of {size} unknowns: Anderson acceleration, which needs no derivatives"
    if not instance.mapping.stationary:
        return Newton(), "the problem is stated by a residual: Newton's method on it"
    if not is_narrow(params) and (size <= FEW or (size <= DENSE and is_quadratic(instance, params))):
        return Newton(), f"a smooth loss of {size} unknowns: Newton's method with a direct factorisation"
    return LBFGS(), f"a smooth loss of {size} unknowns: limited-memory BFGS, which needs gradients only"


def _by_residuals(instance: Instance, params: Params) -> bool:
    """Whether a least-squares problem is free or in a box, and its steps are neither narrow nor differentiated."""
    boxed = instance.penalty.smooth or (instance.penalty.is_set and instance.penalty.separable)
    return boxed and instance.mapping.of_gradient and not instance.differentiable and not is_narrow(params)


def _by_functions(instance: Instance, params: Params) -> tuple[Solver, str]:
    stated = "the set is stated by functions"
    if not instance.differentiable and not is_narrow(params) and is_quadratic_program(instance, params):
        reason = "affine ones of a quadratic loss: solved by its matrices, as bl.quadratic_program does"
        return InteriorPoint(by_matrices=True), f"{stated}, {reason}"
    return InteriorPoint(), f"{stated}: a primal-dual interior-point method"


def _in_small_box(instance: Instance, params: Params) -> bool:
    """Whether the problem is a box around a loss that is not quadratic, and may not be convex, with a matrix as its
    Hessian. Proximal gradient steps, which the other choice begins with, need convexity far from a solution."""
    boxed = instance.penalty.is_set and instance.penalty.separable and instance.mapping.of_gradient
    known = instance.differentiable or is_narrow(params) or isinstance(instance.loss, Linear)
    return boxed and not known and not is_quadratic(instance, params)


def _nonsmooth(instance: Instance, params: Params, size: int) -> tuple[Solver, str]:
    name = type(instance.penalty).__name__
    if instance.differentiable:
        return ProximalGradient(), f"{name} is known by its prox: accelerated proximal gradient, whose steps unroll"
    sparse = not instance.penalty.is_set and isinstance(instance.loss, Linear)
    if sparse and has_rows(instance, params) and params.shape[0] > _many_rows(instance, params):
        return _on_working_sets(instance, params, f"{name} on {params.shape[0]} rows of a bl.Linear loss")
    reason = "Newton's method on the active face after accelerated proximal gradient steps"
    return ActiveSetNewton(), f"{name} is known by its prox, {size} unknowns: {reason}"


def _on_working_sets(instance: Instance, params: Params, where: str) -> tuple[Solver, str]:
    if multiplies_on_host(instance.loss, instance.batch):
        reason = "Newton's method on working sets of any size, whose columns are multiplied on the host"
        return WorkingSet(ActiveSetNewton(), sizes=tuple(sizes_on_host(params.shape[0]))), f"{where}: {reason}"
    inside, how = BlockCoordinateDescent(), "coordinate descent"
    if takes(instance, params):
        inside, how = ProximalNewton(), "proximal Newton steps"
    design = design_of(instance.loss, instance.batch)
    whole = ActiveSetNewton() if is_sparse(design) else BlockCoordinateDescent()  # which needs a dense matrix
    sizes = tuple(sizes_for(design.shape[0], params.shape[0]))
    reason = f"{how} on working sets, whose columns are gathered"
    return WorkingSet(inside, sizes=sizes, whole=whole), f"{where}: {reason}"


def _many_rows(instance: Instance, params: Params) -> int:
    return MANY_ROWS if is_quadratic(instance, params) else MANY_ROWS_CURVED
