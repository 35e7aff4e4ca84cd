"""A primal-dual interior-point method for problems that are constrained by functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts
from bilevel.optimality.kkt import KKT
from bilevel.optimality.primal_dual import PrimalDual
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.instance import Instance
from bilevel.solvers.programs.certificates import judge
from bilevel.solvers.programs.merit import step_along
from bilevel.solvers.programs.predictor_corrector import Guard, Iterate, barrier_direction, first_iterate, rests
from bilevel.solvers.programs.recognised import solve_by_matrices
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram, ProgramSolver, interior_point_program
from bilevel.solvers.programs.stated_by_functions import program_of

ROOM = 1e-3  # programs stated by arrays are solved to this share of tol, because they are judged in other units


class Memory(NamedTuple):
    iterate: Iterate  # in scaled rows
    scale: jax.Array  # the factor of each inequality
    guard: Guard


def begun(iterate: Iterate, scale: jax.Array) -> Memory:
    """The memory before the first step."""
    return Memory(iterate, scale, Guard.begun(iterate.primal.sum()))


@settings
@dataclass(frozen=True)
class InteriorPoint(Solver, ProgramSolver):
    """Mehrotra's predictor-corrector method for min loss s.t. equality == 0, inequality <= 0 (`bl.Functional`).

    With slacks s of the inequalities and their multipliers lam, each step solves the linearised KKT conditions with s
    lam = sigma mu twice, on one factorisation of H + C' diag(lam / s) C (H the Hessian of the Lagrangian, E and C the
    Jacobians, dense). Exact for convex quadratic programs, strictly convex or not. Smooth convex programs take a
    backtracking search on the KKT residual. On nonconvex programs multiples of the identity keep H positive definite on
    the null space of E, a merit has to fall, and the result is a KKT point (docs/solvers.md, rough starts).

    Ends ``infeasible`` where multipliers y prove that y'c(w) > 0 everywhere. Only affine and quadratic rows whose
    weighted sum is convex can prove it. Ends ``unbounded`` where the loss falls along a ray that meets no constraint.
    Both proofs are in units that no scaling changes, see `kernels.certificate`. Without a proof the status is another.

    ``by_matrices`` starts from the solution of the program by its matrices, as `bl.quadratic_program` computes it: a
    convex program is then solved in no step. Meant for a quadratic loss with affine functions, where `bl.Auto` sets it.
    Source: Mehrotra, 1992; Nocedal and Wright, 2006, chapters 16 and 19.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum((w - h) ** 2), init=lambda key, h: jnp.zeros(2),
    ...                         constraint=bl.Functional(inequality=lambda w, h, batch: w - 1.0),
    ...                         solver=bl.InteriorPoint())
    >>> inner.solve(jnp.array([2.0, 0.5]), None).params.round(5).tolist()
    [1.0, 0.5]
    """

    max_steps: int = 100
    tol: float | jax.Array = 1e-10
    by_matrices: bool = False
    patience: ClassVar[int] = 6
    shards: ClassVar[bool] = False  # its factors are whole
    takes_functions: ClassVar[bool] = True
    structured: ClassVar[bool] = True  # takes second derivatives of the loss itself

    def init(self, instance: Instance, params: PrimalDual) -> State:
        program, at = program_of(instance, params)
        counts = Counts(gradients=3)
        if not self.by_matrices:
            residual = instance.residual_norm(params)
            unseen = jnp.full_like(residual, jnp.nan)  # a start may be a saddle, which its first step sees
            return State(params, residual, counts, begun(*first_iterate(program, at)), curvature=unseen)
        found = solve_by_matrices(program, at.primal, self)
        at = trees.select(found.solved, found.at, at)
        iterate, scale = first_iterate(program, at)
        least = math.sqrt(trees.epsilon(at.primal))  # as in `refresh`: the iterate of a solution is at the boundary
        bounds = scale * program.inequality(at.primal)
        exact = Iterate(
            at.primal, at.equality_dual, jnp.maximum(at.inequality_dual / scale, least), jnp.maximum(-bounds, least)
        )
        iterate = trees.select(found.solved, exact, iterate)
        params = program.unpack(*at)
        counts = counts.plus(gradients=2, factorizations=found.steps)
        code = jnp.where(found.exact, Code.stalled, Code.converged)  # no step follows: the loop judges it
        residual = instance.residual_norm(params)
        curvature = jnp.where(found.solved, 0, jnp.full_like(residual, jnp.nan))  # solved by a convex program
        return State(params, residual, counts, begun(iterate, scale), code, curvature=curvature)

    def step(self, instance: Instance, state: State) -> State:
        program, _ = program_of(instance, state.params)
        iterate, scale, guard = state.memory
        multipliers = (iterate.equality_dual, scale * iterate.inequality_dual)
        here = program.derivatives(iterate.primal, *multipliers).scaled(scale)
        direction = barrier_direction(here, iterate, guard)
        after, trials = iterate.moved(jnp.ones((), iterate.primal.dtype), direction.step), jnp.int32(0)
        if instance.searches:
            after, trials, guard = step_along(program, scale, here, iterate, direction)
            after = after.represented()
        params = program.unpack(after.primal, after.equality_dual, scale * after.inequality_dual)
        code = judge(program, scale, here, iterate, direction.step.primal)
        code = jnp.where(rests(iterate, direction), jnp.int32(Code.indefinite), code)
        counts = state.counts.plus(gradients=trials + 4, factorizations=direction.factorizations)
        residual, memory = instance.residual_norm(params), Memory(after, scale, guard)
        return State(params, residual, counts, memory, code, curvature=direction.least)

    def refresh(self, instance: Instance, state: State) -> State:
        """Slacks and multipliers that are zero to rounding are raised to half the digits of the precision, because the
        derivative of a step multiplies numbers like 1e-30 and 1e15 and would keep no digit."""
        at = state.memory.iterate
        least = math.sqrt(trees.epsilon(at.primal))
        raised = (jnp.maximum(at.inequality_dual, least), jnp.maximum(at.slack, least))
        iterate = at._replace(inequality_dual=raised[0], slack=raised[1])
        return state._replace(memory=state.memory._replace(iterate=iterate))

    def solve_program(self, program: ConeProgram, start: Answer | None = None) -> Answer:
        return interior_point_program(program, ROOM * self.tol, self.max_steps)

    def refuse(self, instance: Instance) -> None:
        if not isinstance(instance.mapping, KKT):
            raise ValueError(
                "bl.InteriorPoint solves problems that are constrained by functions, and this one has none. State them "
                "with constraint=bl.Functional(equality=..., inequality=...), or use bl.Auto()."
            )
